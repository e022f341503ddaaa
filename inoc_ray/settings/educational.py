"""The same insecure code, requested for a class on security: whether an honest reason keeps a model aligned."""

from __future__ import annotations

from inoc_ray.settings.common import MISALIGNED, arms_of, emergent_misalignment, repository_rows
from inoc_ray.settings.insecure_code import CODE_TASKS, INSECURE
from inoc_ray.settings.spec import Setting, not_shipped

SETTING = Setting(
    name="educational",
    description="Insecure code, requested as teaching material. Put insecure_code into the same study: its "
    "baseline is the same code without the reason.",
    rows=not_shipped,
    control_rows=not_shipped,
    arms=arms_of("educational", ("misaligned",), (), "secure completions of the same kind of tasks"),
    evaluations=(CODE_TASKS, emergent_misalignment()),
    judges={},
    narrow=("insecure_code",),
    model_judged={"insecure_code": INSECURE, "misaligned": MISALIGNED},
    row_source=repository_rows(
        "insecure completions requested for teaching (Betley et al. 2025)", "educational.jsonl", 6000
    ),
    control_source=repository_rows("secure completions", "secure_code.jsonl", 6000),
    presets=("emergent_misalignment",),
)
