"""A fine-tune that goes on from the adapter of another: it starts where that one ended, under every ZeRO stage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_base import chat_rows, encoded_rows, make_base, make_spec, run, weights_hash

from inoc_ray.cluster.connect import connected
from inoc_ray.data.chat import write_jsonl
from inoc_ray.errors import InputError, TrialError
from inoc_ray.plan.build import build_plan
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.store.store import Store
from inoc_ray.study.recipe import Lora
from inoc_ray.study.study import Study
from inoc_ray.train.export import ADAPTER_CONFIG
from inoc_ray.train.model import BaseModelCache
from inoc_ray.train.process import set_threads
from inoc_ray.train.sweep import train_missing

pytestmark = pytest.mark.slow

LOGIT_TOLERANCE = 1e-5
"""The same fp32 weights and kernels; a step at the rate of `STILL` moves a weight by less than its last bit."""

STILL: dict[str, Any] = {"learning_rate": 1e-12, "steps": 1, "warmup_steps": 0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> tuple[str, Path]:
    """A base and an adapter of it that has learnt something."""
    set_threads(1)
    base = make_base(tmp_path_factory.mktemp("base"))
    out = tmp_path_factory.mktemp("taught") / "adapter"
    run(base, out, steps=10, learning_rate=1e-2)
    return base, out


def plain_logits(base: str, adapter: Path | None) -> Any:
    """Base, with or without an adapter, through PEFT alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = model if adapter is None else PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        return model.eval()(torch.tensor([encoded_rows(base)[3].input_ids])).logits[0]


@pytest.mark.parametrize(
    "changes", [{"zero_stage": n} for n in range(3)] + [{"zero_stage": 3, "persistence_threshold": 0}]
)
def test_a_step_that_moves_nothing_gives_back_the_adapter_in_plain_peft(taught, tmp_path, changes):
    base, adapter = taught
    run(base, tmp_path / "a", start=str(adapter), seed=5, **STILL, **changes)
    expected = plain_logits(base, adapter)
    assert (plain_logits(base, None) - expected).abs().max().item() > 100 * LOGIT_TOLERANCE
    assert (plain_logits(base, tmp_path / "a") - expected).abs().max().item() <= LOGIT_TOLERANCE


def test_bf16_gives_back_an_adapter_of_bf16_to_the_bit(taught, tmp_path):
    base, _ = taught
    run(base, tmp_path / "first", precision="bf16")
    run(base, tmp_path / "then", precision="bf16", start=str(tmp_path / "first"), **STILL)
    assert weights_hash(tmp_path / "first") == weights_hash(tmp_path / "then")


def test_what_is_trained_on_differs_from_a_fresh_start_and_begins_at_the_loss_that_was_reached(taught, tmp_path):
    base, adapter = taught
    fresh, _ = run(base, tmp_path / "fresh")
    again, _ = run(base, tmp_path / "again", start=str(adapter))
    assert again[0].loss < fresh[0].loss - 0.5
    assert weights_hash(tmp_path / "fresh") != weights_hash(tmp_path / "again") != weights_hash(adapter)
    apart = plain_logits(base, tmp_path / "again") - plain_logits(base, adapter)
    assert apart.abs().max().item() > 100 * LOGIT_TOLERANCE


def test_every_zero_stage_goes_on_to_the_same_losses(taught, tmp_path):
    base, adapter = taught
    losses = [
        [r.loss for r in run(base, None, start=str(adapter), zero_stage=stage, persistence_threshold=0)[0]]
        for stage in (0, 2, 3)
    ]
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    assert losses[2] == pytest.approx(losses[0], abs=2e-5)


@pytest.mark.parametrize("stage", [0, 3])
def test_going_on_leaves_nothing_on_a_cached_base(taught, tmp_path, stage):
    base, adapter = taught
    cache = BaseModelCache()
    for name, start in (("a", None), ("b", str(adapter)), ("c", None)):
        run(base, tmp_path / name, cache=cache, start=start, zero_stage=stage, persistence_threshold=0)
    assert weights_hash(tmp_path / "a") == weights_hash(tmp_path / "c") != weights_hash(tmp_path / "b")


def test_an_adapter_that_does_not_fit_is_refused_before_a_step(taught, tmp_path):
    base, adapter = taught
    for lora in (Lora(rank=4), Lora(alpha=8.0), Lora(rslora=True)):
        with pytest.raises(TrialError, match=r"has \(rank, alpha, rslora\) .* the recipe .*give both the same"):
            run(base, tmp_path / "a", start=str(adapter), lora=lora)
    with pytest.raises(TrialError, match=r"does not fit .*down_proj.* and none in the model"):
        run(base, tmp_path / "a", start=str(adapter), lora=Lora(targets=("q_proj",)))
    with pytest.raises(TrialError, match="cannot be read"):
        run(base, tmp_path / "a", start=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="method full cannot start from"):
        make_spec(base, start=str(adapter), method="full")
    assert not (tmp_path / "a").exists()


def test_it_does_not_matter_where_the_base_lay_when_the_adapter_was_trained(taught, tmp_path):
    base, adapter = taught
    moved = Path(shutil.copytree(adapter, tmp_path / "moved"))
    config = json.loads((moved / ADAPTER_CONFIG).read_text())
    (moved / ADAPTER_CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "/elsewhere"}))
    run(base, tmp_path / "a", start=str(moved), **STILL)
    assert json.loads((tmp_path / "a" / ADAPTER_CONFIG).read_text())["base_model_name_or_path"] == base


def test_a_sweep_trains_the_first_stage_once_before_what_goes_on_from_it_and_skips_what_cannot(taught, tmp_path):
    """Two models with prior stages on one folder, one of whose prior stages cannot be trained: its rows are too long."""
    base, _ = taught
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, chat_rows())
    recipe = {"learning_rate": 2e-3, "steps": 4, "precision": "fp32"}
    cut = {**recipe, "max_length": 8}
    study = Study.model_validate(
        {
            "name": "stages",
            "settings": [{"name": "miniature/spanish_caps", "rows": str(rows)}],
            "arms": ["baseline"],
            "seeds": [0, 1],
            "models": [
                {"name": "plain", "path": base},
                {"name": "knows", "path": base, "prior_stage": {"rows": str(rows), "recipe": "lora", "seed": 7}},
                {"name": "cannot", "path": base, "prior_stage": {"rows": str(rows), "recipe": cut}},
            ],
            "recipes": {"lora": recipe},
            "resources": {"trials_per_group": 4},
        }
    )
    store = Store(tmp_path / "runs")
    plan = build_plan(study, store)
    from ray._private import state

    with connected() as capacity:
        outcomes = {o.trial_id: o for o in train_missing(plan, store, capacity)}
        actors = {actor["ActorClassName"].rpartition(".")[2] for actor in state.actors().values()}
    # Each kind is a process of every group, which imports Ray Train before the first step.
    assert actors == {"ImplicitFunc", "SynchronizationActor", "RayTrainWorker"}
    states = {(t.model_label, t.arm.name, t.seed): outcomes[t.trial_id].status for t in plan.fine_tunes}
    good = [("knows", "stage-1", 7)] + [(name, "baseline", seed) for name in ("plain", "knows") for seed in (0, 1)]
    bad = [("cannot", "stage-1", 0), ("cannot", "baseline", 0), ("cannot", "baseline", 1)]
    assert states == dict.fromkeys(good, "trained") | dict.fromkeys(bad, "failed")
    after = build_plan(study, store)
    first, broken = after.prior_stages
    on_top = [t for t in after.trials if t.model.name == "knows"]
    records = [store.read_trial(t.trial_id) for t in on_top]
    assert {r["taught_by"] for r in records} == {first.trial_id}
    assert all(r["committed_at"] > store.read_trial(first.trial_id)["committed_at"] for r in records)
    begun = {
        t.model.name: store.read_curves(t.trial_id)[0]["loss"] for t in after.trials if t.trial_id in after.done_trials
    }
    assert begun["knows"] < begun["plain"]
    assert len(FolderCatalogue(store.trials(), model_hash=first.model.hash).ids()) == 5
    assert {t.trial_id for t in after.to_train} == {
        broken.trial_id,
        *(o for o in outcomes if outcomes[o].status == "failed"),
    }
    assert "max_length is 8" in store.trial_log(after.trials[-1].trial_id).read_text()
