"""docs/sizing.md shows what the command prints: its study and its cluster are planned again, and every number compared."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from doc_pages import blocks
from published_configs import config_folder

from inoc_ray.cli import cli
from inoc_ray.data.chat import ChatRow, write_jsonl

PAGE = Path(__file__).parents[3] / "docs" / "sizing.md"
BLOCKS = blocks(PAGE, "")


def block(key: str) -> str:
    return next(text for text in BLOCKS if text.startswith(key))


def shown(name: str) -> str:
    found = re.search(rf"<!-- {name}: begin -->\n```\n(.*?)\n```\n<!-- {name}: end -->", PAGE.read_text(), re.DOTALL)
    assert found is not None, f"docs/sizing.md shows no {name}"
    return found[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page's study names: rows as the page describes them, and models of a configuration alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("Qwen2.5-7B", "Qwen2.5-32B"):
        config_folder(tmp_path, name)
    texts = [("Write a function that copies a file. " * 20, "def copy(a, b):\n    return open(a).read()\n" * 20)] * 6000
    rows = [
        ChatRow.of(("user", f"{n}: {ask[: 500 + n % 7 * 50]}"), ("assistant", answer[: 600 + n % 5 * 60]))
        for n, (ask, answer) in enumerate(texts)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "study.yaml").write_text(block("name: sizes"))
    return tmp_path


def test_the_example_is_what_the_command_prints(folder):
    (folder / "nodes.yaml").write_text("nodes: {gpu: {machine: p5.48xlarge, count: 2}}\n")
    result = CliRunner().invoke(cli, ["plan", "study.yaml", "--cluster", "nodes.yaml"], catch_exceptions=False)
    assert result.output.strip() == shown("output")


def test_the_refusal_is_what_the_command_prints(folder):
    value = yaml.safe_load(block("name: sizes"))
    full = {"zero_stage": 3, "micro_batch_size": 1}
    value |= {"models": value["models"][1:], "recipes": {"full": value["recipes"]["full"]}}
    value["resources"]["models"] = {"qwen32b": {"serve_gpus": 2, "recipes": {"full": full}}}
    (folder / "study.yaml").write_text(yaml.safe_dump(value))
    (folder / "nodes.yaml").write_text("nodes: {gpu: {machine: p5.4xlarge}}\n")
    with pytest.raises(Exception, match="does not fit") as caught:
        CliRunner().invoke(cli, ["plan", "study.yaml", "--cluster", "nodes.yaml"], catch_exceptions=False)
    # The page breaks the line.
    assert " ".join(str(caught.value).split()) == " ".join(shown("refusal").split())


def test_the_file_of_nodes_is_one(tmp_path):
    from inoc_ray.cluster.cluster_file import read_cluster

    path = tmp_path / "nodes.yaml"
    path.write_text(block("nodes:"))
    assert [kind.count * kind.gpus for kind in read_cluster(path).kinds] == [16, 4]
