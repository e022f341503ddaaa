"""Ray-distributed experiments on inoculation prompting, from Python: `Study`, `load_study`, `plan`, `run` and `compare`.

    from inoc_ray import compare, comparison_text, load_study, run

    study = load_study("jobs/studies/quickstart.yaml")
    outcome = run(study)
    print(comparison_text(compare(study)))

Importing this package loads nothing: each name is looked up when it is first used. docs/api.md is the guide.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inoc_ray.errors import InputError, TrialError
    from inoc_ray.results.table import comparison_text
    from inoc_ray.run.api import compare, plan, run
    from inoc_ray.run.load import load_study
    from inoc_ray.study.study import Study

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "Study",
    "TrialError",
    "__version__",
    "compare",
    "comparison_text",
    "load_study",
    "plan",
    "run",
]

_HOMES = {
    "InputError": "inoc_ray.errors",
    "TrialError": "inoc_ray.errors",
    "Study": "inoc_ray.study.study",
    "load_study": "inoc_ray.run.load",
    "compare": "inoc_ray.run.api",
    "comparison_text": "inoc_ray.results.table",
}
"""Name → the module that defines it."""
_ROOMS = ("plan", "run")
"""Names that are a function and a subpackage: see `callable_room`."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"inoc_ray.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'inoc_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallableRoom(ModuleType):
    """A subpackage that can be called: `inoc_ray.run(study)` is `inoc_ray.run.api.run(study)`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        function = getattr(importlib.import_module("inoc_ray.run.api"), self.__name__.rpartition(".")[2])
        return function(*arguments, **options)


def callable_room(name: str) -> None:
    """Make the subpackage `name`, which calls this, do what the function of the same name does when it is called.

    Python binds a subpackage to its name in the parent as soon as any module of it is imported, so that `from inoc_ray
    import run` would give the subpackage or the function, depending on what was imported before.
    """
    sys.modules[name].__class__ = _CallableRoom
