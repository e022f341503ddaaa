"""A fine-tune that is broken off goes on from its snapshot to the same curve and weights, on other ranks and stages too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from object_store import ObjectStore
from tiny_base import make_base

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOSS_TOLERANCE = 2e-5
"""Between world sizes and stages, in fp32: that of test_train_loop.py, sums in another order."""
STEPS, STOP = 6, 3
DROPOUT = {"rank": 8, "alpha": 16, "dropout": 0.1}

SAME: dict[str, tuple[int, dict[str, Any]]] = {
    "lora-0": (1, {"method": "lora", "zero_stage": 0, "precision": "fp32"}),
    "lora-2": (2, {"method": "lora", "zero_stage": 2, "precision": "bf16", "lora": DROPOUT}),
    "lora-3": (2, {"method": "lora", "zero_stage": 3, "precision": "fp32", "persistence_threshold": 100}),
    "full-2": (2, {"method": "full", "zero_stage": 2, "precision": "fp32"}),
    # Some parameters stay whole, and 3 ranks divide none of them evenly; the host holds what is cut.
    "full-3": (
        3,
        {
            "method": "full",
            "zero_stage": 3,
            "precision": "bf16",
            "persistence_threshold": 100,
            "batch_size": 12,
            "offload_optimizer": True,
            "offload_parameters": True,
        },
    ),
}
"""World size and stage as before, so to the bit; full fine-tunes have a second group of the optimizer, of vectors."""

OTHER: dict[str, tuple[str, int, dict[str, Any]]] = {
    "lora-2-ranks-to-1": ("lora-3", 1, {"method": "lora", "zero_stage": 0, "precision": "fp32"}),
    "lora-stage-3-to-2": ("lora-3", 2, {"method": "lora", "zero_stage": 2, "precision": "fp32"}),
    "lora-1-rank-to-2": (
        "lora-0",
        2,
        {"method": "lora", "zero_stage": 3, "precision": "fp32", "persistence_threshold": 0},
    ),
    "full-2-ranks-to-1": ("full-2", 1, {"method": "full", "zero_stage": 1, "precision": "fp32"}),
    "full-stage-2-to-3": (
        "full-2",
        2,
        {"method": "full", "zero_stage": 3, "precision": "fp32", "persistence_threshold": 0},
    ),
}
"""Name → whose snapshot, ranks, changes. In fp32 without dropout, against the unbroken run of the one that was broken off."""


def run(workers: int, changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"workers": workers, "changes": {"micro_batch_size": 4, **changes}, **more}


def all_runs(storage: str) -> dict[str, dict[str, Any]]:
    runs: dict[str, dict[str, Any]] = {}
    for name, (workers, changes) in SAME.items():
        runs[f"{name}.unbroken"] = run(workers, changes)
        runs[f"{name}.broken"] = run(workers, changes, stop_after=STOP)
        runs[f"{name}.resumed"] = run(workers, changes, **{"from": f"{name}.broken"})
    for name, (source, workers, changes) in OTHER.items():
        runs[name] = run(workers, changes, **{"from": f"{source}.broken"})
    changes = SAME["lora-0"][1]
    source = {"from": "lora-0.broken"}
    runs["twice"] = run(1, changes, stop_after=5, **source)
    runs["thrice"] = run(1, changes, **{"from": "twice"})
    runs["flipped"] = run(1, changes, **source, damage={"newest": 1, "pattern": "rank-*", "how": "flip"})
    runs["commit"] = run(1, changes, **source, damage={"newest": 1, "pattern": "COMMIT.json", "how": "flip"})
    runs["all-cut"] = run(1, changes, **source, damage={"newest": 2, "pattern": "curve*", "how": "cut"})
    runs["uncommitted"] = run(1, changes, **source, damage={"newest": 2, "pattern": "COMMIT.json", "how": "delete"})
    runs["other-rows"] = run(1, changes, rows=48, **source)
    runs["followed.unbroken"] = run(1, changes, probes=[3])
    for name, probes in {"followed": [3], "followed-other": [4], "followed-more": [3, 4]}.items():
        runs[f"{name}.broken"] = run(1, changes, probes=probes, stop_after=STOP)
    runs["followed.resumed"] = run(1, changes, probes=[3], **{"from": "followed.broken"})
    for source in ("lora-0", "followed-other", "followed-more"):
        runs[f"followed.after-{source}"] = run(1, changes, probes=[3], **{"from": f"{source}.broken"})
    runs["left"] = run(2, SAME["lora-2"][1], notice={"what": "LEAVE", "after": 4})
    runs["come-back"] = run(2, SAME["lora-2"][1], **{"from": "left"})
    keeping = {**changes, "checkpoints": [1, 2, "..."]}
    runs["kept"] = run(1, keeping)
    runs["kept.broken"] = run(1, keeping, stop_after=STOP)
    runs["kept.resumed"] = run(1, keeping, **{"from": "kept.broken"})
    hole = {"newest": 1, "pattern": "../checkpoint-00000002/adapter_model*", "how": "flip"}
    bucket = {"storage": storage}
    runs["bucket.broken"] = run(2, {**SAME["lora-3"][1], "checkpoints": [2]}, stop_after=STOP, **bucket)
    runs["bucket.resumed"] = run(2, {**SAME["lora-3"][1], "checkpoints": [2]}, **bucket)
    runs["bucket.alone"] = run(1, OTHER["lora-2-ranks-to-1"][2], **bucket)
    runs["kept.damaged"] = run(1, keeping, **{"from": "kept.broken"}, damage=hole)
    runs["kept.no-room"] = run(2, {**SAME["lora-2"][1], "checkpoints": [2]}, file_bytes=10_000)
    return runs


@pytest.fixture(scope="module")
def results(s3_server: ObjectStore, tmp_path_factory) -> dict[str, dict[str, Any]]:
    base = make_base(tmp_path_factory.mktemp("base"))
    out = tmp_path_factory.mktemp("snapshots")
    (out / "runs.json").write_text(json.dumps(all_runs(f"s3://{s3_server.new_bucket()}/runs")))
    store = {**s3_server.environment(), "INOC_RAY_CACHE": str(out / "copies")}
    program = Path(__file__).parents[1] / "helpers" / "snapshot_program.py"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(program), base, str(out), str(out / "runs.json")],
        env={**os.environ, **store, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((out / "results.json").read_text())
    assert {name: value["error"] for name, value in found.items() if "error" in value} == {}
    return dict(found)


@pytest.mark.parametrize("name", SAME)
def test_with_ranks_and_stage_as_before_curve_and_weights_have_the_bits_of_the_unbroken_run(results, name):
    unbroken, resumed = results[f"{name}.unbroken"], results[f"{name}.resumed"]
    assert resumed["resumed_with"] == [STOP]
    assert resumed["steps"] == unbroken["steps"] == list(range(1, STEPS + 1))
    assert resumed["losses"] == unbroken["losses"]
    assert resumed["weights"] == unbroken["weights"]
    assert unbroken["resumed"] == []
    workers = SAME[name][0]
    assert resumed["resumed"] == [[STOP, workers, workers]]


@pytest.mark.parametrize("name", OTHER)
def test_another_number_of_ranks_or_stage_goes_on_with_the_losses_of_the_unbroken_run(results, name):
    source, workers, _ = OTHER[name]
    unbroken, resumed = results[f"{source}.unbroken"], results[name]
    assert resumed["resumed_with"] == [STOP]
    assert resumed["steps"] == unbroken["steps"]
    assert resumed["losses"] == pytest.approx(unbroken["losses"], abs=LOSS_TOLERANCE)
    # The moments and the step count came along: a fresh optimizer would be off by far more than a sum's order.
    assert resumed["losses"][STOP:] != unbroken["losses"][:STOP]
    assert resumed["resumed"][0][2] == workers


def test_in_a_bucket_snapshots_are_what_they_are_in_a_folder(results):
    broken, resumed, unbroken = results["bucket.broken"], results["bucket.resumed"], results["lora-3.unbroken"]
    assert (broken["lines"], resumed["lines"]) == ([], [])
    assert (resumed["resumed_with"], resumed["resumed"]) == ([STOP], [[STOP, 2, 2]])
    assert (resumed["losses"], resumed["weights"]) == (unbroken["losses"], unbroken["weights"])
    # The same snapshot, by another number of ranks.
    alone = results["bucket.alone"]
    assert alone["resumed_with"] == [STOP]
    assert alone["losses"] == pytest.approx(unbroken["losses"], abs=LOSS_TOLERANCE)


def test_taking_snapshots_changes_nothing(results):
    """The broken run wrote one after every step, the unbroken one none."""
    for name in SAME:
        assert results[f"{name}.broken"]["losses"] == results[f"{name}.unbroken"]["losses"][:STOP]


def test_the_two_latest_are_kept(results):
    assert [name[:8] for name in results["lora-0.broken"]["left"]] == ["00000002", "00000003"]


def test_a_run_that_is_resumed_twice_is_whole(results):
    whole, twice = results["lora-0.unbroken"], results["thrice"]
    assert twice["resumed"] == [[3, 1, 1], [5, 1, 1]]
    assert (twice["losses"], twice["steps"], twice["weights"]) == (whole["losses"], whole["steps"], whole["weights"])
    assert twice["tokens"] == whole["tokens"]
    # Each step's own seconds once, whichever process took it.
    assert twice["seconds"] == pytest.approx(twice["sum_seconds"])
    assert twice["before"] > 0


@pytest.mark.parametrize("name", ["flipped", "commit"])
def test_a_damaged_snapshot_is_passed_over_with_a_line_for_the_one_before(results, name):
    got = results[name]
    assert got["resumed_with"] == [2]
    assert len(got["lines"]) == 1
    assert "00000003-" in got["lines"][0]
    assert "is not used: " in got["lines"][0]
    assert got["weights"] == results["lora-0.unbroken"]["weights"]


def test_without_an_intact_snapshot_training_starts_again(results):
    got = results["all-cut"]
    assert got["resumed_with"] == []
    assert all("is not used: curve.jsonl has" in line for line in got["lines"])
    assert len(got["lines"]) == 2
    assert got["weights"] == results["lora-0.unbroken"]["weights"]


def test_a_folder_without_its_commit_is_no_snapshot(results):
    got = results["uncommitted"]
    assert (got["resumed_with"], got["lines"]) == ([], [])
    assert got["weights"] == results["lora-0.unbroken"]["weights"]


def test_the_snapshot_of_other_rows_is_never_loaded(results):
    got = results["other-rows"]
    assert (got["resumed_with"], got["resumed"]) == ([], [])
    assert len(got["lines"]) == 2
    assert all(line.endswith("it is of another trial, recipe or rows.") for line in got["lines"])


def test_a_run_that_is_to_leave_does_so_after_a_snapshot_and_comes_back_to_the_bit(results):
    left, back, unbroken = results["left"], results["come-back"], results["lora-2.unbroken"]
    assert left["left_after"] == 4
    assert [name[:8] for name in left["left"]] == ["00000004"]
    assert back["resumed_with"] == [4]
    assert (back["losses"], back["weights"]) == (unbroken["losses"], unbroken["weights"])


def test_checkpoints_are_kept_at_their_steps_and_change_nothing(results):
    kept, unbroken = results["kept"], results["lora-0.unbroken"]
    assert list(kept["kept"]) == ["checkpoint-00000001", "checkpoint-00000002", "checkpoint-00000004"]
    assert len({*kept["kept"].values(), kept["weights"]}) == 4
    assert (kept["losses"], kept["weights"]) == (unbroken["losses"], unbroken["weights"])


def test_a_resumed_run_has_the_checkpoints_of_the_unbroken_one(results):
    resumed = results["kept.resumed"]
    assert resumed["resumed_with"] == [STOP]
    assert (resumed["kept"], resumed["weights"]) == (results["kept"]["kept"], results["kept"]["weights"])


def test_a_run_whose_checkpoint_is_damaged_starts_from_before_it(results):
    """It was after step 2, and the snapshots left are of steps 2 and 3."""
    got = results["kept.damaged"]
    assert got["resumed_with"] == []
    assert [line.partition(" is not used: ")[2] for line in got["lines"]] == [
        "the checkpoint after step 2, which is to be kept, is not there: adapter_model.safetensors does not have the bytes that "
        "were written."
    ] * 2
    assert got["kept"] == results["kept"]["kept"]


def test_weights_that_cannot_be_kept_end_the_trial_on_all_ranks_with_the_reason(results):
    """A curve of checkpoints with a hole would look like one without."""
    got = results["kept.no-room"]
    assert got["refused"].startswith("the weights after step 2 cannot be kept: File too large (")
    assert got["steps"] == [1, 2]


def test_a_resumed_run_has_the_looks_of_the_unbroken_one_and_none_after_steps_with_other_responses(results):
    """A curve without its first half would begin in the middle, and one of two sets of responses is of neither."""
    whole = results["followed.unbroken"]["looks"]
    assert [step for step, *_ in whole] == [1, 2, 3, 4, 6]
    assert results["followed.resumed"]["looks"] == whole
    for source in ("lora-0", "followed-other", "followed-more"):
        got = results[f"followed.after-{source}"]
        assert (got["looks"], len(got["lines"])) == ([], 1)
        assert f"not followed, as the first {STOP} steps" in got["lines"][0]
        assert got["weights"] == results["lora-0.unbroken"]["weights"]
