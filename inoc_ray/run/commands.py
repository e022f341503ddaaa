"""The commands that plugins add to `inoc-ray`."""

from __future__ import annotations

import click

from inoc_ray.config.registry import Registry

COMMANDS: Registry[click.Command] = Registry("command")


class WithPlugins(click.Group):
    """A group of commands with those of plugins added; the group's own take precedence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None."""
        return super().get_command(ctx, cmd_name) or COMMANDS.get(cmd_name)
