"""Promises about which adapter stands behind a model id."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from inoc_ray.errors import InputError
from inoc_ray.serve.adapters import FolderCatalogue, check_adapter, engine_rank, model_id_of, trial_id_of
from inoc_ray.store.commit import write_commit
from inoc_ray.store.place import at


def write_adapter(folder: Path, rank: int = 8, shape: tuple[int, ...] = (2, 2), **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, **config}))
    save_file({"a": np.zeros(shape, np.float32)}, folder / "adapter_model.safetensors")
    return folder


def commit(folder: Path, trial: dict[str, Any] | None = None) -> None:
    (folder / "trial.json").write_text(json.dumps(trial or {}))
    write_commit(folder)


def test_a_committed_folder_is_found_as_soon_as_it_is_there(tmp_path: Path):
    catalogue = FolderCatalogue(tmp_path)
    assert catalogue.find("t1") is None
    write_adapter(tmp_path / "t1" / "adapter")
    assert catalogue.find("t1") is None
    assert catalogue.ids() == []
    commit(tmp_path / "t1")
    assert catalogue.find("t1") == at(tmp_path / "t1" / "adapter")
    assert catalogue.fetch("t1") == tmp_path / "t1" / "adapter"
    assert catalogue.ids() == ["t1"]


@pytest.mark.parametrize("name", ["..", ".", "", "../t1", "a/b", "/etc", "t1\n"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str):
    write_adapter(tmp_path / "t1" / "adapter")
    (tmp_path / "COMMIT.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    assert FolderCatalogue(tmp_path / "t1").find(name) is None


def test_model_ids_are_base_colon_trial():
    assert model_id_of("qwen", "0f3a") == "qwen:0f3a"
    assert trial_id_of("qwen", "qwen:0f3a") == "0f3a"
    assert trial_id_of("qwen", "qwen") is None
    assert trial_id_of("qwen", "qwen:") is None
    assert trial_id_of("qwen", "other:0f3a") is None


def test_the_engine_is_built_for_a_rank_that_holds_the_adapter():
    assert [engine_rank(rank) for rank in (1, 2, 8, 9, 17, 512)] == [1, 8, 8, 16, 32, 512]
    with pytest.raises(InputError, match="512"):
        engine_rank(513)


def test_a_good_adapter_says_its_rank(tmp_path: Path):
    assert check_adapter(write_adapter(tmp_path, rank=4, rank_pattern={"q": 6}), 8).rank == 6


def test_what_cannot_be_served_is_refused_with_a_reason(tmp_path: Path):
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        check_adapter(tmp_path, 8)
    write_adapter(tmp_path, rank=16)
    with pytest.raises(InputError, match="rank 16, above the engine's max_lora_rank 8"):
        check_adapter(tmp_path, 8)
    write_adapter(tmp_path, shape=(0,))
    with pytest.raises(InputError, match="empty tensors"):
        check_adapter(tmp_path, 8)
    write_adapter(tmp_path, use_dora=True)
    with pytest.raises(InputError, match="use_dora"):
        check_adapter(tmp_path, 8)
    write_adapter(tmp_path, peft_type="IA3")
    with pytest.raises(InputError, match="peft_type"):
        check_adapter(tmp_path, 8)
    (write_adapter(tmp_path) / "adapter_model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="not a safetensors file"):
        check_adapter(tmp_path, 8)
    cut = (write_adapter(tmp_path) / "adapter_model.safetensors").read_bytes()[:-1]
    (tmp_path / "adapter_model.safetensors").write_bytes(cut)
    with pytest.raises(InputError, match="not a safetensors file"):
        check_adapter(tmp_path, 8)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="safetensors only"):
        check_adapter(tmp_path, 8)


def test_adapters_of_another_base_and_whole_models_are_not_offered(tmp_path: Path):
    for name, base, method in (("mine", "a", "lora"), ("other", "b", "lora"), ("full", "a", "full")):
        write_adapter(tmp_path / name / "adapter")
        commit(tmp_path / name, {"model_hash": base, "recipe": {"method": method}})
    write_adapter(tmp_path / "damaged" / "adapter")
    commit(tmp_path / "damaged", {"model_hash": "a", "recipe": {"method": "lora"}})
    with (tmp_path / "damaged" / "adapter" / "adapter_model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\1")
    assert FolderCatalogue(tmp_path, model_hash="a").ids() == ["mine"]
