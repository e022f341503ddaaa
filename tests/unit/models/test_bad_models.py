"""A model folder that is damaged ends a run with one message, before anything starts or is written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.errors import InputError
from inoc_ray.miniature import weights_path
from inoc_ray.plan.build import build_plan
from inoc_ray.run.preflight import preflight
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

Change = Callable[[Path], Any]


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def nan(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("q_proj.weight"))
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, path, metadata={"format": "pt"})


def pickle_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def written(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


BAD: dict[str, Change] = {
    "truncated": truncated,
    "empty": written("model.safetensors", ""),
    "garbage": written("model.safetensors", "not weights at all" * 100),
    "NaN": nan,
    "pickle alone": pickle_alone,
    "own code": config(model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}),
    "another vocabulary": config(vocab_size=7),
    "config is a list": written("config.json", "[]"),
    "config is no JSON": written("config.json", "{"),
    "no window": written("config.json", '{"model_type": "qwen2"}'),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "an empty tokenizer": written("tokenizer.json", "{}"),
    "a tokenizer that is no JSON": written("tokenizer.json", "x"),
    "a template that fails": written("chat_template.jinja", "{{ 1 / 0 }}"),
    "a template that is no template": written("chat_template.jinja", "{% for %}"),
    "a template that counts for ever": written(
        "chat_template.jinja", "{% for i in range(10 ** 18) %}{{ i }}{% endfor %}"
    ),
    "an index to somewhere else": written(
        "model.safetensors.index.json", '{"weight_map": {"model.norm.weight": "../../x.safetensors"}}'
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_model_is_one_message_and_nothing_is_written(case, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(weights_path(), folder)
    BAD[case](folder)
    study = Study.model_validate(
        {
            "name": "s",
            "settings": ["miniature/spanish_caps"],
            "arms": ["baseline"],
            "seeds": [0],
            "models": [{"name": "broken", "path": str(folder)}],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 1}},
        }
    )
    store = Store(tmp_path / "runs")
    with pytest.raises(InputError) as caught:
        preflight(build_plan(study, store), store)
    assert "\n" not in str(caught.value).strip()
    assert str(folder) in str(caught.value) or "broken" in str(caught.value) or "template" in str(caught.value)
    assert not store.root.exists()


def test_checking_a_model_imports_no_torch():
    """It is part of every preflight; importing torch would take seconds."""
    program = (
        "import sys\nfrom inoc_ray.miniature import weights_path\nfrom inoc_ray.models.resolve import check_model_files\n"
        "check_model_files(weights_path())\nassert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
