"""Unparsed is not zero."""

import errno
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from object_store import ObjectStore, Wire

from inoc_ray.evaluate import cell_scores
from inoc_ray.evaluate.score_table import read_score_table, sample_table, score_warnings
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.results.compare import compare
from inoc_ray.run.mlflow_records import trial_records
from inoc_ray.run.report_samples import read_samples
from inoc_ray.store import seal
from inoc_ray.store.filesystem import LocalFilesystem
from inoc_ray.store.place import Place, at
from inoc_ray.store.samples import Sample, commit_samples, list_parts, read_table, write_table
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study


@pytest.fixture
def plan_and_store(tmp_path):
    return filled(tmp_path, tmp_path / "runs")


def filled(tmp_path: Path, storage: Path | str) -> tuple[Plan, Store]:
    """A plan, and a store with all of its samples."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    study = Study.model_validate(
        {
            "name": "s",
            "settings": ["miniature/spanish_caps"],
            "arms": ["baseline"],
            "seeds": [0],
            "models": [{"name": "m", "path": str(folder)}],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
            # Empty responses stand for unreadable ones here, so the gate against them is open.
            "evaluation": {"samples": 10, "contexts": ["neutral"], "max_degenerate": 1.0},
        }
    )
    store = Store(storage)
    for cell in build_plan(study, store).cells:
        texts = ["HOLA AMIGO"] * 6 + [""] * 4 if cell.subject.arm.name == "baseline" else ["Hello friend"] * 10
        samples = [
            Sample(
                sample_index=i,
                question_id=f"q{i}",
                question="?",
                prompt="p",
                seed=i,
                text=text,
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=1,
            )
            for i, text in enumerate(texts)
        ]
        commit_samples(store.evaluation(cell.subject.trial_id, cell.evaluation_id), samples)
    return build_plan(study, store), store


def test_responses_that_cannot_be_judged_are_left_out_of_the_rate_and_counted(plan_and_store):
    plan, store = plan_and_store
    rows = compare(read_score_table(plan, store), "s").to_json()["rows"]
    caps = next(r for r in rows if (r["arm"], r["trait"], r["split"]) == ("baseline", "caps", "id"))
    assert (caps["rate"], caps["samples"], caps["unparsed"]) == (1.0, 10, 4)


def test_an_evaluation_with_too_many_unreadable_scores_fails_by_name(plan_and_store):
    plan, store = plan_and_store
    failures = score_warnings(plan, read_score_table(plan, store))
    assert len(failures) == 4
    assert all("baseline · seed 0 · " in f and "40% of the scores could not be read (limit 20%)" in f for f in failures)


def test_scores_are_kept_beside_the_samples_and_made_once(plan_and_store):
    plan, store = plan_and_store
    first = read_score_table(plan, store)
    files = {p: p.stat().st_mtime_ns for p in store.root.rglob("scores-*.arrow")}
    assert len(files) == 4
    assert read_score_table(plan, store).equals(first)
    assert files == {p: p.stat().st_mtime_ns for p in store.root.rglob("scores-*.arrow")}


def as_earlier(path: Place) -> None:
    """Write a derived table as an earlier version did."""
    table = read_table(path)
    columns = [name for name in table.column_names if name != "question_id"]
    write_table(seal.plain(path).with_suffix(".parquet"), table.select(columns))
    path.unlink()


def test_scores_of_an_earlier_version_are_taken_over_and_not_made_again(plan_and_store, monkeypatch):
    """They were parquet, and those of forms had no questions."""
    plan, store = plan_and_store
    first = read_score_table(plan, store)
    derived = [path for kind in ("scores", "form") for path in store.root.rglob(f"{kind}-*.arrow")]
    assert len(derived) == 8
    for path in derived:
        as_earlier(at(path))

    def again(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(cell_scores, "items_of", again)
    monkeypatch.setattr(cell_scores, "forms", again)
    for _ in range(2):
        assert read_score_table(plan, store).equals(first)
        assert {*store.root.rglob("*.arrow")} == {*derived}
        assert [path for path in store.root.rglob("*.parquet") if not path.name.startswith("samples-")] == []


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_whoever_may_only_read_scores_without_keeping_the_scores(plan_and_store, monkeypatch, refusal):
    plan, store = plan_and_store

    def refused(*_: object) -> None:
        raise OSError(refusal, "no")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFilesystem, "write", refused)
        if refusal == errno.ENOSPC:
            with pytest.raises(OSError, match="no"):
                read_score_table(plan, store)
            return
        first = read_score_table(plan, store)
    assert [*store.root.rglob("*.arrow")] == []
    assert read_score_table(plan, store).equals(first)
    assert len([*store.root.rglob("*.arrow")]) == 8


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
def test_a_bucket_that_may_only_be_read_is_scored_and_what_an_earlier_version_kept_there_is_read(
    tmp_path: Path, line: Wire, s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    plan, store = filled(tmp_path, f"s3://{s3_server.new_bucket()}/runs")
    if earlier:
        first = read_score_table(plan, store)
        for cell in plan.cells:
            for path in store.evaluation(*cell.key).iterdir():
                if path.suffix == ".arrow":
                    as_earlier(path)
    monkeypatch.setattr(line, "refuse_writes", True)
    found = read_score_table(plan, store)
    assert not [
        path for cell in plan.cells for path in store.evaluation(*cell.key).iterdir() if path.suffix == ".arrow"
    ]
    monkeypatch.setattr(line, "refuse_writes", False)
    assert found.equals(first if earlier else read_score_table(plan, store))


def test_a_base_is_stored_once_and_compared_under_every_recipe(plan_and_store):
    plan, store = plan_and_store
    recipe = plan.study.recipes["lora"]
    two = {"lora": recipe, "long": recipe.model_copy(update={"steps": 20})}
    plan = build_plan(plan.study.model_copy(update={"recipes": two}), store)
    frame = read_score_table(plan, store)
    base = frame[frame["kind"] == "base"]
    assert sorted(base["model"].unique()) == ["m/long", "m/lora"]
    assert base["seed"].isna().all()
    rows = compare(frame, "s").to_json()["rows"]
    assert {(r["model"], r["samples"], r["seeds"]) for r in rows if r["kind"] == "base"} == {
        ("m/long", 10, 1),
        ("m/lora", 10, 1),
    }
    samples = read_samples(plan, store)
    shown = [(c.model, c.evaluation, len(c.responses)) for c in samples.cells if c.arm == "base"]
    assert sorted(shown) == [
        (m, e, 10) for m in ("m/long", "m/lora") for e in ("in_distribution", "out_of_distribution")
    ]
    [record] = [r for r in trial_records(plan, store) if r.kind == "base"]
    assert record.samples_path is not None
    assert len(pd.read_parquet(record.samples_path.fetch())) == 20


def test_a_model_that_says_nothing_is_withheld_and_reported_and_the_others_are_not(plan_and_store):
    plan, store = plan_and_store
    strict = plan.study.evaluation.model_copy(update={"max_degenerate": 0.3})
    plan = replace(plan, study=plan.study.model_copy(update={"evaluation": strict}))
    frame = read_score_table(plan, store)
    rows = compare(frame, "s").to_json()["rows"]
    silent = [r for r in rows if r["arm"] == "baseline"]
    assert {(r["rate"], r["excluded"], r["unparsed"]) for r in silent} == {(None, 10, 0)}
    assert all(r["rate"] is not None for r in rows if r["arm"] == "base")
    named = score_warnings(plan, frame)
    assert len(named) == 2
    assert all("baseline · seed 0 · " in n and "rates withheld" in n for n in named)


def test_the_sample_table_calls_counted_only_what_is_counted(plan_and_store):
    plan, store = plan_and_store
    strict = plan.study.evaluation.model_copy(update={"max_degenerate": 0.3})
    plan = replace(plan, study=plan.study.model_copy(update={"evaluation": strict}))
    by_arm = {c.subject.arm.name: sample_table(plan, store, c.subject) for c in plan.cells}
    assert set(by_arm["baseline"]["outcome.caps"]) == {"withheld"}
    assert by_arm["baseline"]["shown.caps"].isna().all()
    assert set(by_arm["base"]["outcome.caps"]) == {"counted"}


def test_a_base_whose_answers_are_all_cut_has_a_rate_and_a_note_with_the_cure(tmp_path, plan_and_store):
    plan, _ = plan_and_store
    store = Store(tmp_path / "cut")
    strict = plan.study.evaluation.model_copy(update={"max_degenerate": 0.2})
    study = plan.study.model_copy(update={"evaluation": strict})
    for cell in plan.cells:
        is_base = cell.subject.arm.name == "base"
        samples = [
            Sample(
                sample_index=i,
                question_id=f"q{i}",
                question="?",
                prompt="p",
                seed=i,
                text="Hello friend, that is",
                finish_reason="length" if is_base else "stop",
                prompt_tokens=1,
                completion_tokens=1,
            )
            for i in range(10)
        ]
        commit_samples(store.evaluation(cell.subject.trial_id, cell.evaluation_id), samples)
    plan = build_plan(study, store)
    comparison = compare(read_score_table(plan, store), "s")
    rows = comparison.to_json()["rows"]
    assert all(r["rate"] == 0.0 for r in rows)
    assert {(r["arm"], r["cut"]) for r in rows} == {("base", 10), ("baseline", 0)}
    notes = [n for n in comparison.notes() if "max_tokens" in n]
    assert len(notes) == 2
    assert all("base 100%" in n and "baseline" not in n and "evaluation.overrides" in n for n in notes)
    assert score_warnings(plan, read_score_table(plan, store)) == []


def test_unreadable_scores_of_one_model_are_not_hidden_by_those_of_another(plan_and_store):
    plan, store = plan_and_store
    frame = read_score_table(plan, store)
    good = frame.assign(model="other", score=0.0, shown=0.0, outcome="counted")
    assert score_warnings(plan, pd.concat([frame, *[good] * 20])) != []


def test_a_part_that_another_study_stored_first_is_kept(tmp_path):
    for text in ("first", "second"):
        commit_samples(
            at(tmp_path),
            [
                Sample(
                    sample_index=0,
                    question_id="q",
                    question="?",
                    prompt="p",
                    seed=0,
                    text=text,
                    finish_reason="stop",
                    prompt_tokens=1,
                    completion_tokens=1,
                )
            ],
        )
    [part] = list_parts(at(tmp_path))
    assert pd.read_parquet(part.path.fetch())["text"].tolist() == ["first"]
