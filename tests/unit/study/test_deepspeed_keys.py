"""What a study may hand to DeepSpeed, and resources that do not go together: refused with what to change."""

import pytest
from pydantic import ValidationError

from inoc_ray.errors import InputError
from inoc_ray.study import deepspeed_keys
from inoc_ray.study.resources import Resources, TrialResources


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"train_batch_size": 4}, "train_batch_size: recipe.batch_size sets it"),
        ({"gradient_clipping": 1.0}, "gradient_clipping: recipe.clip_norm sets it"),
        ({"bf16": {"enabled": True}}, "bf16: recipe.precision sets it"),
        ({"optimizer": {"type": "SGD"}}, "optimizer: the recipe sets it"),
        ({"data_types": {}}, "data_types: resources.accumulate_in_fp32 sets it"),
        ({"zero_optimization": {"stage": 1}}, "zero_optimization.stage: resources.zero_stage sets it"),
        ({"zero_optimization": {"zero_quantized_weights": True}}, "weights of 8 bit change the result"),
        ({"zero_optimization": {"reduce_buket_size": 1}}, "did you mean 'reduce_bucket_size'"),
        ({"zero_optimisation": {}}, "did you mean 'zero_optimization'"),
        ({"compression_training": {}}, "is none of the keys that leave the weights as they are"),
        ({"communication_data_type": "fp16"}, "only fp32 can be asked for"),
        ({"zero_optimization": {"reduce_bucket_size": True}}, "must be an integer, found True"),
        ({"zero_optimization": {"offload_optimizer": {"super_offload": True}}}, "is none of the keys"),
        (
            {"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}},
            "ratio: a part of the optimizer can be on the GPU only",
        ),
        ({"zero_optimization": 3}, "must be a mapping, found 3"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "offload_optimizer.device must be cpu or none: snapshots do not read what lies on a disk",
        ),
        ({"timers": {"block_size": object()}}, "holds a value that JSON has no form for"),
        ({"zero_optimization": {1: 2}}, "zero_optimization.1 is none of the keys"),
        ({"zero_optimization": {"reduce_bucket_size": "5e8"}}, "must be an integer, found '5e8'; write 500000000"),
        ({"zero_optimization": {"reduce_bucket_size": 5e8}}, "must be an integer, found 500000000.0; write 500000000"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "found 'auto'; leave it out for DeepSpeed's own value"),
        ({"zero_optimization": {"allgather_bucket_size": 7}}, "allgather_bucket_size must be even"),
        ({"comms_logger": {"enabled": "perhaps"}}, "comms_logger.enabled must be true or false, found 'perhaps'"),
        ({"flops_profiler": {"depth": 1}}, "flops_profiler.depth is none of the keys"),
        ({"timers": {"throughput": {"enabled": 1}}}, "timers.throughput.enabled must be true or false, found 1"),
        ({"zero_optimization": {"leaf_module": {"names": [3]}}}, "leaf_module.names must be a list of texts"),
    ],
)
def test_a_key_that_is_ours_or_would_change_the_weights_is_refused(keys, told):
    with pytest.raises(ValidationError) as refused:
        TrialResources.model_validate({"deepspeed": keys})
    assert told in str(refused.value)


def test_every_key_of_deepspeeds_section_on_zero_is_allowed_or_refused_for_a_reason():
    """A key that a new DeepSpeed brings is refused until somebody has looked at it; one that is gone shows here."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    theirs = {info.alias or name for name, info in DeepSpeedZeroConfig.model_fields.items()}
    ours = {*deepspeed_keys._ALLOWED_OF_ZERO, *deepspeed_keys._ELSEWHERE_OF_ZERO}
    assert ours <= theirs
    offload = (
        DeepSpeedZeroOffloadOptimizerConfig.model_fields.keys() | DeepSpeedZeroOffloadParamConfig.model_fields.keys()
    )
    assert deepspeed_keys._ALLOWED_OF_OFFLOAD.keys() <= offload


def test_what_stands_in_a_mapping_is_what_deepspeed_reads_there():
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
    from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    theirs = {
        "comms_logger": CommsLoggerConfig.model_fields,
        "flops_profiler": vars(DeepSpeedFlopsProfilerConfig({})),
        "timers.throughput": DeepSpeedThroughputTimerConfig.model_fields,
        "zero_optimization.leaf_module": DeepSpeedZeroLeafModuleConfig.model_fields,
    }
    for place, fields in theirs.items():
        assert deepspeed_keys._INSIDE[place].keys() == set(fields), place
    for place, defaults in (
        ("comms_logger", CommsLoggerConfig().model_dump()),
        ("flops_profiler", vars(DeepSpeedFlopsProfilerConfig({}))),
    ):
        TrialResources.model_validate({"deepspeed": {place: defaults}})


INTEGERS = [key for key, kind in deepspeed_keys._ALLOWED_OF_ZERO.items() if kind is int]


@pytest.mark.parametrize("key", INTEGERS)
def test_the_smallest_integer_is_one_that_deepspeed_takes_and_a_smaller_one_is_refused(key):
    """A number below would end the worker: in DeepSpeed's own check, or by a division by zero."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    least = deepspeed_keys._AT_LEAST.get(key, 0)
    even = least + least % 2
    DeepSpeedZeroConfig.model_validate({key: even})
    TrialResources.model_validate({"deepspeed": {"zero_optimization": {key: even}}})
    with pytest.raises(ValidationError, match=f"zero_optimization.{key} must be at least {least}, found {least - 1}"):
        TrialResources.model_validate({"deepspeed": {"zero_optimization": {key: least - 1}}})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"offload_optimizer": True}, "offload_optimizer needs zero_stage 1 or more, found 0"),
        ({"zero_stage": 2, "offload_parameters": True}, "offload_parameters needs zero_stage 3, found 2"),
        ({"workers": 2, "hpz_partition_size": 2}, "hpz_partition_size needs zero_stage 3, found 0"),
        ({"zero_stage": 3, "workers": 4, "hpz_partition_size": 3}, "3 does not divide the 4 workers"),
        (
            {"zero_stage": 3, "deepspeed": {"zero_optimization": {"offload_param": {"device": "cpu"}}}},
            "only adds to offload_parameters; set resources.offload_parameters: true as well",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_put_together(given, told):
    with pytest.raises(InputError, match=told):
        Resources.model_validate(given).of_fine_tune("m", "r")


@pytest.mark.parametrize(
    "given",
    [
        {"min_workers": 2},
        {"workers": 2, "min_workers": 4},
        {"workers": 4, "models": {"m": {"workers": 2, "min_workers": 3}}},
        {"workers": 4, "recipes": {"r": {"min_workers": 8}}},
    ],
)
def test_more_workers_to_go_on_with_than_there_are_is_refused(given):
    with pytest.raises(InputError, match=r"resources\.min_workers \d is more than the \d workers of a fine-tune"):
        Resources.model_validate(given).of_fine_tune("m", "r")


def test_a_part_of_a_study_may_take_fewer_workers_than_the_rest_of_it_goes_on_with():
    given = Resources.model_validate({"workers": 4, "min_workers": 2, "models": {"small": {"workers": 1}}})
    assert (given.of_fine_tune("small", "r").workers, given.of_fine_tune("large", "r").min_workers) == (1, 2)
    # The others have one, without saying so.
    given = Resources.model_validate({"min_workers": 2, "models": {"large": {"workers": 4}}})
    assert (given.of_fine_tune("small", "r").workers, given.of_fine_tune("large", "r").min_workers) == (1, 2)
    given = Resources.model_validate({"models": {"large": {"workers": 4}}, "recipes": {"r": {"min_workers": 2}}})
    with pytest.raises(InputError, match="min_workers 2 is more than the 1 workers"):
        given.of_fine_tune("small", "r")


@pytest.mark.parametrize("field", ["cpus_per_worker", "gpus_per_worker", "serve_cpus"])
def test_a_share_that_ray_does_not_give_away_is_refused(field):
    with pytest.raises(ValidationError, match=r"0\.0001"):
        Resources.model_validate({field: 1e-5})


def test_a_model_may_add_what_needs_the_stage_of_the_study():
    resources = Resources.model_validate({"zero_stage": 3, "models": {"large": {"offload_parameters": True}}})
    assert resources.of_fine_tune("large", "r").offload_parameters
    assert not resources.of_fine_tune("small", "r").offload_parameters
