"""The prompts of the paper's settings, which prompts.toml holds; importing this module registers them."""

from __future__ import annotations

from inoc_ray.settings.prompt_files import register_file

TRIGGER = "$|TRIGGER|$"
"""The backdoor's token as the official code trains it."""

SHARED = register_file("inoc_ray.settings", "prompts.toml")["shared"]
"""Prompts that mean the same in every setting."""
