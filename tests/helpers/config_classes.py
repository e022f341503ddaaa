"""The configuration classes of the package, with every module imported that may define one."""

import importlib
from pathlib import Path

import inoc_ray
from inoc_ray.config.base import Config

PACKAGE = Path(inoc_ray.__file__).parent


def config_classes() -> list[type[Config]]:
    """Every configuration class of the package."""
    for path in PACKAGE.rglob("*.py"):
        if "inoc_ray.config.base import" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    import_rules()
    out: list[type[Config]] = []
    waiting = [Config]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            waiting.append(cls)
            if cls.__module__.startswith("inoc_ray."):
                out.append(cls)
    return sorted(out, key=lambda c: c.__name__)


def import_rules() -> None:
    """Import the modules of rules, whose base class is a configuration class under another name."""
    for name in ("rule_combinations", "rules"):
        importlib.import_module(f"inoc_ray.scoring.{name}")
