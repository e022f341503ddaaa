"""What a study says of fine-tunes that were trained for several studies on one storage: the looks that it asks for itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finished_study import write_study

from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Trial
from inoc_ray.results.dynamics import courses_of
from inoc_ray.run.followed import followed_of
from inoc_ray.run.load import load_study
from inoc_ray.store.commit import weights_in
from inoc_ray.store.store import Store
from inoc_ray.train.sweep import job_of

OWN = {"name": "shouted", "trait": "caps", "responses": [{"question": "Where?", "response": "HERE."}]}


def planned(folder: Path, **changes: Any) -> tuple[Plan, Store]:
    study = load_study(write_study(folder, arms=["baseline"], **changes))
    store = Store(study.storage)
    return build_plan(study, store), store


def commit(store: Store, trial: Trial, probes: Mapping[str, Mapping[str, str]], tokens: Mapping[str, int]) -> None:
    """A fine-tune that was followed: log-probability -10 before its one step, and -5 after it."""
    with store.stage_trial(trial.trial_id) as folder:
        weights_in(folder).mkdir(parents=True)
        (weights_in(folder) / "adapter_model.safetensors").write_bytes(trial.trial_id.encode())
        record = {
            "training": {"seconds_total": 1.0, "seconds_training": 1.0, "final_loss": 0.1},
            "probes": probes,
            "probe_tokens": {name: [3] * tokens[name] for name in probes},
        }
        (folder / "trial.json").write_text(json.dumps(record))
        before, after = ({name: [value] * tokens[name] for name in probes} for value in (-10.0, -5.0))
        line = {"step": 1, "loss": 1.0, "logprobs_before": before, "logprobs": after}
        (folder / "curves.jsonl").write_text(json.dumps(line) + "\n")


def test_sets_that_another_study_followed_in_the_same_fine_tunes_are_not_in_the_means_of_this_one(
    tmp_path: Path,
) -> None:
    """They would be in one seed's mean and not in the other's. One of the same name with other responses counts as missing."""
    plan, store = planned(tmp_path, dynamics={})
    first, second = plan.trials
    sets = {name: {"trait": name, "context": "neutral"} for name in ("spanish", "caps")}
    commit(store, first, sets, {"spanish": 10, "caps": 10})
    more = {"shouted": {"trait": "caps", "context": "neutral"}, "caps.none": {"trait": "caps", "context": "none"}}
    commit(store, second, sets | more, {"spanish": 4, "caps": 10, "shouted": 1, "caps.none": 10})
    plan, store = planned(tmp_path, dynamics={})
    followed = followed_of(plan, store)
    means = {(one.probe, one.step): one.seeds for one in courses_of(followed.looks) if one.seed is None}
    assert means == {("caps", 0): 2, ("caps", 1): 2, ("spanish", 0): 1, ("spanish", 1): 1}
    assert any("dynamics: 1 of 2 fine-tunes were done without" in note for note in plan.notes)
    # The second lacks the ten responses in Spanish, and the first what a study asks for beyond the setting's sets.
    plan, store = planned(tmp_path, dynamics={"probes": [OWN]})
    assert any("dynamics: 2 of 2 fine-tunes were done without" in note for note in plan.notes)


def test_a_set_of_the_same_name_with_other_responses_is_another_set(tmp_path: Path) -> None:
    """As many responses in the same context: only their text tells them apart."""
    plan, store = planned(tmp_path, dynamics={"probes": [OWN]})
    first, second = plan.trials
    other = {**OWN, "responses": [{"question": "Where?", "response": "THERE."}]}
    for trial, own in ((first, OWN), (second, other)):
        of_study, _ = planned(tmp_path, dynamics={"probes": [own]})
        record = job_of(of_study, store, trial).record["probes"]
        commit(store, trial, record, {name: 10 if name in ("spanish", "caps") else 1 for name in record})
    plan, store = planned(tmp_path, dynamics={"probes": [OWN]})
    followed = followed_of(plan, store)
    seeds = {one.probe: one.seeds for one in courses_of(followed.looks) if one.seed is None}
    assert seeds == {"spanish": 2, "caps": 2, "shouted": 1}
    assert any("dynamics: 1 of 2 fine-tunes were done without" in note for note in plan.notes)
