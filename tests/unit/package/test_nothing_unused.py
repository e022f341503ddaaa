"""What the package defines it uses: something that only a test calls was lost on the way into the product."""

import ast
from pathlib import Path

import inoc_ray

PACKAGE = Path(inoc_ray.__file__).parent
NAMED_ELSEWHERE = {"prefer_available", "StudyWorker"}
"""By their paths: in a cluster file for Ray, and in an argument of vLLM's."""
OFFERED = {"write_jsonl", "register_classifier", "in_training"}
"""For users' own code."""
PLAIN = {"collate", "decided", "shares"}
"""The plain way of what the package does faster, to hold it against."""


def uses(tree: ast.AST) -> tuple[set[str], set[str]]:
    """The names that a module takes of others, and those that it mentions itself."""
    nodes = list(ast.walk(tree))
    taken = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    taken |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return taken, {node.id for node in nodes if isinstance(node, ast.Name)}


def test_every_public_function_and_class_is_used_somewhere():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    used = {path: uses(tree) for path, tree in trees.items()}
    taken = set().union(*(names for names, _ in used.values()))
    unused = {
        node.name: str(path.relative_to(PACKAGE))
        for path, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        # A decorator may register it: commands, rules.
        and not any(isinstance(d, ast.Call) for d in node.decorator_list)
        and not node.name.startswith("_")
        and node.name not in taken | used[path][1] | NAMED_ELSEWHERE | OFFERED | PLAIN
    }
    assert unused == {}
