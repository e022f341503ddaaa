"""An evaluation that is killed at any moment ends with the same rows, and nothing that was stored is asked again."""

import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from evaluating_program import evaluate, processes
from stub_api import Stub

from inoc_ray.store.store import Store

PROGRAM = Path(__file__).parents[2] / "helpers" / "evaluating_program.py"
KILLS = 10
LIST = 4
CONCURRENCY = 2


def study_file(folder: Path, url: str) -> Path:
    study = {
        "name": "killed",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline"],
        "seeds": [0],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 1}},
        "judges": {"stub": {"endpoint": url, "served_model": "judge", "method": "logprob", "concurrency": 4}},
        "evaluation": {
            "contexts": ["neutral", "none"],
            "samples": 40,
            "judged_by": ["stub"],
            "concurrency": CONCURRENCY,
            "prompts_per_request": LIST,
        },
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def rows(storage: Path, kind: str) -> pd.DataFrame:
    """Every row of every parquet file of the kind, with the place it stands in."""
    frames = [
        pd.read_parquet(path).assign(place=str(path.relative_to(storage)))
        for path in sorted((storage / "evaluations").rglob(f"{kind}-*.parquet"))
    ]
    return pd.concat(frames, ignore_index=True)


def answered(stub: Stub) -> list[str]:
    return stub.log.read_text().splitlines() if stub.log.exists() else []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(an evaluation in one piece, one that was killed ten times and then let finish, the number of kills that hit it)."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "whole").mkdir()
    (folder / "cut").mkdir()
    draw = random.Random(7)
    forked = processes()

    def start(study: Path, storage: Path, url: str) -> BaseProcess:
        process = forked.Process(target=evaluate, args=(study, storage, url))
        process.start()
        return process

    with Stub(folder / "whole", latency=0.02) as stub:
        whole = start(study_file(folder / "whole", stub.url), folder / "whole" / "runs", stub.url)
        whole.join(120)
        assert whole.exitcode == 0
    hit = 0
    with Stub(folder / "cut", latency=0.02) as other:
        study, storage = study_file(folder / "cut", other.url), folder / "cut" / "runs"
        for _ in range(KILLS):
            process = start(study, storage, other.url)
            # By what it has been answered, not by the clock, which a busy machine makes useless.
            wanted = len(answered(other)) + draw.randint(5, 60)
            while process.is_alive() and len(answered(other)) < wanted:
                time.sleep(0.01)
            if process.is_alive():
                process.kill()
            process.join()
            hit += process.exitcode == -signal.SIGKILL
        process = start(study, storage, other.url)
        process.join(120)
        assert process.exitcode == 0
        # As a kill leaves it that comes behind the last commit.
        (storage / "studies" / "killed" / "samples-under-way.jsonl").touch()
        # A program of its own, whose imports nobody has done for it.
        command = [sys.executable, PROGRAM, study, storage, other.url]
        again = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    return stub, other, folder, hit, again.stdout


def test_the_rows_of_a_killed_evaluation_are_those_of_one_in_one_piece(runs):
    _, _, folder, hit, _ = runs
    assert hit >= 3, "the kills came too late to hit anything"
    for kind in ("samples", "judgments"):
        whole, cut = (rows(folder / name / "runs", kind) for name in ("whole", "cut"))
        # Judgments stand under the judge's identity, which has the endpoint's model and not its address.
        pd.testing.assert_frame_equal(whole, cut)
        assert not cut.duplicated(["place", "sample_index", *(["rubric"] if kind == "judgments" else [])]).any()


def test_no_judge_call_is_repeated_but_those_under_way_when_the_kill_came(runs):
    whole, cut, _, hit, _ = runs
    once, asked = whole.asked("judge"), cut.asked("judge")
    assert set(asked) == set(once)
    assert max(once.values()) == 1, "equal responses to one question are judged once"
    assert sum(asked.values()) - sum(once.values()) <= 4 * hit


def test_no_sample_is_asked_again_but_those_under_way_when_the_kill_came(runs):
    whole, cut, _, hit, _ = runs
    once, asked = whole.asked("sample"), cut.asked("sample")
    assert set(asked) == set(once)
    assert sum(asked.values()) - sum(once.values()) <= LIST * CONCURRENCY * hit


def test_a_finished_evaluation_calls_nobody_and_leaves_no_journal(runs):
    _, _, folder, _, printed = runs
    assert "failed [] calls 0" in printed
    assert not (Store(folder / "cut" / "runs").study("killed") / "samples-under-way.jsonl").exists()
