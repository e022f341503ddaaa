"""The memory of a fine-tune by stage and width, against DeepSpeed's own estimators."""

from pathlib import Path

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from published_configs import config_folder

from inoc_ray.sizing.model_size import model_size
from inoc_ray.sizing.training import GIB, Sharding, TrainingMemory, model_states, training_memory
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.resources import TrialResources
from inoc_ray.train.spec import LoopSpec

FULL = Recipe.model_validate({"learning_rate": 1e-5, "steps": 1, "method": "full"})
NAMES = ("Qwen2.5-7B", "Qwen2.5-32B", "Llama-3.1-8B")


def sharding(stage: int, ranks: int, **changes: object) -> Sharding:
    """bf16 without offload. One sub-group, as DeepSpeed's rule for stage 3 has it."""
    values = {
        "stage": stage,
        "world_size": ranks,
        "gradient_bytes": 2,
        "reduce_bucket": 0,
        "buckets": 1,
        "live_parameters": 0,
        "sub_group": 1 << 62,
        "offload_optimizer": False,
        "offload_parameters": False,
        "hpz": 1,
    }
    return Sharding(**values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranks", [1, 4, 8, 16, 64])
def test_zero_2_has_the_states_of_deepspeeds_estimator(tmp_path, name, ranks):
    size = model_size(config_folder(tmp_path, name), FULL)
    found = model_states(size, sharding(2, ranks))
    _, theirs = estimate_zero2_model_states_mem_needs(size.parameters, ranks, 1, cpu_offload=False)
    assert found.weights + found.states + found.accumulated + found.step == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranks", [2, 4, 8, 16, 64])
def test_zero_3_has_the_states_of_deepspeeds_estimator(tmp_path, name, ranks):
    """Their rule has weights, fp32 masters, moments and gradients, and one gathered layer with its gradient.

    It leaves out the 16-bit gradients that DeepSpeed keeps until the step; ours are on top.
    """
    size = model_size(config_folder(tmp_path, name), FULL)
    found = model_states(size, sharding(3, ranks))
    _, theirs, _ = estimate_zero3_model_states_mem_needs(
        size.parameters, size.largest, ranks, 1, cpu_offload=False, cpu_offload_params=False
    )
    ours = found.weights + found.states + found.step + found.gathered
    assert ours == pytest.approx(theirs, rel=0.05)
    assert found.accumulated == 2 * size.parameters // ranks


def memory(folder: Path, method: str, **resources: object) -> TrainingMemory:
    recipe = Recipe.model_validate({"learning_rate": 1e-5, "steps": 1, "method": method, "lora": {"rank": 32}})
    given = {"gpus_per_worker": 1, "micro_batch_size": 1, **resources}
    spec = LoopSpec(model=str(folder), seed=0, recipe=recipe, resources=TrialResources.model_validate(given))
    return training_memory(spec, spec.resources.workers, tokens=2048, targets=1024)


def test_what_is_known_of_7b_and_32b(tmp_path):
    small, large = config_folder(tmp_path, "Qwen2.5-7B"), config_folder(tmp_path, "Qwen2.5-32B")
    lora = memory(small, "lora")
    assert lora.weights == pytest.approx(2 * 7.70e9, rel=0.01)
    assert 17 < lora.total / GIB < 22
    # 16 bytes a parameter and rank: 524 GB over 8 ranks, and what is gathered and computed.
    assert 524e9 / 8 < memory(large, "full", workers=8, zero_stage=3).total < 1.3 * 524e9 / 8
    assert memory(large, "full", zero_stage=3).total > 16 * 32.7e9


@pytest.mark.parametrize("method", ["lora", "full"])
def test_each_stage_takes_less_than_the_one_before(tmp_path, method):
    folder = config_folder(tmp_path, "Qwen2.5-7B")
    totals = [memory(folder, method, workers=8, zero_stage=stage).total for stage in (1, 2, 3)]
    assert totals == sorted(totals, reverse=True)


def test_checkpointing_and_fewer_tokens_take_less(tmp_path):
    folder = config_folder(tmp_path, "Qwen2.5-7B")
    plain = memory(folder, "lora", gradient_checkpointing=False)
    assert plain.total - memory(folder, "lora").total > 0.9 * 5.5 * 2**20 * 2048
