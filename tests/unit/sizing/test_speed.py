"""The plan's FLOPs are those that a trial's record counts (`hfu`)."""

import pytest
from published_configs import config_folder

from inoc_ray.sizing.model_size import configuration, model_size, on_meta
from inoc_ray.sizing.speed import StepWork, step_flops
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.resources import TrialResources
from inoc_ray.train.flops import StepFlops, Work
from inoc_ray.train.spec import LoopSpec


@pytest.mark.parametrize("name", ["Qwen2.5-7B", "Qwen2.5-0.5B"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_step_has_the_flops_of_the_trials_record(tmp_path, name, method, checkpointed):
    folder = config_folder(tmp_path, name)
    recipe = Recipe.model_validate({"learning_rate": 1e-4, "steps": 1, "method": method})
    resources = TrialResources(gradient_checkpointing=checkpointed)
    spec = LoopSpec(model=str(folder), seed=0, recipe=recipe, resources=resources)
    counted = StepFlops(on_meta(configuration(folder), recipe, "bf16"), spec)
    theirs = counted.hardware(Work(tokens=4096, squares=4096 * 512, targets=1024), chunked=True)
    work = StepWork(tokens=4096, squares=4096 * 512, targets=1024, passes=1)
    assert step_flops(model_size(folder, recipe), work, checkpointed=checkpointed) == pytest.approx(theirs, rel=1e-6)
