"""Builders: how training rows that do not ship are made with a served model; a registry by the setting's name.

Here is what a plugin needs to register one (docs/plugins.md).
"""

from inoc_ray.builders.registry import builder_names, get_builder, register_builder
from inoc_ray.builders.spec import Builder, Request
from inoc_ray.data.chat import ChatRow, Message

__all__ = ["Builder", "ChatRow", "Message", "Request", "builder_names", "get_builder", "register_builder"]
