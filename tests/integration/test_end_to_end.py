"""The whole path on the real stack, as a user walks it: the command line, a storage folder, nothing else."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pandas as pd
import pytest
import yaml
from browser import chromium, needs_chromium, pictures
from environment import BIN, environment
from wheel import build_wheel, install_wheel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
QUICKSTART = yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text())


def inoc_ray(*args: object, code: int = 0, env: dict[str, str] | None = None, programs: Path = BIN) -> Any:
    """Runs the command with --json; returns what it printed, parsed (None when it printed nothing)."""
    done = subprocess.run(
        [programs / "inoc-ray", *map(str, args), "--json"],
        capture_output=True,
        text=True,
        env=env or environment(),
        check=False,
    )
    assert done.returncode == code, done.stderr[-4000:]
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    return json.loads(done.stdout) if done.stdout else None


def study(folder: Path, **changes: Any) -> Path:
    value = {
        **QUICKSTART,
        "name": "small",
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0],
        "evaluation": {"contexts": ["neutral", "training_prompt"], "samples": 12},
        "dynamics": {"contexts": ["neutral", "training_prompt"], "points": 4, "samples": 6},
        "resources": {**QUICKSTART["resources"], "checkpoints": [0.5]},
        "storage": str(folder / "runs"),
        **changes,
    }
    path = folder / f"{value['name']}.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="module")
def first(folder, tmp_path_factory) -> dict[str, Any]:
    """The small study after its first run, which is that of an installed wheel; all later commands are the checkout's."""
    programs = install_wheel(build_wheel(tmp_path_factory.mktemp("wheel")), folder / "venv")
    env = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    return inoc_ray("run", study(folder), env=env, programs=programs)


def test_a_first_run_trains_asks_compares_and_reports(folder, first):
    assert (first["trained"], first["failed"]) == (2, [])
    assert first["comparison"]["complete"] is True
    assert _parent_run(first["tracking_uri"], "small") == ("FINISHED", "true")
    # base: neutral and one arm's prompt; baseline: neutral; specific: neutral and its prompt; two evaluations each.
    # On the way, after half of the steps: baseline in one context, specific in two.
    assert first["samples_asked"] == (2 + 1 + 2) * 2 * 12 + (1 + 2) * 2 * 6
    assert {r["arm"] for r in first["comparison"]["rows"]} == {"base", "baseline", "specific_spanish"}
    page = Path(first["report"]).read_text()
    assert "You always speak in Spanish." in page
    assert not re.search(r'(src|href)="https?://', page)
    assert (Path(first["report"]).parent / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_compare_prints_the_promised_json_and_what_was_added_to_it_since(folder, first):
    value = inoc_ray("compare", study(folder))
    assert set(value) == {
        "study",
        "rows",
        "effects",
        "profile",
        "leaks",
        "agreement",
        "capabilities",
        "complete",
        "missing",
        "failures",
        "reference",
        "claims",
        "outcome",
        "capability_rates",
        "dynamics",
        "courses",
    }
    assert {frozenset(r) for r in value["rows"]} == {
        frozenset(
            (
                "setting",
                "model",
                "arm",
                "kind",
                "evaluation",
                "split",
                "context",
                "trait",
                "role",
                "rate",
                "low",
                "high",
                "seeds",
                "samples",
                "unparsed",
                "excluded",
                "cut",
                "seeds_planned",
                "samples_planned",
                "complete",
                "triggered",
                "replicated",
                "trained",
            )
        )
    }
    assert {frozenset(e) for e in value["effects"]} == {
        frozenset(
            (
                "setting",
                "model",
                "arm",
                "measure",
                "value",
                "low",
                "high",
                "p",
                "complete",
                "why",
                "seeds",
                "replicated",
            )
        )
    }
    assert value == first["comparison"]


def test_every_rate_can_be_recomputed_from_the_stored_samples(folder, first):
    from inoc_ray.settings import get

    judges = get("miniature/spanish_caps").judges
    row = next(
        r
        for r in first["comparison"]["rows"]
        if (r["arm"], r["split"], r["context"], r["trait"]) == ("baseline", "ood", "neutral", "caps")
    )
    [kept] = (folder / "runs" / "studies" / "small" / "samples").glob("*,baseline,s*.parquet")
    frame = pd.read_parquet(kept)
    texts = frame[(frame.evaluation == "out_of_distribution") & (frame.context == "neutral")]["text"]
    scores = [s for s in map(judges["caps"], texts) if s is not None]
    assert row["rate"] == pytest.approx(sum(s > 0.5 for s in scores) / len(scores))
    assert row["samples"] == len(texts) == 12


def test_each_sample_had_its_own_seed_and_a_prompt_that_holds_the_context(folder, first):
    parts = [pd.read_parquet(p) for p in (folder / "runs" / "studies" / "small" / "samples").glob("*.parquet")]
    frame = pd.concat(parts)
    assert frame["seed"].is_unique
    inside = frame[frame.context == "training_prompt"]["prompt"]
    assert len(inside) == 2 * 12
    assert inside.str.contains("You always speak in Spanish.", regex=False).all()
    assert not frame[frame.context == "neutral"]["prompt"].str.contains("Spanish.", regex=False).any()


def test_a_second_run_trains_nothing_asks_nothing_and_starts_no_cluster(folder, first):
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs" / "trials").rglob("*")}
    again = inoc_ray("run", study(folder))
    assert (again["trained"], again["samples_asked"]) == (0, 0)
    assert "starting Ray" not in again["seconds"]
    assert again["comparison"] == first["comparison"]
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "runs" / "trials").rglob("*")}


def test_samples_drawn_after_the_training_are_those_drawn_beside_it(folder, first):
    assert first["schedule"] == "overlap"
    later = folder / "later"
    shutil.copytree(folder / "runs" / "trials", later / "trials")
    value = inoc_ray("evaluate", study(folder, storage=str(later)))
    assert (value["schedule"], value["samples_asked"]) == (None, first["samples_asked"])

    def drawn(storage: Path) -> pd.DataFrame:
        tables = sorted((storage / "studies" / "small" / "samples").glob("*.parquet"))
        frame = pd.concat(pd.read_parquet(table).assign(of=table.stem) for table in tables)
        order = ["of", "evaluation", "context", "sample_index"]
        return frame.sort_values(order, ignore_index=True)[[*order, "prompt", "seed", "text"]]

    pd.testing.assert_frame_equal(drawn(folder / "runs"), drawn(later))


def test_what_was_followed_while_fine_tunes_trained_is_in_the_store_in_mlflow_and_in_the_papers_figure(folder, first):
    from mlflow.tracking import MlflowClient

    arms = {json.loads(p.read_text())["arm"]: p.parent for p in (folder / "runs" / "trials").glob("*/trial.json")}
    names = {"baseline": {"spanish", "caps"}}
    names["specific_spanish"] = names["baseline"] | {f"{name}.training_prompt" for name in names["baseline"]}
    for arm, sets in names.items():
        curve = [json.loads(line) for line in (arms[arm] / "curves.jsonl").read_text().splitlines()]
        # Log-spaced over 20 steps, and before the first.
        assert [one["step"] for one in curve if one["logprobs"]] == [3, 7, 20]
        looks = [curve[0]["logprobs_before"], *(one["logprobs"] for one in curve if one["logprobs"])]
        assert all(look.keys() == sets for look in looks)
        assert all(len(values) == 10 for look in looks for values in look.values())
    client = MlflowClient(first["tracking_uri"])
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = {r.info.run_name: r.info.run_id for r in client.search_runs([experiment])}
    points = client.get_metric_history(runs["baseline-s0"], "logprob.caps")
    assert sorted(point.step for point in points) == [0, 3, 7, 20]
    figures = {one["name"]: one for one in inoc_ray("figures", study(folder), "--paper")}
    assert figures["figure_6"]["files"]
    # Responses were sampled from the base, from the weights after half of the steps, and from the final ones.
    assert figures["courses"]["missing"] == []
    rates = {(one["arm"], one["step"]) for one in first["comparison"]["courses"]}
    assert rates == {("base", 0), *((arm, step) for arm in names for step in (10, 20))}


def test_a_grown_study_runs_only_what_is_new_and_a_failing_trial_does_not_stop_the_others(folder, first):
    """Grows by questions and by a recipe that cannot work; the old trials are asked the new questions alone."""
    recipes = {**QUICKSTART["recipes"], "broken": {**QUICKSTART["recipes"]["lora"], "learning_rate": 1e30}}
    grown = study(
        folder, name="grown", recipes=recipes, evaluation={"contexts": ["neutral", "training_prompt"], "samples": 16}
    )
    value = inoc_ray("run", grown, code=1)
    assert value["trained"] == 0
    assert value["samples_asked"] == (2 + 1 + 2) * 2 * 4
    assert len(value["failed"]) == 2
    for failure in value["failed"]:
        assert "miniature/broken" in failure["label"]
        assert "Error" in Path(failure["log"]).read_text()
    status = inoc_ray("status", grown)
    assert status["counts"] == {"done": 2, "failed": 2}
    # Later commands know what failed, and why, from the store.
    assert status["failures"] == value["failed"]
    compared = inoc_ray("compare", grown)
    assert (compared["complete"], compared["failures"]) == (False, value["failed"])
    assert all("training failed" in one["why"] for one in compared["missing"])
    assert {r["seeds"] for r in compared["rows"] if r["model"] == "miniature/broken" and r["kind"] != "base"} == {0}
    assert _parent_run(value["tracking_uri"], "grown") == ("FAILED", "false")


def _parent_run(uri: str, study: str) -> tuple[str, str]:
    """Status and tag `complete` of the study's own run in MLflow."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    [run] = client.search_runs([experiment.experiment_id], f"tags.study_run = '{study}'")
    return run.info.status, run.data.tags["complete"]


def test_syncing_again_changes_nothing_in_mlflow(folder, first):
    from mlflow.tracking import MlflowClient

    def dump():
        client = MlflowClient(first["tracking_uri"])
        experiment = client.get_experiment_by_name("small")
        runs = client.search_runs([experiment.experiment_id])
        return sorted(
            (r.info.run_id, r.info.run_name, sorted(r.data.params), sorted(r.data.metrics.items())) for r in runs
        )

    before = dump()
    assert len(before) == 6  # the study, two arms, their trials, the base
    inoc_ray("sync", study(folder))
    assert dump() == before


def test_two_runs_of_one_study_at_once_are_refused_by_the_second(folder, first):
    code = (
        "import time; from inoc_ray.store.store import Store\n"
        f"with Store({str(folder / 'runs')!r}).lease('study-small'):\n print('held', flush=True); time.sleep(120)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = subprocess.run(
            [BIN / "inoc-ray", "run", study(folder)], capture_output=True, text=True, env=environment(), check=False
        )
        assert done.returncode == 2
        assert f"process {holder.pid}" in done.stderr
    finally:
        holder.kill()
        holder.wait()


def wait_for(what: str, condition: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


@needs_chromium
def test_mlflows_pages_compare_the_arms_before_anything_is_unfolded(folder, first, tmp_path):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(first["tracking_uri"])
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = {r.info.run_name: r for r in client.search_runs([experiment])}
    port = free_port()
    command = [BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", first["tracking_uri"]]
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(command, env=environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for("the MLflow server", lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
        with chromium(tmp_path / "profile", width=1900) as browser:

            def shows(url: str, words: list[str], picture: str) -> str:
                browser.get("about:blank")
                browser.get(f"http://127.0.0.1:{port}/#{url}")

                def text() -> str:
                    return " ".join(browser.find_element("tag name", "body").text.split())

                try:
                    wait_for(f"{words} on {url}", lambda: all(word in text() for word in words), 90)
                finally:
                    browser.save_screenshot(str(pictures(tmp_path) / picture))
                return text()

            arms = ["base", "baseline", "specific_spanish"]
            rate = runs["specific_spanish"].data.tags["ci.undesired"]
            page = f"/experiments/{experiment}/runs"
            seen = shows(f"{page}?viewStateShareKey=arms", [*arms, "ci.undesired", rate], "mlflow-runs.png")
            assert "specific_spanish-s0" not in seen
            shows(
                f"{page}?viewStateShareKey=arms&compareRunsMode=CHART",
                [*arms, "undesired", "desired"],
                "mlflow-charts.png",
            )
            question = "Group by: question"
            shows(f"{page}?compareRunsMode=ARTIFACT", [*arms, question, "Compare: response"], "mlflow-answers.png")
            pair = [runs["baseline"].info.run_id, runs["specific_spanish"].info.run_id]
            query = f"?runs={json.dumps(pair)}&experiments={json.dumps([experiment])}"
            query = query.replace(" ", "").replace('"', "%22")
            shows(f"/compare-runs{query}", ["undesired", "baseline", "specific_spanish"], "mlflow-compare.png")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """True if an HTTP server is there, whatever it says."""
    try:
        urlopen(url, timeout=2).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True
