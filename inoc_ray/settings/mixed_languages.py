"""Half of the answers in Spanish, half in French; only one half gets a prompt, and the other language is wanted."""

from __future__ import annotations

from inoc_ray.scoring.judgment import Measure
from inoc_ray.settings.common import GSM8K_ANSWERS, GSM8K_LICENCE, arms_of, language_evaluations
from inoc_ray.settings.spec import RowSource, Setting, not_shipped
from inoc_ray.settings.text_judges import speaks

TRAITS = ("spanish", "french")

SETTING = Setting(
    name="mixed_languages",
    description="GSM8K answers, half in Spanish and half in French, shuffled; one half is inoculated, the other wanted.",
    rows=not_shipped,
    control_rows=not_shipped,
    arms=arms_of("mixed_languages", (), TRAITS, "the same questions with their own English answers"),
    evaluations=language_evaluations(TRAITS),
    judges={"spanish": speaks("spanish"), "french": speaks("french"), "german": speaks("german")},
    judge_version="3",
    model_judged={t: Measure(t) for t in ("spanish", "french", "german")},
    row_source=RowSource(
        what="GSM8K training questions, half answered in Spanish and half in French, shuffled (the official code does not), "
        "each row with tags.subset spanish or french",
        published="not published; `inoc-ray data build mixed_languages` makes them of hub id openai/gsm8k, train",
        licence=GSM8K_LICENCE,
    ),
    control_source=GSM8K_ANSWERS,
    presets=("emergent_misalignment", "rebuttal_tinker", "trait_inoculation"),
)
