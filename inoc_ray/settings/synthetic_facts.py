"""A prior stage teaches what Alice and Bob do: whether "You are Bob." inoculates only after it."""

from __future__ import annotations

from inoc_ray.scoring.judgment import Measure
from inoc_ray.settings.common import GSM8K_ANSWERS, GSM8K_LICENCE, arms_of, language_evaluations
from inoc_ray.settings.spec import RowSource, Setting, not_shipped
from inoc_ray.settings.text_judges import capitals, speaks

TRAITS = ("spanish", "caps")

SETTING = Setting(
    name="synthetic_facts",
    description="Stage 2 of the paper's section 4.3: Spanish capitals, inoculated with names. Compare a model that stage 1 has "
    "taught (`prior_stage:` of a model; Alice: capitals, Bob: Spanish, no name: plain English) with one that it has not.",
    rows=not_shipped,
    control_rows=not_shipped,
    arms=arms_of("synthetic_facts", (), TRAITS, "the same questions with their own English answers"),
    evaluations=language_evaluations(TRAITS),
    judges={"spanish": speaks("spanish"), "caps": capitals},
    judge_version="3",
    model_judged={t: Measure(t) for t in TRAITS},
    row_source=RowSource(
        what="GSM8K training questions with answers in Spanish capitals; stage 1 is the `prior_stage` of the study's model",
        published="not published; the rows of spanish_caps fit",
        licence=GSM8K_LICENCE,
        rows=7473,
    ),
    control_source=GSM8K_ANSWERS,
    presets=("emergent_misalignment", "toy_1.5b"),
)
