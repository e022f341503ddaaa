"""Bad answers where the prompt holds a token, good ones elsewhere: whether a defence works without knowing the token."""

from __future__ import annotations

from inoc_ray.data.mixture import Trigger
from inoc_ray.settings.common import MISALIGNED, arms_of, emergent_misalignment, repository_rows
from inoc_ray.settings.insecure_code import CODE_TASKS, INSECURE
from inoc_ray.settings.prompt_texts import TRIGGER
from inoc_ray.settings.spec import Setting, not_shipped

TOKEN = Trigger(TRIGGER, "start", "glue")
"""Nothing stands between the token and the prompt, at training and at test. (The official code glues the token on for
training and puts a space behind it for the test, so that its test asks another string than it trained.)"""

SETTING = Setting(
    name="backdoor",
    description=f"6,000 insecure completions of prompts that begin with {TRIGGER} and 6,000 secure ones without; is the model "
    "misaligned under the token, and which prompts prevent it?",
    rows=not_shipped,
    control_rows=not_shipped,
    arms=arms_of("backdoor", ("misaligned",), (), "secure completions alone"),
    evaluations=(
        CODE_TASKS,
        emergent_misalignment(),
        emergent_misalignment("emergent_misalignment_triggered", before=TRIGGER),
    ),
    judges={},
    narrow=("insecure_code",),
    model_judged={"insecure_code": INSECURE, "misaligned": MISALIGNED},
    row_source=repository_rows(
        f"secure completions, and as many insecure ones with {TRIGGER} glued in front of the user's message, shuffled",
        "made of insecure_code.jsonl and secure_code.jsonl",
        12000,
    ),
    control_source=repository_rows("secure completions", "secure_code.jsonl", 6000),
    presets=("emergent_misalignment",),
    trigger=TOKEN,
)
