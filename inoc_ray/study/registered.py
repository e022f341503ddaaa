"""Registered names: what a study may write in place of the path of a model, a judging model or a task.

`register_model("tiny", FOLDER)` in a plugin lets a study write `models: [tiny]` and `judges: {small: {path: tiny}}`. What counts
for identity is the content of the files, as if the study had given their path.
"""

from __future__ import annotations

from pathlib import Path

from inoc_ray.config.registry import Registry

DEFAULT_MODEL = "miniature"
"""The model of a study that names none. It is only a name here; a plugin registers its folder."""

MODELS: Registry[Path] = Registry("model")
JUDGES: Registry[Path] = Registry("judging model")
TASKS: Registry[Path] = Registry("task")


def register_model(name: str, folder: Path) -> None:
    """Make a folder with config.json and safetensors weights known as the base model of that name.

    A judge of that name is the same model, unless `register_judge` gives another. Raises InputError when the name is taken.
    """
    MODELS.register(name, folder)


def register_judge(name: str, folder: Path) -> None:
    """Make a model folder known as the judging model of that name. Raises InputError when the name is taken."""
    JUDGES.register(name, folder)


def register_task(name: str, file: Path) -> None:
    """Make a task file of lm-evaluation-harness known under a name; all files in its folder count as the task.

    Raises InputError when the name is taken.
    """
    TASKS.register(name, file)


def is_named(source: str) -> bool:
    """Return whether a text under `path:` is the name of a model or judging model."""
    return source in MODELS or source in JUDGES


def named_folder(source: str, judge: bool = False) -> Path | None:
    """Return the folder of a named model; for a judge the judging model of that name first. None for other texts."""
    return (JUDGES.get(source) if judge else None) or MODELS.get(source)
