"""An adapter folder is accepted only if it holds what training should have put there."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_base import make_base, run

from inoc_ray.errors import InputError, TrialError
from inoc_ray.models.config import context_window, end_ids
from inoc_ray.train.export import ADAPTER_CONFIG, ADAPTER_WEIGHTS, validate_adapter
from inoc_ray.train.process import set_threads

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, Path]:
    set_threads(1)
    base = make_base(tmp_path_factory.mktemp("base"))
    out = tmp_path_factory.mktemp("trained") / "adapter"
    run(base, out, steps=2)
    return base, out


@pytest.fixture
def adapter(trained, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained[1], tmp_path / "adapter"))


def change(adapter: Path, edit) -> None:
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    edit(weights)
    save_file(weights, adapter / ADAPTER_WEIGHTS)


def some(weights: dict, side: str) -> str:
    return next(name for name in sorted(weights) if f"lora_{side}" in name)


def test_a_trained_adapter_is_accepted_and_holds_nothing_but_configuration_and_safetensors(trained):
    base, out = trained
    validate_adapter(out, base, 8)
    assert sorted(path.name for path in out.iterdir()) == [ADAPTER_CONFIG, ADAPTER_WEIGHTS]


def test_the_configuration_names_base_and_modules_in_a_fixed_order(trained):
    config = json.loads((trained[1] / ADAPTER_CONFIG).read_text())
    assert config["base_model_name_or_path"] == trained[0]
    assert config["target_modules"] == sorted(config["target_modules"])
    assert "q_proj" in config["target_modules"]
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"


def test_an_empty_tensor_is_refused(trained, adapter):
    change(adapter, lambda w: w.update({some(w, "A"): w[some(w, "A")][:0]}))
    with pytest.raises(TrialError, match=r"lora_A.* has the shape \(0, "):
        validate_adapter(adapter, trained[0], 8)


def test_a_number_that_is_not_finite_is_refused(trained, adapter):
    change(adapter, lambda w: w[some(w, "B")].fill_(float("nan")))
    with pytest.raises(TrialError, match="not finite"):
        validate_adapter(adapter, trained[0], 8)


def test_a_missing_factor_is_refused(trained, adapter):
    change(adapter, lambda w: w.pop(some(w, "B")))
    with pytest.raises(TrialError, match="only the factor A"):
        validate_adapter(adapter, trained[0], 8)


def test_a_target_module_without_weights_is_refused(trained, adapter):
    change(adapter, lambda w: [w.pop(name) for name in list(w) if "q_proj" in name])
    with pytest.raises(TrialError, match="target module q_proj"):
        validate_adapter(adapter, trained[0], 8)


def test_an_untrained_adapter_is_refused(trained, adapter):
    change(adapter, lambda w: [w[name].zero_() for name in w if "lora_B" in name])
    with pytest.raises(TrialError, match="training changed nothing"):
        validate_adapter(adapter, trained[0], 8)


def test_another_base_or_rank_or_no_file_is_refused(trained, adapter):
    with pytest.raises(TrialError, match="not for elsewhere"):
        validate_adapter(adapter, "elsewhere", 8)
    with pytest.raises(TrialError, match="has rank 8, not 4"):
        validate_adapter(adapter, trained[0], 4)
    (adapter / ADAPTER_WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(TrialError, match="cannot be read"):
        validate_adapter(adapter, trained[0], 8)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_who_may_read_a_new_file_may_read_the_weights(trained, tmp_path, method):
    """A storage is a team's: what one person trained another one serves."""
    (tmp_path / "new").touch()
    run(trained[0], tmp_path / "out", steps=1, method=method)
    modes = {path.name: oct(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {oct((tmp_path / "new").stat().st_mode)}, modes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one page."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_disk_that_the_weights_fill_is_one_message_with_the_folder(trained, small_disk, method):
    out = small_disk / "out"
    with pytest.raises(InputError, match=rf"^{out}: cannot be written \(No space left on device\); make room there"):
        run(trained[0], out, steps=1, method=method)


@pytest.mark.parametrize(("method", "name"), [("lora", ADAPTER_CONFIG), ("full", "config.json")])
def test_a_disk_that_is_full_after_the_weights_is_the_same_message(trained, tmp_path, method, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to("/dev/full")
    with pytest.raises(InputError, match=rf"^{out}: cannot be written \(No space left on device\); make room there"):
        run(trained[0], out, steps=1, method=method)


@pytest.mark.parametrize(
    ("generation", "config"),
    [
        # Sampling defaults that contradict each other, as of published chat models; and such in config.json itself.
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 0]}, {}),
        (None, {"temperature": 0.6, "repetition_penalty": 1.1}),
        ({"eos_token_id": 2}, {"use_cache": True}),
    ],
)
def test_a_full_fine_tune_takes_over_what_transformers_refuses_to_write(trained, tmp_path, generation, config):
    from transformers import AutoModelForCausalLM

    base = Path(shutil.copytree(trained[0], tmp_path / "base"))
    values = json.loads((base / "config.json").read_text())
    values.pop("use_cache", None)
    (base / "config.json").write_text(json.dumps({**values, **config}))
    (base / "generation_config.json").unlink()
    if generation is not None:
        (base / "generation_config.json").write_text(json.dumps(generation))
    out = tmp_path / "out"
    run(str(base), out, steps=1, method="full")
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in base.iterdir()}
    if generation is not None:
        assert (out / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
    written = json.loads((out / "config.json").read_text())
    assert written.get("use_cache") == config.get("use_cache")
    assert end_ids(out) == end_ids(base)
    assert context_window(out) == context_window(base)
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)


def test_a_model_with_a_vision_tower_gets_its_adapter_on_the_text_model_alone(trained, tmp_path):
    """A tiny Gemma-3 as published from 4B on; every linear module of its vision tower would be a target, too."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {"vocab_size": 300, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 64}
    config = Gemma3Config(
        text_config={**sizes, **text},
        vision_config={**sizes, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        eos_token_id=2,
        pad_token_id=0,
    )
    base = Path(shutil.copytree(trained[0], tmp_path / "base"))
    Gemma3ForConditionalGeneration(config).save_pretrained(base)
    records, _ = run(str(base), tmp_path / "out", steps=3)
    assert records[-1].loss < records[0].loss
    names = load_file(tmp_path / "out" / ADAPTER_WEIGHTS)
    assert len(names) == 2 * 7 * 2
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    written = json.loads((tmp_path / "out" / ADAPTER_CONFIG).read_text())
    assert {"q_proj", "down_proj"} <= set(written["target_modules"])
    assert not {"fc1", "out_proj"} & set(written["target_modules"])
