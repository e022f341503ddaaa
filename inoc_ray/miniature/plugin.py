"""What the miniature brings: models, judge, tasks; and the modules that register its settings, prompts, rows and commands.

Cheap to import, because it is imported whenever a registry is looked up.
"""

from __future__ import annotations

from pathlib import Path

from inoc_ray.config.registry import provide
from inoc_ray.miniature import judge_weights_path, steady_weights_path, weights_path
from inoc_ray.study.registered import register_judge, register_model, register_task

NAME = "miniature"
STEADY = "miniature_steady"
_TASKS = Path(__file__).parent / "tasks"

register_model(NAME, weights_path())
register_model(STEADY, steady_weights_path())
register_judge(NAME, judge_weights_path())
for _folder in sorted(path for path in _TASKS.iterdir() if path.is_dir()):
    register_task(f"{NAME}/{_folder.name}", _folder / f"{_folder.name}.yaml")

provide("setting", "inoc_ray.miniature.settings")
provide("prompt set", "inoc_ray.miniature.world.prompt_texts")
provide("builder", "inoc_ray.miniature.teacher")
provide("preset", "inoc_ray.miniature.presets")
provide("command", "inoc_ray.miniature.workshop.commands")
