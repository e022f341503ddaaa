"""A model is what its path says: a folder, a pinned place on the hub, or the one that ships; its files are looked at."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import hub
from safetensors.numpy import load_file, save_file
from tiny_base import make_spec

from inoc_ray.cli import main
from inoc_ray.errors import InputError
from inoc_ray.miniature import judge_weights_path, weights_path
from inoc_ray.models.resolve import check_model_files, locate, resolve_model
from inoc_ray.models.weights import INDEX, read_header
from inoc_ray.study.study import Model

REPO, COMMIT = "owner/tiny", "5f4160e0123456789abcdef0123456789abcdef0"
SOURCE = f"hf://{REPO}@{COMMIT}"
STUDY = """name: s
settings: [miniature/spanish_caps]
arms: [baseline]
seeds: [0]
recipes: {r: {learning_rate: 0.001, steps: 3}}
"""


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("Qwen2.5-7B-Instruct", r"write \{name: Qwen2\.5-7B-Instruct, path: FOLDER\}.*hf://OWNER/NAME@COMMIT"),
        ("Qwen/Qwen2.5-7B-Instruct", r"write \{name: Qwen2\.5-7B-Instruct, .*hf://Qwen/Qwen2\.5-7B-Instruct@COMMIT"),
        (SOURCE, rf"write \{{name: tiny, path: {SOURCE}\}}"),
        (f"hf://{REPO}@main", r"write \{name: tiny, path: hf://owner/tiny@COMMIT\}, with the full commit"),
        (f"{REPO}@main", r"or path: hf://owner/tiny@COMMIT for a model of the hub"),
        (f"hf://{REPO}@{COMMIT.upper()}", rf"write \{{name: tiny, path: {SOURCE}\}}"),
        ("./models/mine", r"write \{name: mine, path: \./models/mine\}"),
        ("Miniature", "'Miniature' has no path"),
        ({"name": "m", "path": None}, "'m' has no path"),
        (
            {"name": "miniature", "path": "/other"},
            "'miniature' is the name of a registered model, but the path is '/other'",
        ),
        ({"path": "/other"}, "name: is missing"),
        ("x" * 10_000, "'xxx.*…"),
    ],
)
def test_a_model_without_a_path_or_under_the_shipped_ones_name_is_refused(
    tmp_path, capsys, monkeypatch, written, message
):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY + f"models: [{json.dumps(written)}]\n")
    monkeypatch.setattr(sys, "argv", ["inoc-ray", "plan", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert re.search(message, error), error
    assert error.startswith(f"inoc-ray: {path}: models[0]")
    assert len(error) < 700


def test_the_shipped_model_needs_no_path_and_may_have_another_name():
    assert Model(name="miniature").path == "miniature"
    assert Model(name="untaught", path="miniature").path == "miniature"


def test_miniature_means_the_base_for_a_model_and_the_judge_model_for_a_judge():
    assert locate("miniature", "x") == weights_path()
    assert locate("miniature", "x", judge=True) == judge_weights_path()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "judges: 'j': there is no model folder .*/nowhere; give a folder .*hf://OWNER/NAME@COMMIT"),
        ("Qwen/Qwen2.5-7B", "there is no model folder .*hf://Qwen/Qwen2.5-7B@COMMIT"),
        ("hf://Qwen/Qwen2.5-7B", "not pinned; put the full commit after the name .hf://Qwen/Qwen2.5-7B@<40 hex"),
        ("hf://Qwen/Qwen2.5-7B@main", "not pinned"),
        ("hf://Qwen/Qwen2.5-7B@5f4160e", "not pinned"),
        ("hf://Qwen/Qwen2.5-7B@", "not pinned"),
        ("Qwen/Qwen2.5-7B@main", "a model of the hub as hf://Qwen/Qwen2.5-7B@COMMIT\\."),
        (f"hf://{REPO}@{COMMIT.upper()}", f"the hub writes commits in lower case; write @{COMMIT}"),
        ("hf://Qwen", "not a model of the hub; write hf://OWNER/NAME@COMMIT"),
        (f"{SOURCE}/model.safetensors", "not a model of the hub"),
        (f"hf://datasets/{REPO}@{COMMIT}", "a dataset, where a model is needed"),
    ],
)
def test_a_place_without_a_model_is_refused_without_network(source, message):
    with pytest.raises(InputError, match=message):
        resolve_model(source, "judges: 'j'", judge=True)


def test_an_adapters_weights_alone_are_not_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no \*\.safetensors weights"):
        locate(str(tmp_path), "models: 'm'")


def another_process(code: str, home: Path, endpoint: str | None) -> subprocess.Popen[str]:
    """The hub's client reads its environment once, when it is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_HOME": str(home)}
    # As every command of ours runs, so that the client asks for nothing but models.
    environment |= {"DO_NOT_TRACK": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if endpoint is None else {"HF_ENDPOINT": endpoint}
    head = "from inoc_ray.models.resolve import *; from inoc_ray.errors import InputError\n"
    body = f"try:\n    {code}\nexcept InputError as error: print('refused:', error)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", head + body], text=True, env=environment, **pipes)


def end_of(process: subprocess.Popen[str]) -> str:
    """What a process has printed when it ends well."""
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out.strip()


def in_another_process(code: str, home: Path, endpoint: str | None) -> str:
    """What some code prints in a process of its own."""
    return end_of(another_process(code, home, endpoint))


FETCH, RESOLVE = (
    f"fetch({SOURCE!r}, 'models: 0'); print('ok')",
    f"print(*vars(resolve_model({SOURCE!r}, 'models: 0')).values())",
)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """What a publisher has in a repository: a model, and much that is not wanted."""
    folder = tmp_path / "published"
    shutil.copytree(weights_path(), folder)
    (folder / "manifest.json").unlink()
    for name in (
        "pytorch_model.bin",
        "modeling_own.py",
        "README.md",
        "consolidated.safetensors",
        "original/params.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not wanted")
    return folder


def test_a_model_of_the_hub_is_fetched_once_without_code_and_pickles_and_is_the_folder_with_its_files(
    tmp_path, published
):
    home = tmp_path / "home"
    with hub(published, REPO, COMMIT) as (endpoint, asked):
        refused = in_another_process(RESOLVE, home, endpoint)
        assert "is not in this machine's cache of the hub; `inoc-ray run` downloads it" in refused
        assert asked == []
        assert in_another_process(FETCH, home, endpoint) == "ok"
        names = {line.rpartition("/")[2] for line in asked if "/resolve/" in line}
        assert names == {path.name for path in weights_path().iterdir()} - {"manifest.json"}
        asked.clear()
        assert in_another_process(FETCH, home, endpoint) == "ok"
        assert asked == []
    folder, content = in_another_process(RESOLVE, home, None).split()
    assert Path(folder).is_relative_to(home)
    for name in ("consolidated.safetensors", "pytorch_model.bin", "modeling_own.py"):
        (published / name).unlink()
    assert content == resolve_model(str(published), "x").hash


def test_a_node_without_the_model_of_the_driver_fetches_it_once_for_all_of_its_workers(tmp_path, published):
    with hub(published, REPO, COMMIT) as (endpoint, asked):
        assert in_another_process(FETCH, tmp_path / "driver", endpoint) == "ok"
        driver = Path(in_another_process(RESOLVE, tmp_path / "driver", None).split()[0])
        there = f"print(on_this_node(Path({str(driver)!r})))"
        assert in_another_process(there, tmp_path / "node", None) == str(driver)
        gone = driver.rename(driver.with_name("moved"))
        asked.clear()
        workers = [another_process(there, tmp_path / "node", endpoint) for _ in range(3)]
        found, *others = (Path(end_of(worker)) for worker in workers)
        assert others == [found] * 2
        fetched = Counter(line for line in asked if line.startswith("GET ") and "/resolve/" in line)
        assert set(fetched.values()) == {1}, fetched
        asked.clear()
        assert in_another_process(there, tmp_path / "node", endpoint) == str(found)
        assert asked == []
    assert found.is_relative_to(tmp_path / "node")
    assert resolve_model(str(found), "x").hash == resolve_model(str(gone), "x").hash


def test_a_folder_that_a_node_lacks_is_one_message(tmp_path):
    found = in_another_process(f"print(on_this_node(Path({str(tmp_path / 'mine')!r})))", tmp_path, None)
    assert f"there is no model folder {tmp_path / 'mine'} here; put the model on a mount that every node has" in found


def test_a_tokenizer_alone_in_the_cache_is_enough_for_a_check_of_rows_but_is_not_a_model(tmp_path, published):
    home = tmp_path / "home"
    with hub(published, REPO, COMMIT) as (endpoint, asked):
        assert in_another_process(FETCH.replace("'models: 0'", "'x', weights=False"), home, endpoint) == "ok"
        assert not any("safetensors" in line for line in asked)
    assert "is not in this machine's cache" in in_another_process(RESOLVE, home, None)
    assert "snapshots" in in_another_process(f"print(locate({SOURCE!r}, 'x', weights=False))", home, None)


def test_an_interrupted_download_is_not_a_model(tmp_path, published):
    home = tmp_path / "home"
    with hub(published, REPO, COMMIT) as (endpoint, _):
        assert in_another_process(FETCH, home, endpoint) == "ok"
    (template,) = home.rglob("chat_template.jinja")
    template.unlink()
    assert "is not in this machine's cache" in in_another_process(RESOLVE, home, None)


def test_a_repository_with_pickles_alone_is_refused(tmp_path, published):
    for path in published.glob("*.safetensors"):
        path.unlink()
    with hub(published, REPO, COMMIT) as (endpoint, _):
        found = in_another_process(FETCH, tmp_path / "home", endpoint)
    assert f"models: 0: {SOURCE}: there are no *.safetensors weights (pickled weights are not loaded)" in found


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
def test_a_model_of_the_hub_that_cannot_be_downloaded_is_one_message(tmp_path, endpoint):
    # The hub's client tries again, and waits 23 seconds in all between its tries.
    found = in_another_process(f"import time; time.sleep = lambda seconds: None; {FETCH}", tmp_path, endpoint)
    assert found.startswith(f"refused: models: 0: {SOURCE}: not in the local cache, and the hub cannot be reached; ")


def test_a_model_or_commit_that_the_hub_does_not_have_is_one_message(tmp_path, published):
    other = COMMIT.replace("5", "6")
    with hub(published, REPO, COMMIT) as (endpoint, _):
        found = in_another_process(FETCH.replace(COMMIT, other), tmp_path, endpoint)
        assert found == f"refused: models: 0: hf://{REPO}@{other}: the model has no such commit."
        found = in_another_process(FETCH.replace(REPO, "owner/other"), tmp_path, endpoint)
    assert "there is no such model on the hub, or it is private" in found


def test_a_run_fetches_first_and_offline_ends_with_one_message_before_anything_is_written(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY + f"models: [{{name: tiny, path: '{SOURCE}'}}]\n")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    for command in ("plan", "run", "serve"):
        found = subprocess.run(
            [sys.executable, "-m", "inoc_ray.cli", command, "study.yaml"],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        assert (found.returncode, found.stdout) == (2, "")
        lines = [line for line in found.stderr.splitlines() if line.startswith("inoc-ray: ")]
        assert len(lines) == 1
        assert f"models: 'tiny': {SOURCE}" in lines[0]
        assert "Traceback" not in found.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml", "home"}


# -- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(weights_path(), tmp_path / "model")
    return tmp_path / "model"


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def split(folder: Path, **weight_map: str) -> None:
    """The weights in two parts with an index, as larger models are published."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for part, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, folder / part)
    (folder / "model.safetensors").unlink()
    index = {name: part for part, inside in parts.items() for name in inside} | weight_map
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def with_number(folder: Path, number: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[-1]
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[-1] = number
    save_file(tensors, folder / "model.safetensors")


def renamed(folder: Path, name: Callable[[str], str | None]) -> None:
    """Every tensor under another name; those of None are left out."""
    tensors = load_file(folder / "model.safetensors")
    path = folder / "model.safetensors"
    save_file({new: t for old, t in tensors.items() if (new := name(old)) is not None}, path, metadata={"format": "pt"})


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


LEFT_OUT = "model.layers.2.mlp.up_proj.weight"
UNLIKE = {
    "a tensor is missing": (
        lambda f: renamed(f, lambda name: None if name == LEFT_OUT else name),
        r"no tensor mlp\.up_proj\.weight of layer 2",
    ),
    "a layer more in the configuration": (
        lambda f: edited(f / "config.json", num_hidden_layers=5, layer_types=["full_attention"] * 5),
        "says 5 layers, and the weights have 4 .layer 4 is missing",
    ),
    "a layer less in the configuration": (
        lambda f: edited(f / "config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3),
        "says 3 layers, and the weights have 4 .layer 3 would be left out",
    ),
    "other names": (lambda f: renamed(f, "foo.{}".format), "no tensor model.embed_tokens.weight"),
    "no head": (lambda f: edited(f / "config.json", tie_word_embeddings=False), "no tensor lm_head.weight"),
    "another width": (
        lambda f: edited(f / "config.json", hidden_size=64),
        r"embed_tokens.weight has the shape \[1664, 128\]",
    ),
}
"""Whole files whose tensors do not fill the model that config.json describes."""


@pytest.mark.parametrize("name", UNLIKE)
def test_weights_that_do_not_fill_the_model_are_refused_before_and_when_they_are_loaded(folder, name):
    from inoc_ray.train.model import _from_folder

    change, message = UNLIKE[name]
    change(folder)
    with pytest.raises(InputError, match=message):
        check_model_files(folder)
    with pytest.raises(InputError, match="do not belong together"):
        _from_folder(make_spec(str(folder)))


DAMAGE = {
    "cut": (
        lambda f: cut(f / "model.safetensors", 1_000_000),
        "not a whole safetensors file .it has 1,000,000 bytes of",
    ),
    "cut in the header": (lambda f: cut(f / "model.safetensors", 100), "its header is cut"),
    "empty": (lambda f: cut(f / "model.safetensors", 0), "its header is cut"),
    "garbage": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"{]" * 99),
        "not JSON of this format",
    ),
    "a web page": (lambda f: (f / "model.safetensors").write_text("<html>" * 999), "its header is cut"),
    "a pointer of Git LFS": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "a pointer of Git LFS, not the file itself; run `git lfs pull`",
    ),
    "bytes behind the end": (
        lambda f: (f / "model.safetensors").open("ab").write(b"xx"),
        "2 bytes more than its header says",
    ),
    "NaN": (lambda f: with_number(f, float("nan")), "contains NaN"),
    "another vocabulary": (
        lambda f: edited(f / "config.json", vocab_size=7),
        "rows, but config.json says vocab_size 7",
    ),
    "code of its own": (
        lambda f: edited(f / "config.json", auto_map={"AutoModel": "x.Y"}, model_type="mine"),
        "'mine' needs Python code from the model's repository .auto_map.",
    ),
    "a configuration that is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        "expected a JSON object, found list",
    ),
    "a configuration that is cut": (lambda f: cut(f / "config.json", 20), "config.json: not JSON"),
    "an adapter beside the weights": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        "adapter_config.json: an adapter lies in the folder of a base model",
    ),
    **{
        f"a generation_config.json that is {what}": (
            lambda f, content=content: (f / "generation_config.json").write_bytes(content),
            f"generation_config.json: {said}",
        )
        for what, content, said in (
            ("empty", b"", "not JSON"),
            ("cut", b'{"eos_', "not JSON"),
            ("not UTF-8", b"\xff\xfe{\0}\0", "not JSON"),
            ("a list", b"[]", "expected a JSON object"),
            ("nested without end", b"[" * 100_000, "not JSON"),
        )
    },
    "a generation_config.json that is a folder": (
        lambda f: ((f / "generation_config.json").unlink(), (f / "generation_config.json").mkdir()),
        "generation_config.json: cannot be read",
    ),
    "no model type": (lambda f: edited(f / "config.json", model_type=None), "does not say which model it is"),
    "an unknown model type": (
        lambda f: edited(f / "config.json", model_type="mine"),
        "'mine' is not one that transformers knows",
    ),
    "an encoder and a decoder": (lambda f: edited(f / "config.json", model_type="t5"), "'t5' does not continue a text"),
    "an encoder": (lambda f: edited(f / "config.json", model_type="bert"), "'bert' does not continue a text"),
    "pictures alone": (lambda f: edited(f / "config.json", model_type="vit"), "'vit' does not continue a text"),
    **{
        f"quantised by {method}": (
            lambda f, method=method: edited(f / "config.json", quantization_config={"quant_method": method, "bits": 4}),
            f"the weights are quantised .{method}.",
        )
        for method in ("awq", "gptq", "fp8")
    },
    "no heads": (lambda f: edited(f / "config.json", num_attention_heads=0), "num_attention_heads is 0"),
    "an index that leads out": (lambda f: split(f, x="../../x.safetensors"), "not a safetensors file of this folder"),
    "an index that names a pickle": (lambda f: split(f, x="x.bin"), "not a safetensors file of this folder"),
    "an index that names a missing file": (
        lambda f: split(f, x="y.safetensors"),
        "names y.safetensors, which does not exist",
    ),
    "an index that names a missing tensor": (
        lambda f: split(f, x="model-00001-of-00002.safetensors"),
        "the tensor x is missing",
    ),
    "an index without a map": (lambda f: (split(f), (f / INDEX).write_text("{}")), "there is no weight_map"),
    "parts without their index": (lambda f: (split(f), (f / INDEX).unlink()), "is a part, but .* is missing"),
    "a part that is missing": (
        lambda f: (split(f), (f / "model-00002-of-00002.safetensors").unlink()),
        "which does not exist",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_weights_are_refused_with_the_file(folder, name):
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        check_model_files(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        split,
        lambda folder: with_number(folder, float("-inf")),
        lambda folder: edited(folder / "config.json", auto_map={"AutoModel": "x.Y"}),
        lambda folder: edited(folder / "config.json", vocab_size=None, text_config={"vocab_size": 1664}),
        lambda folder: renamed(folder, lambda name: name.removeprefix("model.")),
    ],
    ids=[
        "as shipped",
        "in parts",
        "an infinite mask",
        "code where transformers has its own",
        "numbers deeper",
        "bare names",
    ],
)
def test_complete_weights_pass(folder, change):
    change(folder)
    check_model_files(folder)


def test_nan_is_found_in_every_floating_type_and_only_there(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    for dtype in (np.float16, np.float32, np.float64):
        for value, found in ((np.nan, True), (np.inf, False), (np.finfo(dtype).max, False)):
            save_file({"t": np.array([0, value], dtype=dtype)}, tmp_path / "model.safetensors")
            if found:
                with pytest.raises(InputError, match="NaN"):
                    check_model_files(tmp_path)
            else:
                check_model_files(tmp_path)


def test_a_header_is_read_as_safetensors_itself_reads_it(folder):
    ours = {t.name: (t.shape, t.stop - t.start) for t in read_header(folder / "model.safetensors")}
    theirs = {name: (t.shape, t.nbytes) for name, t in load_file(folder / "model.safetensors").items()}
    assert ours == theirs


def test_a_cut_by_any_single_byte_is_noticed(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for keep in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError):
            read_header(path)
