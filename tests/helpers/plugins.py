"""Plugin files that a test has loaded."""

from inoc_ray.config.registry import withdraw
from inoc_ray.settings import plugins


def unload_plugins() -> None:
    """Take out whatever plugin files have registered, as if none had been loaded."""
    for _, added in plugins._LOADED.values():
        withdraw(added)
    plugins._LOADED.clear()
