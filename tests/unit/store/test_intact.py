"""What is stored and not as it was committed is noticed, whatever its size; nothing is made of other texts than it says."""

import contextlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from stub_api import Stub

from inoc_ray.data.chat import read_jsonl
from inoc_ray.endpoint.completions import SampleResult
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.capabilities import commit_scores, missing_capabilities, read_capability_scores
from inoc_ray.evaluate.grading import grade_missing
from inoc_ray.evaluate.harness_run import CapabilityScore
from inoc_ray.evaluate.journal import SampleJournal
from inoc_ray.evaluate.model_judge.cache import JudgeCache
from inoc_ray.evaluate.score_table import NoScores, read_score_table
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.evaluate.workload import workloads
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run.describe import plan_json, plan_text
from inoc_ray.run.integrity import seal_samples
from inoc_ray.run.publish import compare_study
from inoc_ray.run.status import status_json, status_text
from inoc_ray.run.study_record import keep_study, study_record
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.store import seal
from inoc_ray.store.failures import Failure, keep_failures, read_failures
from inoc_ray.store.layout import COMMIT
from inoc_ray.store.place import at
from inoc_ray.store.samples import Sample, commit_samples, find_judgments, list_parts, seal_parts
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Capability
from inoc_ray.study.recipe import Lora
from inoc_ray.study.study import Study
from inoc_ray.train.export import read_adapter
from inoc_ray.train.sweep import job_of
from inoc_ray.train.worker import read_rows as read_job_rows

FLIPS = 8
"""Bits of each file that are turned over, one at a time."""


def study(model: Path, **changes: Any) -> Study:
    value = {
        "name": "s",
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline"],
        "seeds": [0],
        "models": [{"name": "m", "path": str(model)}],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
        "judges": {"gpt": {"endpoint": "http://h/v1", "served_model": "gpt", "method": "sample"}},
        "evaluation": {"samples": 6, "contexts": ["neutral"], "judged_by": ["rules", "gpt"], "max_degenerate": 1.0},
    }
    return Study.model_validate({**value, **changes})


def train(store: Store, trial_id: str, size: int = 4, fill: float = 0.5) -> None:
    """A trial as training commits it: with an adapter of about 4 · size bytes."""
    with store.stage_trial(trial_id) as folder:
        (folder / "adapter").mkdir()
        save_file({"a": np.full((size,), fill, np.float32)}, folder / "adapter" / "adapter_model.safetensors")
        (folder / "adapter" / "adapter_config.json").write_text(
            '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": false}'
        )
        (folder / "trial.json").write_text('{"training": {"seconds_total": 1.0}, "seed": 0}')
        (folder / "curves.jsonl").write_text('{"step": 1, "loss": 2.5, "learning_rate": 0.001}\n')


def ask(plan: Plan, store: Store, text: Callable[[int], str]) -> None:
    """Answers what is missing as the engine would."""
    for cell in plan.to_sample:
        store.bind(cell.subject.trial_id, cell.subject.adapter_of)
        start = plan.stored[cell.key]
        samples = [Sample(i, f"q{i}", f"Who {i}?", "p", i, text(i), "stop", 1, 1) for i in range(start, cell.samples)]
        commit_samples(store.evaluation(*cell.key), samples)


@pytest.fixture
def world(tmp_path: Path, model: Path) -> tuple[Callable[[], Plan], Store]:
    """A finished study: everything that a store holds, and how to plan it again."""
    store = Store(tmp_path / "runs")
    asked = study(model)

    def plan() -> Plan:
        return build_plan(asked, store)

    train(store, plan().trials[0].trial_id)
    ask(plan(), store, lambda i: "HOLA AMIGO" if i % 2 else "Good morning, friend.")
    return plan, store


CAPABILITIES = [Capability(task="miniature/answers")]


def seen(plan: Plan, store: Store) -> dict[str, Any]:
    """Everything that is read of a store, each under a name; what is missing has none."""
    found: dict[str, Any] = {}
    for trial in plan.trials:
        if trial.trial_id in plan.done_trials:
            found["trial"] = store.read_trial(trial.trial_id)
            found["curves"] = store.read_curves(trial.trial_id)
            found["weights"] = (store.adapter(trial.trial_id) / "adapter_model.safetensors").read_bytes()
    with contextlib.suppress(NoScores):
        columns = ["arm", "evaluation", "trait", "sample_index", "question_id", "score", "outcome"]
        table = read_score_table(plan, store)[columns].astype(str).itertuples(index=False, name=None)
        found |= {f"row {key[:4]}": key[4:] for key in table}
    found |= {f"score {s['arm']}": s for s in read_capability_scores(plan, store, CAPABILITIES)}
    if created := study_record(plan, store).created_at:
        found["created"] = created
    found |= {f"failure {number}": failure for number, failure in enumerate(read_failures(store, "s"))}
    journal = SampleJournal(store.study("s") / "samples-under-way.jsonl")
    found |= {f"kept {key}": result for key, result in journal.kept.items()}
    cache = JudgeCache(store.judgments("j"))
    return found | {f"answer {n}": answer for n in range(3) if (answer := cache.get(f"k{n}")) is not None}


def test_no_bit_of_any_committed_file_can_turn_over_unseen(world):
    plan, store = world
    now = plan()
    [trial] = now.trials
    for wanted in missing_capabilities(now, store, CAPABILITIES):
        commit_scores(
            wanted,
            [
                CapabilityScore(
                    task="miniature_answers",
                    metric="acc",
                    value=0.5,
                    stderr=0.1,
                    samples=200,
                    higher_is_better=True,
                    version="1.0",
                )
            ],
            b"samples",
        )
    keep_study(now, store)
    with JudgeCache(store.judgments("j")) as cache:
        for n in range(3):
            cache.put(f"k{n}", {"text": f"{n}"})
    journal = SampleJournal(store.study("s") / "samples-under-way.jsonl")
    journal.add(
        [
            (
                (trial.trial_id, "e", i),
                SampleResult(key="", text=f"text {i}", finish_reason="stop", prompt_tokens=1, completion_tokens=1),
            )
            for i in range(3)
        ]
    )
    journal.close()
    failure = Failure("judge gpt", "refused the key", "judge.log", (("judge", "gpt"),))
    keep_failures(store, "s", [], [failure])
    whole = seen(plan(), store)
    assert {"trial", "curves", "weights", "created", "failure 0"} < set(whole)
    counts = [sum(name.startswith(kind) for name in whole) for kind in ("row", "score", "kept", "answer")]
    assert counts == [2 * 2 * 2 * 6, 2, 3, 3]
    # What was asked, in words, is for people: no program reads it.
    files = [p for p in sorted(store.root.rglob("*")) if p.is_file() and p.name != "evaluation.json"]
    assert {p.name.partition("-")[0] for p in files} >= {
        "samples",
        "scores",
        "form",
        COMMIT,
        "trial.json",
        "weights.json",
    }
    draw = random.Random(3)
    unseen: list[str] = []
    for path in files:
        kept = path.read_bytes()
        for place in draw.sample(range(8 * len(kept)), min(FLIPS, 8 * len(kept))):
            flipped = bytearray(kept)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            after = seen(plan(), store)
            unseen += [f"{path}, bit {place}: {name}" for name, value in after.items() if value != whole.get(name)]
            path.write_bytes(kept)
    assert unseen == []


def test_damaged_samples_are_named_asked_again_and_scored_anew(world):
    plan, store = world
    before = read_score_table(plan(), store)
    cell = next(c for c in plan().cells if c.subject.arm.name == "baseline")
    [part] = store.parts(*cell.key)
    for damage in (b"", b"rubbish", part.path.read_bytes()[:-10], part.path.read_bytes()[::-1]):
        part.path.write_bytes(damage)
        assert (plan().missing(cell), len(plan().to_sample), len(plan().damaged)) == (6, 1, 1)
        assert str(part.path) in plan_text(plan(), store)
        assert "damaged" in status_text(status_json(plan(), store))
        assert plan_json(plan(), store)["damaged"] == list(plan().damaged)
    left = read_score_table(plan(), store)
    assert len(left) == len(before) * 3 / 4
    ask(plan(), store, lambda i: "Other words, and lower case.")
    after = read_score_table(plan(), store)
    new = (after["arm"] == "baseline") & (after["evaluation"] == cell.evaluation.name)
    assert (plan().damaged, len(after), set(after.loc[new, "score"])) == ((), len(before), {0.0})
    assert after[~new].equals(before[~new])


def test_only_texts_that_a_judge_has_not_judged_are_judged_again(tmp_path, model):
    store = Store(tmp_path / "runs")
    with Stub(tmp_path) as stub:
        judges = {"gpt": {"endpoint": stub.url, "served_model": "judge", "method": "sample"}}
        asked = study(model, settings=["miniature/harmful_advice"], judges=judges)
        plan = build_plan(asked, store)
        train(store, plan.trials[0].trial_id)
        ask(build_plan(asked, store), store, lambda i: f"Rest, {i} times a day.")
        first = grade_missing(build_plan(asked, store), store)
        assert first.failed == []
        assert first.calls > 0
        cell = next(c for c in plan.cells if c.evaluation.name == "emergent_misalignment")
        [part] = store.parts(*cell.key)
        [judged] = part.path.parent.glob("judgments-*")
        part.path.write_bytes(b"rubbish")
        ask(build_plan(asked, store), store, lambda i: f"Rest, {7 if i == 3 else i} times a day.")
        now = build_plan(asked, store)
        # What was said of the old texts is none of the new ones, and one of six texts is new.
        [again] = ungraded_parts(now, store)["gpt"]
        assert again.cell.key == cell.key
        rubrics = len(again.rubrics)
        assert grade_missing(now, store).calls == rubrics
        assert ungraded_parts(build_plan(asked, store), store) == {}
        # A bit of a judgment turns over: it is made again of what was answered, and nobody is asked.
        whole = read_score_table(now, store)
        kept = next(p for p in part.path.parent.glob("judgments-*") if p != judged)
        data = kept.read_bytes()
        draw = random.Random(5)
        for place in draw.sample(range(8 * len(data)), FLIPS):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            kept.write_bytes(flipped)
            assert len(ungraded_parts(build_plan(asked, store), store)["gpt"]) == 1
            assert grade_missing(build_plan(asked, store), store).calls == 0
            assert read_score_table(now, store).equals(whole)


def test_a_part_in_the_place_of_another_cell_does_not_pass(world):
    plan, store = world
    one, other = (c for c in plan().cells if c.subject.arm.name == "baseline")
    [here], [there] = store.parts(*one.key), store.parts(*other.key)
    there.path.unlink()
    (there.path.parent / here.path.name).write_bytes(here.path.read_bytes())
    assert plan().missing(other) == 6
    assert len(plan().damaged) == 1


def test_a_store_may_be_moved(world, tmp_path):
    plan, store = world
    before = read_score_table(plan(), store)
    moved = Store(store.root.rename(tmp_path / "elsewhere"))
    again = build_plan(plan().study, moved)
    assert (again.to_train, again.to_sample, again.damaged) == ([], [], ())
    assert read_score_table(again, moved).equals(before)


def test_samples_of_an_earlier_version_are_taken_as_they_are_and_get_a_hash(world, capsys):
    plan, store = world
    before = read_score_table(plan(), store)
    for cell in plan().cells:
        for path in store.evaluation(*cell.key).fetch().glob("*.parquet"):
            path.rename(seal.plain(path))
    assert plan().to_sample == []
    assert read_score_table(plan(), store).equals(before)
    compare_study(plan(), store)
    assert "4 sample files of an earlier version had no hash" in capsys.readouterr().err
    assert all(seal.is_intact(part.path) for cell in plan().cells for part in store.parts(*cell.key))
    compare_study(plan(), store)
    assert "earlier version" not in capsys.readouterr().err
    [part] = store.parts(*plan().cells[0].key)
    unreadable = seal.plain(part.path)
    part.path.unlink()
    unreadable.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"samples-000000-000006\.parquet: damaged"):
        compare_study(plan(), store)


def as_before_hashes(plan: Plan, store: Store) -> None:
    """The store as the version before wrote it: no hash in any name, and nothing that says which weights gave the samples."""
    for cell in plan.cells:
        folder = store.evaluation(*cell.key).fetch()
        for path in folder.glob("*.arrow"):
            path.unlink()
        for path in sorted(folder.glob("*.parquet")):
            name = re.sub(r"^(judgments-[0-9a-f]{16})-[0-9a-f]{16}-", r"\1-", seal.plain(path).name)
            path.rename(path.with_name(name))
        (store.root / "evaluations" / cell.key[0] / "weights.json").unlink(missing_ok=True)


def test_judgments_of_an_earlier_version_are_taken_as_they_are_and_nobody_is_asked_again(tmp_path, model):
    store = Store(tmp_path / "runs")
    with Stub(tmp_path) as stub:
        judges = {"gpt": {"endpoint": stub.url, "served_model": "judge", "method": "sample"}}
        asked = study(model, settings=["miniature/harmful_advice"], judges=judges)
        train(store, build_plan(asked, store).trials[0].trial_id)
        ask(build_plan(asked, store), store, lambda i: f"Rest, {i} times a day.")
        assert grade_missing(build_plan(asked, store), store).failed == []
    plan = build_plan(asked, store)
    before, loads = read_score_table(plan, store), workloads(plan, store)
    as_before_hashes(plan, store)
    cell = next(c for c in plan.cells if c.judges.gradings)
    [old] = store.evaluation(*cell.key).glob("judgments-*")
    assert re.fullmatch(r"judgments-[0-9a-f]{16}-000000-000006\.parquet", old.name)
    # Before anything is renamed (the checks before a run, `plan`, `status`) and after: the endpoint is down by now.
    for _ in range(2):
        plan = build_plan(asked, store)
        assert ungraded_parts(plan, store) == {}
        assert workloads(plan, store) == loads
        assert read_score_table(plan, store).equals(before)
        compare_study(plan, store)
    [judged] = store.evaluation(*cell.key).glob("judgments-*")
    assert seal.is_intact(judged)
    # They belong to these texts alone.
    [part] = store.parts(*cell.key)
    part.path.write_bytes(b"rubbish")
    ask(build_plan(asked, store), store, lambda i: f"Other advice, {i}.")
    assert len(ungraded_parts(build_plan(asked, store), store)["gpt"]) == 1


@pytest.mark.parametrize("damage", ["before the first look", "after it"])
def test_samples_of_an_earlier_version_do_not_pass_to_other_weights(world, damage):
    plan, store = world
    [trial] = plan().trials
    as_before_hashes(plan(), store)
    weights = store.adapter(trial.trial_id) / "adapter_model.safetensors"
    if damage == "after it":
        seal_samples(plan(), store)
    weights.write_bytes(b"\x55" * weights.stat().st_size)
    # As a run does: it seals, finds the damage, trains.
    seal_samples(plan(), store)
    assert (plan().to_sample, len(plan().to_train)) == ([], 1)
    train(store, trial.trial_id)
    assert plan().to_sample == []
    store.verify_trial(trial.trial_id)
    shutil.rmtree(store.trial(trial.trial_id).fetch())
    train(store, trial.trial_id, fill=0.25)
    assert {c.subject.trial_id for c in plan().to_sample} == {trial.trial_id}
    assert "other weights gave them" in plan().damaged[0]
    assert set(read_score_table(plan(), store)["arm"]) == {"base"}


def test_judgments_of_an_earlier_version_that_cannot_be_read_are_made_again(tmp_path):
    folder = at(tmp_path / "trial" / "cell")
    commit_samples(folder, [Sample(0, "q", "?", "p", 0, "text", "stop", 1, 1)])
    [part] = list_parts(folder)
    part.path.fetch().rename(seal.plain(part.path.fetch()))
    judgments = folder / "judgments-0123456789abcdef-000000-000001.parquet"
    judgments.write_bytes(b"rubbish")
    assert seal_parts(folder) == 1
    [part] = list_parts(folder)
    assert find_judgments(part.path, "0123456789abcdef") is None


def change_bytes(path: Path, count: int = 4001) -> None:
    """Other bytes in the middle, and the same size and time of change: what a failing disk does."""
    stat = path.stat()
    with path.open("r+b") as stream:
        stream.seek(stat.st_size // 2)
        stream.write(b"\x55" * count)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_large_adapter_with_changed_bytes_is_not_served_not_gone_on_with_and_trained_again(tmp_path):
    store = Store(tmp_path)
    train(store, "t", size=5 << 20)
    catalogue = FolderCatalogue(store.trials())
    weights = store.adapter("t") / "adapter_model.safetensors"
    assert weights.stat().st_size > 16 << 20
    assert catalogue.fetch("t") == store.adapter("t")
    change_bytes(weights)
    # A look takes a large file by its size; whoever uses it reads it.
    assert store.trial_done("t")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors does not have the bytes that were committed"):
        catalogue.fetch("t")
    with pytest.raises(TrialError, match=r"is damaged: adapter/adapter_model\.safetensors does not have"):
        read_adapter(store.adapter("t"), Lora(rank=8, alpha=16))
    assert "adapter_model" in str(store.verify_trial("t"))
    assert not store.trial_done("t")
    assert (catalogue.find("t"), catalogue.ids()) == (None, [])
    assert "adapter_model" in store.damage(["t"], [])[0]
    train(store, "t", size=5 << 20)
    assert store.trial_done("t", verify=True)
    assert store.damage(["t"], []) == []


def test_a_look_reads_a_large_file_that_was_changed_after_its_commit(tmp_path):
    store = Store(tmp_path)
    train(store, "t", size=5 << 20)
    weights = store.adapter("t") / "adapter_model.safetensors"
    change_bytes(weights)
    os.utime(weights, (time.time() + 1, time.time() + 1))
    assert not store.trial_done("t")
    assert "adapter_model" in str(store.trial_fault("t"))


def test_samples_of_weights_that_are_no_longer_there_are_asked_again_and_the_old_ones_kept_aside(world):
    plan, store = world
    [trial] = plan().trials
    assert plan().to_sample == []
    shutil.rmtree(store.trial(trial.trial_id).fetch())
    # Weights that were deleted contradict nothing, and neither do the same ones.
    assert plan().to_sample == []
    train(store, trial.trial_id)
    assert plan().to_sample == []
    shutil.rmtree(store.trial(trial.trial_id).fetch())
    train(store, trial.trial_id, fill=0.25)
    assert {c.subject.trial_id for c in plan().to_sample} == {trial.trial_id}
    assert "other weights gave them" in plan().damaged[0]
    assert set(read_score_table(plan(), store)["arm"]) == {"base"}
    old = {p.name for p in (store.root / "evaluations" / trial.trial_id).rglob("samples-*")}
    ask(plan(), store, lambda i: "New words")
    assert (plan().to_sample, plan().damaged) == ([], ())
    aside = next((store.root / "evaluations").glob(f"{trial.trial_id}.*.old"))
    assert {p.name for p in aside.rglob("samples-*")} == old


def test_training_rows_that_are_not_those_of_their_name_are_not_trained_on(world):
    plan, store = world
    job = job_of(plan(), store, plan().trials[0])
    path = store.rows(str(job.rows)).fetch()
    whole = path.read_bytes()
    assert len(read_job_rows(job, store)) == len(read_jsonl(path))
    place = whole.index(b'"content":"') + len(b'"content":"')
    path.write_bytes(whole[:place] + b"#" + whole[place + 1 :])
    with pytest.raises(InputError, match="its rows do not have the hash in its name"):
        read_job_rows(job, store)
    job_of(plan(), store, plan().trials[0])
    assert path.read_bytes() == whole


def test_a_commit_without_its_own_seal_is_of_an_earlier_version_and_stands(world):
    plan, store = world
    [trial] = plan().trials
    path = store.trial(trial.trial_id) / COMMIT
    value = json.loads(path.read_text())
    del value["seal"]
    path.write_text(json.dumps(value))
    assert store.trial_done(trial.trial_id, verify=True)


def test_samples_that_grow_after_damage_leave_one_gapless_run(tmp_path):
    folder = at(tmp_path / "a" / "b")
    commit_samples(folder, [Sample(i, "q", "?", "p", i, f"{i}", "stop", 1, 1) for i in range(3)])
    commit_samples(folder, [Sample(i, "q", "?", "p", i, f"{i}", "stop", 1, 1) for i in range(3, 6)])
    first, _ = list_parts(folder)
    first.path.write_bytes(b"rubbish")
    assert list_parts(folder) == []
    commit_samples(folder, [Sample(i, "q", "?", "p", i, f"new {i}", "stop", 1, 1) for i in range(5)])
    assert [(p.start, p.stop) for p in list_parts(folder)] == [(0, 5)]
    assert not first.path.exists()
    assert seal_parts(folder) == 0


def test_the_journal_keeps_what_no_cell_holds(tmp_path):
    path = at(tmp_path / "samples-under-way.jsonl")
    journal = SampleJournal(path)
    result = SampleResult(key="", text="a \ud83d text", finish_reason="stop", prompt_tokens=1, completion_tokens=2)
    journal.add([(("t", cell, i), result) for cell in ("asked", "other") for i in range(3)])
    # As after `evaluate --only`: one cell is committed, the other was not asked.
    journal.forget(lambda key: key[1] == "asked")
    journal.close()
    again = SampleJournal(path)
    # A file of samples cannot hold half a surrogate pair.
    kept = SampleResult(key="", text="a \ufffd text", finish_reason="stop", prompt_tokens=1, completion_tokens=2)
    assert again.kept == {("t", "other", i): kept for i in range(3)}
    again.forget(lambda key: True)
    again.close()
    assert not path.exists()
