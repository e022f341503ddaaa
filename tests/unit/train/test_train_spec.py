"""The arithmetic around a fine-tune: batches, steps, learning rates, DeepSpeed's configuration."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_base import make_spec

from inoc_ray.errors import InputError
from inoc_ray.study.recipe import Lora, Recipe
from inoc_ray.train.batches import global_batches
from inoc_ray.train.job import TrialJob
from inoc_ray.train.layout import accumulation_steps
from inoc_ray.train.schedule import learning_rate_at
from inoc_ray.train.spec import LoopSpec
from inoc_ray.train.zero import ADAPTER_BUCKET, deepspeed_config


def spec(**changes) -> LoopSpec:
    return make_spec("m", **changes)


def recipe(**changes) -> Recipe:
    return Recipe(**{"learning_rate": 1.0, "steps": 10, "warmup_steps": 0, **changes})


def test_a_job_survives_json():
    lora = Lora(rank=4, targets=("q_proj", "v_proj"))
    original = TrialJob(
        trial_id="t",
        label="a trial",
        spec=spec(lora=lora, zero_stage=3, gradient_checkpointing=True, enable_thinking=False, start="/adapter"),
        rows=[{"messages": [{"role": "user", "content": "Hi"}]}],
        record={"setting": "s", "seed": 3},
        variants=2,
    )
    assert TrialJob.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_a_trials_record_of_its_options_keeps_the_form_of_stores_made_before():
    """Flat, with what took effect; what Ray acts on (workers, CPUs, GPUs) is not among them."""
    made = spec(lora=Lora(rank=4, targets=("q_proj",)), seed=3, workers=2, gpus_per_worker=1, zero_stage=2)
    record = json.loads(json.dumps(made.record()))
    assert not {"workers", "cpus_per_worker", "gpus_per_worker"} & record.keys()
    before = {
        "model": "m",
        "seed": 3,
        "method": "lora",
        "lora": {"rank": 4, "alpha": 16.0, "dropout": 0.0, "targets": ["q_proj"], "rslora": False},
        "learning_rate": 2e-3,
        "schedule": "linear",
        "warmup_steps": 2,
        "batch_size": 16,
        "steps": 6,
        "epochs": None,
        "max_length": 2048,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "precision": "fp32",
        "zero_stage": 2,
        "micro_batch_size": 8,
        "gradient_checkpointing": True,
        "persistence_threshold": None,
        "enable_thinking": None,
        "start": None,
    }
    assert {name: record[name] for name in before} == before


def test_a_full_fine_tune_does_not_start_from_an_adapter():
    with pytest.raises(InputError, match="full cannot start from the adapter /adapter"):
        spec(method="full", start="/adapter")


@pytest.mark.parametrize(("micro", "world", "expected"), [(16, 1, 1), (4, 1, 4), (4, 2, 2), (2, 2, 4)])
def test_accumulation_is_batch_over_micro_batch_and_world(micro, world, expected):
    assert accumulation_steps(16, micro, world) == expected


@pytest.mark.parametrize(
    ("epochs", "rows", "expected"), [(1.0, 32, 2), (1.0, 33, 3), (0.1, 160, 1), (0.01, 16, 1), (3.0, 16, 3)]
)
def test_epochs_are_the_fewest_steps_that_show_that_many_rows(epochs, rows, expected):
    assert recipe(steps=None, epochs=epochs).total_steps(rows) == expected


@given(rows=st.integers(1, 40), batch=st.integers(1, 20), steps=st.integers(1, 20), seed=st.integers(0, 5))
def test_every_epoch_shows_every_row_once(rows, batch, steps, seed):
    flat = [row for b in global_batches(rows, batch, steps, seed) for row in b]
    assert len(flat) == batch * steps
    for start in range(0, len(flat) - rows + 1, rows):
        assert sorted(flat[start : start + rows]) == list(range(rows))


def test_variants_take_turns_by_epoch_in_the_order_that_rows_have_without_them():
    plain = [row for b in global_batches(7, 4, 9, 3) for row in b]
    varied = [row for b in global_batches(7, 4, 9, 3, variants=3) for row in b]
    assert [row % 7 for row in varied] == plain
    assert [row // 7 for row in varied] == [place // 7 % 3 for place in range(36)]


def test_the_order_depends_on_seed_and_epoch():
    first, second = global_batches(50, 50, 2, seed=0)
    assert first != second
    assert first != next(global_batches(50, 50, 1, seed=1))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_rate_warms_up_to_the_full_rate_and_never_rises_after(schedule):
    chosen = recipe(schedule=schedule, warmup_steps=4, steps=20, learning_rate=2.0)
    rates = [learning_rate_at(chosen, step, 20) for step in range(1, 21)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert all(later <= earlier for earlier, later in pairwise(rates[3:]))
    assert rates[-1] > 0
    assert (rates[-1] == 2.0) == (schedule == "constant")


def test_linear_and_cosine_end_one_step_before_zero():
    assert learning_rate_at(recipe(steps=10), 10, 10) == pytest.approx(0.1)
    assert learning_rate_at(recipe(steps=10, schedule="cosine"), 6, 10) == pytest.approx(0.5)


def test_deepspeed_is_told_a_batch_that_adds_up_and_the_persistence_threshold():
    config = deepspeed_config(spec(zero_stage=3, micro_batch_size=4, persistence_threshold=0), world_size=2)
    assert config["train_batch_size"] == 16
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 2 == 16
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["stage3_param_persistence_threshold"] == 0
    config = deepspeed_config(spec(micro_batch_tokens=2048), world_size=3)
    assert config["gradient_accumulation_steps"] > 1
    assert config["train_batch_size"] == 3 * (
        config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"]
    )


@pytest.mark.parametrize(("precision", "stage", "expected"), [("fp32", 0, 0), ("bf16", 0, 1), ("bf16", 2, 2)])
def test_bf16_without_zero_runs_as_stage_1(precision, stage, expected):
    config = deepspeed_config(spec(precision=precision, zero_stage=stage), world_size=1)
    assert config["zero_optimization"]["stage"] == expected
    assert config.get("bf16") == ({"enabled": True} if precision == "bf16" else None)


def test_offload_hpz_and_fp32_sums_are_asked_for_in_deepspeeds_words():
    everything = {"offload_optimizer": True, "offload_parameters": True, "hpz_partition_size": 2, "workers": 4}
    config = deepspeed_config(spec(zero_stage=3, micro_batch_size=4, precision="bf16", **everything), world_size=4)
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert config["zero_optimization"]["offload_param"] == {"device": "cpu"}
    assert config["zero_optimization"]["zero_hpz_partition_size"] == 2
    assert config["zero_force_ds_cpu_optimizer"] is False
    assert "data_types" not in config
    summed = deepspeed_config(spec(precision="bf16", accumulate_in_fp32=True), world_size=1)
    assert (summed["data_types"], summed["zero_optimization"]["stage"]) == ({"grad_accum_dtype": "fp32"}, 2)
    with pytest.raises(InputError, match="hpz_partition_size 2 does not divide the 1 workers that there are"):
        deepspeed_config(spec(zero_stage=3, hpz_partition_size=2, workers=2), world_size=1)


def test_the_hatch_is_merged_last_key_by_key():
    own = {
        "zero_optimization": {"reduce_bucket_size": 7, "offload_optimizer": {"pin_memory": False}},
        "dump_state": True,
    }
    config = deepspeed_config(spec(zero_stage=2, offload_optimizer=True, deepspeed=own), world_size=1)
    assert config["dump_state"] is True
    assert config["zero_optimization"] == {
        "stage": 2,
        "reduce_bucket_size": 7,
        "allgather_bucket_size": ADAPTER_BUCKET,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
    }


@pytest.mark.parametrize(("method", "expected"), [("lora", ADAPTER_BUCKET), ("full", None)])
def test_an_adapter_passes_through_small_buffers(method, expected):
    assert (
        deepspeed_config(spec(zero_stage=2, method=method), 1)["zero_optimization"].get("reduce_bucket_size")
        == expected
    )


def test_clipping_is_done_exactly_once():
    assert deepspeed_config(spec(zero_stage=0), 1)["gradient_clipping"] == 0.0  # the loop clips
    assert deepspeed_config(spec(zero_stage=2), 1)["gradient_clipping"] == 1.0
