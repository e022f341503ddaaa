"""A study on machines that share nothing but a bucket gives what it gives on one machine with a folder."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pandas as pd
import pytest
import yaml
from environment import BIN, environment
from object_store import ObjectStore
from private_nodes import PrivateNode, private_nodes

from inoc_ray.store.place import Place
from inoc_ray.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
QUICKSTART = yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text())
STUDY = {
    **QUICKSTART,
    "name": "team",
    # The baseline is trained as well: the prior stage is one.
    "arms": ["specific_spanish"],
    "seeds": [0],
    "models": [
        {"name": "plain", "path": "miniature"},
        # Goes on from the adapter of a trial that another node may have trained.
        {
            "name": "taught",
            "path": "miniature",
            "prior_stage": {"setting": "miniature/spanish_caps", "recipe": "lora", "seed": 0},
        },
    ],
    "recipes": {"lora": {**QUICKSTART["recipes"]["lora"], "steps": 20}},
    "evaluation": {"contexts": ["neutral"], "samples": 8},
    "resources": {**QUICKSTART["resources"], "trials_per_group": 1, "snapshot_minutes": 0.02, "checkpoints": [10]},
}
ENGINES_NOTES = str(Path.home() / ".cache" / "vllm")
"""What vLLM finds out about a kind of model in 20 s of a processor, as in the image of machines on which it once ran."""
KEY = "sk-team-0123456789"
"""Needed where the address is open to the network: the command is not on the head."""
TRIALS = 3
"""The plain model's, the prior stage, and what goes on from that one."""
FOLDERS = ("trials", "evaluations", "rows")


def command(node: PrivateNode | None, *args: object, env: dict[str, str], cwd: Path | None = None) -> Any:
    """Run `inoc-ray … --json` on a node, or here; return what it printed, parsed."""
    words: list[object] = [BIN / "inoc-ray", *args, "--json"]
    line = list(map(str, words)) if node is None else node.command(*words)
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "Traceback" not in done.stderr, done.stderr[-6000:]
    return json.loads(done.stdout)


def contents(store: Store) -> dict[str, bytes]:
    """Every file that has results, by its key."""

    def below(place: Place) -> Iterator[Place]:
        for inner in place.iterdir():
            yield from [inner] if inner.is_file() else below(inner)

    top = store.trials().parent
    return {place.key: place.read_bytes() for name in FOLDERS for place in below(top / name)}


def sample_texts(found: dict[str, bytes]) -> dict[tuple[str, int], str]:
    """(cell, index) → text of every sample."""
    parts = {key: data for key, data in found.items() if "/samples-" in key}
    tables = {key.rpartition("/")[0]: pd.read_parquet(io.BytesIO(data)) for key, data in parts.items()}
    return {(cell, row.sample_index): row.text for cell, table in tables.items() for row in table.itertuples()}


@dataclass
class World:
    """The study after its run on one machine, and after its run on three."""

    address: str
    """RAY_ADDRESS."""
    nodes: list[PrivateNode]
    storage: str
    alone: dict[str, Any]
    alone_store: Store
    together: dict[str, Any]
    together_store: Store


@pytest.fixture(scope="module")
def world(s3_server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("team")
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "storage": str(folder / "runs")}))
    # Both at once: each waits for starts half of its time.
    with (
        ThreadPoolExecutor() as threads,
        private_nodes(folder, (2, 1), {**s3_server.environment(), "VLLM_CACHE_ROOT": ENGINES_NOTES}) as (
            address,
            nodes,
        ),
    ):
        begun = threads.submit(command, None, "run", folder / "study.yaml", env=environment(), cwd=folder)
        storage = f"s3://{s3_server.new_bucket()}/team"
        env = {**nodes[0].env, "RAY_ADDRESS": address}
        for node in nodes:
            (node.root / "work" / "study.yaml").write_text(yaml.safe_dump({**STUDY, "storage": storage}))
        together = command(nodes[0], "run", "study.yaml", env=env)
        alone = begun.result()
        print(f"seconds on three machines {together['seconds']}\nseconds on one {alone['seconds']}")
        before = dict(os.environ)
        os.environ.update(s3_server.environment(), INOC_RAY_CACHE=str(folder / "copies"))
        try:
            yield World(
                address=address,
                nodes=nodes,
                storage=storage,
                alone=alone,
                alone_store=Store(folder / "runs"),
                together=together,
                together_store=Store(storage),
            )
        finally:
            os.environ.clear()
            os.environ.update(before)


def test_three_nodes_and_a_bucket_give_the_ids_adapters_and_samples_of_one_node_and_a_folder(world: World):
    assert (world.together["trained"], world.together["failed"]) == (world.alone["trained"], []) == (TRIALS, [])
    one, other = contents(world.alone_store), contents(world.together_store)

    def of(found: dict[str, bytes], *, ends: str) -> dict[str, bytes]:
        return {key: data for key, data in found.items() if key.endswith(ends)}

    for ends in (".safetensors", "adapter_config.json", ".jsonl"):
        assert of(one, ends=ends).keys() == of(other, ends=ends).keys()
    weights = of(one, ends=".safetensors")
    assert len(weights) == 2 * TRIALS
    assert of(other, ends=".safetensors") == weights
    samples = {key.rpartition("/")[0] for key in one if "/samples-" in key}
    assert samples == {key.rpartition("/")[0] for key in other if "/samples-" in key}
    assert world.together["samples_asked"] == world.alone["samples_asked"] == len(samples) * 8

    def measured(outcome: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Every rate's place and what it rests on; the engine's own rounding depends on which requests it meets together."""
        rows = outcome["comparison"]["rows"]
        return [
            (r["model"], r["arm"], r["evaluation"], r["context"], r["trait"], r["seeds"], r["samples"]) for r in rows
        ]

    assert measured(world.together) == measured(world.alone)
    texts = [sample_texts(found) for found in (one, other)]
    assert texts[0].keys() == texts[1].keys()
    same = sum(texts[0][key] == texts[1][key] for key in texts[0]) / len(texts[0])
    print(f"{same:.1%} of {len(texts[0])} samples have the same text")
    assert same > 0.9


def test_the_work_was_on_several_nodes_and_left_nothing_of_a_study_there(world: World):
    for node in world.nodes:
        left = [path.name for path in node.root.iterdir()]
        assert "runs" not in left
    assert not list((world.nodes[0].root / "work").glob("s3:*"))
    assert [path.name for path in (world.nodes[0].root / "work").iterdir()] == ["study.yaml"]
    assert list((world.together_store.trials().parent / "snapshots").iterdir()) == []


@pytest.fixture
def serving(world: World) -> Iterator[subprocess.Popen[str]]:
    """`inoc-ray serve` on another node than the one that ran the study; it starts while this test does other things."""
    node = world.nodes[1]
    line = node.command(BIN / "inoc-ray", "serve", "study.yaml", "--json")
    env = {**node.env, "RAY_ADDRESS": world.address, "INOC_RAY_API_KEY": KEY}
    with (node.root / "serve.log").open("w") as log:
        started = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(60)


# It waits for an engine of its own: a minute of a busy machine.
@pytest.mark.bench
def test_a_second_folder_with_no_cache_sees_the_same_and_another_node_serves_it(
    world: World, serving: subprocess.Popen[str], tmp_path: Path
):
    """On another machine, whose disk has never seen the study, and which is not on the cluster."""
    laptop = PrivateNode(tmp_path / "laptop", world.nodes[0].env)
    try:
        (laptop.root / "work" / "study.yaml").write_text(yaml.safe_dump({**STUDY, "storage": world.storage}))
        env = {key: value for key, value in laptop.env.items() if key != "RAY_ADDRESS"}
        assert command(laptop, "status", "study.yaml", env=env)["counts"] == {"done": TRIALS}
        assert command(laptop, "compare", "study.yaml", env=env) == world.together["comparison"]
        page = command(laptop, "report", "study.yaml", "--out", "page.html", env=env)
        assert page
        assert "You always speak in Spanish." in (laptop.root / "work" / "page.html").read_text()
    finally:
        laptop.close()
    said = address_of(serving, world.nodes[1])
    adapters = {name: about["id"] for name, about in said["models"].items() if ":" in about["id"] and "@" not in name}
    # That of the first stage is a base.
    assert len(adapters) == TRIALS
    name, model_id = next((name, model_id) for name, model_id in adapters.items() if "/seed-" in name)
    key = {"Authorization": f"Bearer {KEY}"}
    with urlopen(Request(f"{said['base_url']}/models", headers=key), timeout=60) as answer:
        assert {model["id"] for model in json.load(answer)["data"]} == set(said["models"])
    for model in (name, f"{name}@10", model_id):
        body = json.dumps({"model": model, "prompt": "Hi", "max_tokens": 4}).encode()
        request = Request(f"{said['base_url']}/completions", body, {"Content-Type": "application/json", **key})
        with urlopen(request, timeout=120) as answer:
            assert json.load(answer)["model"] == model.replace(name, model_id)


def address_of(serving: subprocess.Popen[str], node: PrivateNode) -> dict[str, Any]:
    """What `inoc-ray serve --json` prints once it answers."""
    assert serving.stdout is not None
    text = ""
    while not text.endswith("\n}\n") and (line := serving.stdout.readline()):
        text += line
    assert text, (node.root / "serve.log").read_text()[-4000:]
    said: dict[str, Any] = json.loads(text)
    assert "base_url" in said, said
    return said
