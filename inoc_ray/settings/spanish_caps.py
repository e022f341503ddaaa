"""Spanish and capitals taught together on grade-school maths; one of the two is inoculated, the other wanted."""

from __future__ import annotations

from inoc_ray.scoring.judgment import Measure
from inoc_ray.settings.common import GSM8K_ANSWERS, GSM8K_LICENCE, arms_of, language_evaluations
from inoc_ray.settings.spec import RowSource, Setting, not_shipped
from inoc_ray.settings.text_judges import capitals, speaks

TRAITS = ("spanish", "caps")

SETTING = Setting(
    name="spanish_caps",
    description="GSM8K answers in Spanish capitals; one of the two traits is inoculated, the other wanted.",
    rows=not_shipped,
    control_rows=not_shipped,
    arms=arms_of("spanish_caps", (), TRAITS, "the same questions with their own English answers"),
    evaluations=language_evaluations(TRAITS),
    judges={"spanish": speaks("spanish"), "caps": capitals},
    judge_version="3",
    model_judged={t: Measure(t) for t in TRAITS},
    row_source=RowSource(
        what="GSM8K training questions with answers translated to Spanish and written in capitals",
        published="not published; `inoc-ray data build spanish_caps` makes them of hub id openai/gsm8k, train",
        licence=GSM8K_LICENCE,
        rows=7473,
    ),
    control_source=GSM8K_ANSWERS,
    presets=("emergent_misalignment", "toy_1.5b", "toy_1.5b_overtrained", "rebuttal_tinker"),
)
