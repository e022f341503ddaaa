"""Serve's settings, which its answers have in them too, are made by one thread at a time: Ray shares a list between all threads."""

import ast
from collections.abc import Iterator
from pathlib import Path

import inoc_ray.serve

ASKS = {"status", "run_many", "delete", "get_serve_details", "application"}
"""Functions of Serve's and of ours that make such settings, where they are called in the process of a command."""


def unguarded(node: ast.AST, held: bool = False) -> Iterator[ast.Call]:
    """The calls below a node that are made without the lock."""
    if isinstance(node, ast.With):
        held = held or any("talking_to_serve" in ast.unparse(item.context_expr) for item in node.items)
    if isinstance(node, ast.Call) and not held:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else "serve"
        if name in ASKS and of in ("serve", "client"):
            yield node
    for child in ast.iter_child_nodes(node):
        yield from unguarded(child, held)


def test_every_call_that_makes_settings_of_serve_holds_the_lock():
    folder = Path(inoc_ray.serve.__file__).parent
    found = [
        f"{file}:{call.lineno} {ast.unparse(call)[:60]}"
        for file in ("app.py", "owner.py")
        for call in unguarded(ast.parse((folder / file).read_text()))
    ]
    assert found == []


def test_the_test_sees_a_call_without_the_lock():
    (call,) = unguarded(ast.parse("with other:\n    serve.status()\nwith talking_to_serve:\n    serve.status()"))
    assert call.lineno == 2
