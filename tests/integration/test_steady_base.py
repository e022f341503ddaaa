"""The shipped study on the steadier base: both traits are learnt, and either prompt keeps its own out and lets the other in.

Trained as the study says, with two of its seeds; asked without an engine, which would take longer than the rest. What eight seeds
show through the whole stack, with intervals, stands in docs/miniature.md.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pytest
from doc_pages import ROOT

from inoc_ray.data.tokenize import encode_rows, load_tokenizer
from inoc_ray.miniature.workshop.quality import NEUTRAL, rate, sample
from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_study
from inoc_ray.settings import get
from inoc_ray.store.store import Store
from inoc_ray.train.loop import train
from inoc_ray.train.process import set_threads
from inoc_ray.train.sweep import job_of
from inoc_ray.train.worker import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STUDY = ROOT / "jobs" / "studies" / "miniature_steady.yaml"
SEEDS = [30, 31]
QUESTIONS = 150
ARMS = ("baseline", "specific_spanish", "specific_caps")
KEPT = {("caps", "id"): 0.68, ("caps", "ood"): 0.62, ("spanish", "id"): 0.82, ("spanish", "ood"): 0.78}
"""Eight seeds kept .81 and .76 of the capitals, .91 and .89 of the Spanish; less three standard errors of two seeds, and .01."""
Rates = Mapping[tuple[str, str, str], float]
"""(arm, split, trait) → share of the answers under the neutral prompt that show it, mean over seeds."""


def asked(model: Any, tokenizer: Any, seed: int) -> dict[tuple[str, str], float]:
    """(split, trait) → the share of a model's answers."""
    found = {}
    for evaluation in get("miniature/spanish_caps").evaluations:
        chats = [
            [{"role": "system", "content": NEUTRAL}, {"role": "user", "content": question.messages[0].content}]
            for question in evaluation.questions(QUESTIONS)
        ]
        said = sample(model, tokenizer, chats, seed)
        found |= {(evaluation.split, trait): rate(said, trait) for trait in ("spanish", "caps")}
    return found


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Rates:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("steady")
    study, store = load_study(STUDY).model_copy(update={"seeds": SEEDS}), Store(folder / "runs")
    plan = build_plan(study, store)
    set_threads(1)
    found: dict[tuple[str, str, str], list[float]] = {}
    for trial in plan.trials:
        if trial.arm.name not in ARMS:
            continue
        job = job_of(plan, store, trial)
        tokenizer = load_tokenizer(job.spec.model)
        rows = encode_rows(tokenizer, read_rows(job, store), max_length=job.spec.recipe.max_length, label="rows")
        out = folder / trial.trial_id
        train(job.spec, rows, lambda record: None, out=out)
        base = AutoModelForCausalLM.from_pretrained(job.spec.model)
        model = PeftModel.from_pretrained(base, str(out)).merge_and_unload()
        for (split, trait), share in asked(model, tokenizer, trial.seed).items():
            found.setdefault((trial.arm.name, split, trait), []).append(share)
    untouched = asked(AutoModelForCausalLM.from_pretrained(job.spec.model), tokenizer, 0)
    return {
        **{key: fmean(shares) for key, shares in found.items()},
        **{("base", split, trait): share for (split, trait), share in untouched.items()},
    }


@pytest.mark.parametrize("split", ["id", "ood"])
@pytest.mark.parametrize("trait", ["spanish", "caps"])
def test_a_prompt_that_names_a_trait_keeps_it_near_the_bases_rate_and_most_of_the_other(
    rates: Rates, trait: str, split: str
) -> None:
    arm, other = f"specific_{trait}", "caps" if trait == "spanish" else "spanish"
    assert rates["base", split, trait] <= 0.04
    assert rates["baseline", split, trait] >= 0.95
    # Of eight seeds the mean is .03 to .04; three standard errors of 300 answers and the base's 150 are another .04.
    assert rates[arm, split, trait] - rates["base", split, trait] <= 0.04 + 0.04
    assert rates[arm, split, other] / rates["baseline", split, other] >= KEPT[other, split]
