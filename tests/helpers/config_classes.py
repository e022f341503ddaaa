"""The configuration classes of the package, as they are registered when everything is imported."""

from inoc_ray.config.base import Config


def config_classes() -> list[type[Config]]:
    """Every configuration class of the package."""
    out: list[type[Config]] = []
    waiting = [Config]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            waiting.append(cls)
            if cls.__module__.startswith("inoc_ray."):
                out.append(cls)
    return sorted(out, key=lambda c: c.__name__)
