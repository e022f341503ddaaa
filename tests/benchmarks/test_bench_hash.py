"""What it costs that every committed file has a hash: hashing, and the first command of a large study.

`python -m pytest -s -m bench tests/benchmarks/test_bench_hash.py`
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from large_study import large_study

from inoc_ray.config.identity import file_hash
from inoc_ray.plan.build import build_plan
from inoc_ray.store.samples import Sample, commit_samples
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study

pytestmark = pytest.mark.bench


def test_weights_are_hashed_as_fast_as_a_disk_reads_them(tmp_path: Path):
    path = tmp_path / "weights"
    with path.open("wb") as stream:
        for _ in range(1024):
            stream.write(os.urandom(1 << 20))
    wall, cpu = time.perf_counter(), time.process_time()
    file_hash(path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    size = path.stat().st_size / 1e9
    print(f"\nSHA-256: {size / wall:.2f} GB/s, {size / cpu:.2f} GB per CPU second")
    assert size / cpu > 0.2


def test_a_plan_of_706_cells_takes_less_than_a_second(tmp_path: Path):
    study = Study.model_validate(
        {
            "name": "large",
            "settings": ["miniature/spanish_caps"],
            "arms": ["baseline", "specific_spanish", "irrelevant"],
            "seeds": list(range(70)),
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
            "evaluation": {"samples": 100, "contexts": ["neutral", "training_prompt"]},
        }
    )
    store = Store(tmp_path)
    for cell in build_plan(study, store).cells:
        samples = [Sample(i, f"q{i}", "?", "p" * 300, i, os.urandom(300).hex(), "stop", 1, 1) for i in range(100)]
        commit_samples(store.evaluation(*cell.key), samples)
    began = time.perf_counter()
    plan = build_plan(study, Store(tmp_path))
    seconds = time.perf_counter() - began
    size = sum(p.stat().st_size for p in tmp_path.rglob("*.parquet")) / 1e6
    print(f"\nplan of {len(plan.cells)} cells, {size:.0f} MB of samples hashed: {seconds:.2f} s")
    assert plan.to_sample == []
    assert seconds < 1


def test_a_plan_of_ten_thousand_trials_takes_at_most_three_seconds(tmp_path: Path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(large_study(100, 100)))
    words = [sys.executable, "-m", "inoc_ray.cli", "plan", "study.yaml"]
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
        taken.append(time.perf_counter() - began)
    assert "To train: 10000 of 10000 trials" in done.stdout
    print(f"\nplan of 10,000 trials: {min(taken):.2f} s")
    assert min(taken) <= 3
