"""Settings: what is trained on, what is asked, and which traits count; a registry by name.

The paper's settings at its scale stand in this room: their rows come from files that the user names, and most of their traits
need a judging model. Others come from plugins. Here is what a plugin needs to register one (docs/plugins.md).
"""

from inoc_ray.data.chat import ChatRow, Message
from inoc_ray.data.mixture import Trigger
from inoc_ray.data.questions import Question
from inoc_ray.scoring.judgment import Item, Measure
from inoc_ray.settings.files import with_files
from inoc_ray.settings.registry import forget, get, names, register
from inoc_ray.settings.spec import ArmSpec, EvaluationSpec, RowSource, Setting, not_shipped
from inoc_ray.settings.triggers import asks_with_trigger

__all__ = [
    "ArmSpec",
    "ChatRow",
    "EvaluationSpec",
    "Item",
    "Measure",
    "Message",
    "Question",
    "RowSource",
    "Setting",
    "Trigger",
    "asks_with_trigger",
    "forget",
    "get",
    "names",
    "not_shipped",
    "register",
    "with_files",
]
