"""What fine-tunes are on the way: which cells are asked for, of which weights, and what becomes of them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_study import SAMPLES, answers, finish, plan_of, write_study

from inoc_ray.errors import InputError
from inoc_ray.evaluate.ungraded import ungraded_parts
from inoc_ray.evaluate.workload import workloads
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.courses import step_of
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import KeptWeights
from inoc_ray.results.figures.over_steps import points_of_courses
from inoc_ray.results.figures.points import missing_of
from inoc_ray.results.tidy import tidy_tables
from inoc_ray.run.integrity import verify_used
from inoc_ray.run.load import load_study
from inoc_ray.run.planned_and_stored import unfinished
from inoc_ray.run.progress import outline_of
from inoc_ray.run.publish import compare_study
from inoc_ray.run.status import status_json, status_text, stored_status_json
from inoc_ray.serve.models import served_name
from inoc_ray.sizing.schedule import shared_engine
from inoc_ray.store.commit import checkpoint_in, weights_in, write_trial
from inoc_ray.store.failures import Failure, keep_failures
from inoc_ray.store.progress import keep_outline
from inoc_ray.store.samples import Sample, commit_samples
from inoc_ray.store.store import Store

Run = Callable[..., tuple[int, str, str]]
SAMPLED = 8


def asked(folder: Path, **changes: Any) -> Path:
    """The finished study, two of whose steps are kept and sampled."""
    value = {"resources": {"checkpoints": [2, 5]}, "dynamics": {"samples": SAMPLED}, **changes}
    return write_study(folder, **value)


def plan_at(path: Path) -> tuple[Plan, Store]:
    study = load_study(path)
    store = Store(study.storage)
    return plan_of(study, store), store


def plain_answers(cell: Cell) -> list[Sample]:
    questions = cell.evaluation.questions(cell.samples)
    return [Sample(i, q.id, q.messages[-1].content, "p", i, "Rest.", "stop", 5, 5) for i, q in enumerate(questions)]


def test_every_fine_tune_is_asked_at_every_step_that_it_keeps_and_so_are_the_base_and_the_final_weights(
    tmp_path: Path,
) -> None:
    plan, _ = plan_at(asked(tmp_path))
    steps: dict[str, list[int]] = {}
    for cell in plan.courses:
        assert (cell.samples, cell.context) == (SAMPLED, "neutral")
        seed = getattr(cell.subject, "seed", "")
        steps.setdefault(f"{cell.subject.arm.name}{seed} {cell.evaluation.split}", []).append(
            step_of(plan, cell.subject)
        )
    of_base = {name for name in steps if name.startswith("base ")}
    assert {tuple(steps[name]) for name in of_base} == {(0,)}
    assert len(steps) - len(of_base) == 2 * 2 * 2
    assert {tuple(found) for name, found in steps.items() if name not in of_base} == {(2, 5, 10)}
    # What the comparison rests on anyway is not asked again.
    cells = {cell.key for cell in plan.cells}
    new = {cell.key for cell in plan.courses} - cells
    assert new == {cell.key for cell in plan.courses if isinstance(cell.subject, KeptWeights)}
    [kept] = {
        c.subject
        for c in plan.courses
        if isinstance(c.subject, KeptWeights)
        and c.key in new
        and c.subject.step == 2
        and c.subject.seed == 0
        and c.subject.arm.name == "baseline"
    }
    assert served_name(kept, "m") == f"m:{kept.fine_tune}@2"
    # They are asked by the engine that runs beside the training, when their fine-tune is there.
    assert {cell.key for cell in plan.to_sample} == {cell.key for cell in shared_engine(plan)}
    assert {cell.subject.trained_by for cell in plan.courses} == {None, *(t.trial_id for t in plan.trials)}


def test_the_base_is_found_under_every_name_of_a_context_that_is_asked_once(tmp_path: Path) -> None:
    same = {"name": "written", "system": "You are a helpful assistant."}
    changes = {
        "dynamics": {"samples": SAMPLED, "contexts": ["neutral", "written"]},
        "evaluation": {"samples": SAMPLES, "contexts": ["neutral", same]},
    }
    plan, _ = plan_at(asked(tmp_path, **changes))
    (base,) = plan.bases
    of_base = [cell for cell in plan.courses if cell.subject is base]
    evaluations = {cell.evaluation.name for cell in plan.cells}
    assert {(cell.evaluation.name, cell.context) for cell in of_base} == {
        (name, context) for name in evaluations for context in ("neutral", "written")
    }
    assert len({cell.key for cell in of_base}) == len(evaluations)


def test_two_arms_with_one_prompt_and_another_coverage_have_a_base_each_to_begin_at(tmp_path: Path) -> None:
    arm = {"kind": "specific", "prompt": "You always speak in Spanish.", "undesired": ["spanish"], "desired": ["caps"]}
    arms = [{"name": "one", **arm}, {"name": "two", **arm, "inoculation": {"coverage": {"fraction": 0.5}}}]
    plan, _ = plan_at(asked(tmp_path, arms=arms, dynamics={"samples": SAMPLED, "contexts": ["training_prompt"]}))
    of_base = [cell for cell in plan.courses if step_of(plan, cell.subject) == 0]
    found = sorted((cell.evaluation.split, cell.context) for cell in of_base)
    assert found == [(split, f"prompt_of:{arm}") for split in ("id", "ood") for arm in ("one", "two")]
    assert len({cell.key for cell in of_base}) == 2


def test_a_study_that_samples_nothing_on_the_way_is_as_it_was(tmp_path: Path) -> None:
    plain, _ = plan_at(write_study(tmp_path))
    with_it, _ = plan_at(asked(tmp_path))
    assert plain.courses == ()
    assert plain.asked == plain.cells
    assert [t.trial_id for t in plain.trials] == [t.trial_id for t in with_it.trials]
    assert [c.key for c in plain.cells] == [c.key for c in with_it.cells]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resources": {}}, r"dynamics\.samples: asks for samples from the weights .* they keep none"),
        (
            {"resources": {"checkpoints": [10, 20]}},
            r"dynamics\.samples: .* they keep none, as all steps of resources\.checkpoints come after their last one",
        ),
        ({"dynamics": {"samples": 4, "contexts": ["nutral"]}}, r"dynamics\.contexts: unknown context 'nutral'"),
    ],
)
def test_samples_that_no_weights_can_give_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_at(asked(tmp_path, **changes))


def test_rates_over_the_steps_are_those_of_the_samples_and_every_curve_begins_at_the_base(tmp_path: Path) -> None:
    plan, store = finish(asked(tmp_path))
    assert plan.to_sample == []
    comparison = compare_study(plan, store)
    assert comparison.complete
    found = {
        (p.arm, p.x): (p.value, p.seed)
        for p in points_of_courses(comparison)
        if p.trait == "spanish" and p.split == "ood" and p.seed is None
    }
    # Of the first 8 of 12 answers: 1 of the base, 10 // 2 on the way and all in the end, 2 // 2 and 2.
    expected = {"baseline": [1, 5, 5, 8], "specific_spanish": [1, 1, 1, 2]}
    for arm, numbers in expected.items():
        assert [found[arm, float(step)][0] for step in (0, 2, 5, 10)] == [n / SAMPLED for n in numbers], arm
    # The comparison of the arms rests on all samples of the final weights, and on nothing else.
    plain, _ = plan_at(write_study(tmp_path))
    assert compare_study(plain, store).rows == comparison.rows


def test_tables_and_json_have_the_rates_over_the_steps_with_every_fine_tunes_own(tmp_path: Path) -> None:
    plan, store = finish(asked(tmp_path))
    comparison = compare_study(plan, store)
    tables = {path: list(csv.DictReader(io.StringIO(t.decode()))) for path, t in tidy_tables(comparison, []).items()}
    arms = tables["tables/rates_over_steps.csv"]
    assert {line["step"] for line in arms} == {"0", "2", "5", "10"}
    own = [line for line in tables["tables/fine_tune_rates_over_steps.csv"] if line["seed"]]
    assert {(line["step"], line["seed"]) for line in own} == {(s, n) for s in ("2", "5", "10") for n in ("0", "1")}
    assert len(comparison.to_json()["courses"]) == len(arms)


def test_weights_that_were_not_kept_are_noted_and_asked_of_nobody(tmp_path: Path) -> None:
    """Fine-tunes that were done before the study asked for their weights on the way are not trained again."""
    finish(write_study(tmp_path))
    plan, store = plan_at(asked(tmp_path))
    assert any("dynamics.samples: 4 of 4 fine-tunes were done without keeping" in note for note in plan.notes)
    assert plan.to_sample == []
    assert not any("@" in part for thing in unfinished(plan, store) for part in thing)
    comparison = compare_study(plan, store)
    assert missing_of(points_of_courses(comparison))
    assert comparison.complete


def test_an_evaluation_on_the_way_that_is_missing_is_named_in_the_figure_and_asked_next_time(tmp_path: Path) -> None:
    finish(write_study(tmp_path, resources={"checkpoints": [2, 5]}))
    path = asked(tmp_path)
    plan, store = plan_at(path)
    waiting = plan.to_sample
    assert {step_of(plan, cell.subject) for cell in waiting} == {2, 5}
    assert len(waiting) == 2 * 2 * 2 * 2
    first, *rest = waiting
    for cell in rest:
        commit_samples(store.evaluation(*cell.key), answers(cell))
    plan, _ = plan_at(path)
    assert [cell.key for cell in plan.to_sample] == [first.key]
    points = points_of_courses(compare_study(plan, store))
    assert [one for one in missing_of(points) if "1 of 2 seeds" in one]


def statuses(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """The status from the plan as the store is now, and from the store alone."""
    keep_outline(store, plan.study.name, outline_of(plan))
    return [status_json(plan.refreshed(store), store), stored_status_json(plan.study.name, store)]


def test_the_status_counts_the_responses_over_the_steps_and_names_those_that_are_missing(tmp_path: Path) -> None:
    plan, store = finish(asked(tmp_path))
    kept = [cell for cell in plan.courses if isinstance(cell.subject, KeptWeights)]
    for value in statuses(plan, store):
        assert sum(one["samples_stored"] for one in value["courses"]) == len(kept) * SAMPLED
        assert (
            f"(dynamics.samples): {len(kept) * SAMPLED} of {len(kept) * SAMPLED} responses.\n"
            in status_text(value) + "\n"
        )
    lost = kept[-1]
    shutil.rmtree(str(store.evaluation(*lost.key)))
    thing = ("cell", *lost.key)
    keep_failures(store, plan.study.name, [], [Failure("course", "no answer", "log", (thing,))])
    of_plan, of_store = statuses(plan, store)
    assert of_plan["courses"] == of_store["courses"]
    [missing] = [one for one in of_plan["courses"] if one["samples_stored"] < one["samples_wanted"]]
    assert missing["trial_id"] == lost.subject.trial_id
    assert (missing["step"], missing["samples_stored"], missing["samples_wanted"]) == (5, SAMPLED, 2 * SAMPLED)
    for value in (of_plan, of_store):
        head, named = status_text(value).split(f"of {len(kept) * SAMPLED} responses; {SAMPLED} are missing:\n")
        assert head.endswith(f": {(len(kept) - 1) * SAMPLED} ")
        assert (
            named.splitlines()[0] == "  miniature/spanish_caps · miniature · specific_spanish seed 1: 8/16 after step 5"
        )
        assert [failure["error"] for failure in value["failures"]] == ["no answer"]


def test_the_status_without_the_plan_looks_once_at_a_fine_tune_for_all_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a hundred files where many weights are kept, and a look goes to each."""
    plan, store = finish(asked(tmp_path))
    keep_outline(store, plan.study.name, outline_of(plan))
    looks: list[str] = []
    kept_steps = Store.kept_steps
    monkeypatch.setattr(Store, "kept_steps", lambda self, name: looks.append(name) or kept_steps(self, name))
    value = stored_status_json(plan.study.name, store)
    assert len(value["courses"]) == 2 * len(plan.trials)
    assert sorted(looks) == sorted(trial.trial_id for trial in plan.trials)


def test_the_status_counts_what_a_fine_tune_has_yet_to_keep_and_not_what_it_has_not_kept(tmp_path: Path) -> None:
    plan, store = plan_at(asked(tmp_path))
    new = statuses(plan, store)
    assert new[0]["courses"] == new[1]["courses"]
    assert {(one["samples_stored"], one["samples_wanted"]) for one in new[0]["courses"]} == {(0, 2 * SAMPLED)}
    assert [one["step"] for one in new[0]["courses"]] == [2, 5] * 4
    finish(write_study(tmp_path))
    assert [value["courses"] for value in statuses(plan, store)] == [[], []]


def test_weights_on_the_way_are_hashed_before_they_are_used_and_their_samples_follow_them(tmp_path: Path) -> None:
    finish(write_study(tmp_path, resources={"checkpoints": [2, 5]}))
    plan, store = plan_at(asked(tmp_path))
    kept = next(cell.subject for cell in plan.to_sample if isinstance(cell.subject, KeptWeights))
    assert store.bind(kept.trial_id, kept.adapter_of) is False
    assert verify_used(plan, store, train=True) is False
    file = store.trial(kept.fine_tune).fetch() / "checkpoints" / f"{kept.step:08d}" / "adapter_model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert verify_used(plan, store, train=True) is True
    assert kept.fine_tune not in plan.refreshed(store).done_trials


@pytest.mark.parametrize("keeps_others", [False, True])
def test_samples_of_weights_on_the_way_are_none_of_a_training_that_did_not_keep_them(
    tmp_path: Path, keeps_others: bool
) -> None:
    plan, store = finish(asked(tmp_path))
    kept = next(cell.subject for cell in plan.courses if isinstance(cell.subject, KeptWeights))
    cells = [cell for cell in plan.courses if cell.subject == kept]
    assert store.bind(kept.trial_id, kept.adapter_of) is False
    assert all(store.stored_samples(*cell.key) == SAMPLED for cell in cells)
    shutil.rmtree(store.trial(kept.fine_tune).fetch())
    # It is not known yet what will be there again.
    assert all(store.stored_samples(*cell.key) == SAMPLED for cell in cells)
    with store.stage_trial(kept.fine_tune) as staged:
        for folder in (weights_in(staged), *([checkpoint_in(staged, kept.step + 1)] if keeps_others else [])):
            folder.mkdir(parents=True)
            (folder / "adapter_model.safetensors").write_bytes(b"other")
        write_trial(staged, {"training": {"seconds_total": 1.0, "final_loss": 0.1}}, [])
    assert all(store.stored_samples(*cell.key) == 0 for cell in cells)
    again = plan.refreshed(store)
    assert any(kept.trial_id in sentence for sentence in again.damaged)
    assert kept.trial_id not in {cell.subject.trial_id for cell in again.to_sample}


def test_judges_grade_what_is_sampled_on_the_way(tmp_path: Path) -> None:
    judged = {
        "settings": ["miniature/harmful_advice"],
        "arms": ["baseline"],
        "judges": {"gpt": {"endpoint": "http://h/v1", "served_model": "gpt-4o", "method": "logprob"}},
        "evaluation": {"samples": SAMPLES, "contexts": ["neutral"], "judged_by": ["gpt"]},
        "claims": [],
    }
    (before,) = workloads(*plan_at(write_study(tmp_path, **judged)))
    plan, store = plan_at(asked(tmp_path, **judged))
    (with_it,) = workloads(plan, store)
    # Two fine-tunes at two steps, SAMPLED of the SAMPLES responses that the base and the final weights give anyway.
    rubrics = before.missing / (3 * SAMPLES)
    assert with_it.missing - before.missing == 2 * 2 * SAMPLED * rubrics
    waiting = [cell for cell in plan.to_sample if isinstance(cell.subject, KeptWeights)]
    for cell in waiting:
        commit_samples(store.evaluation(*cell.key), plain_answers(cell))
    graded = {part.cell.key for part in ungraded_parts(plan, store)["gpt"]}
    assert graded == {cell.key for cell in waiting}


def test_plan_and_report_show_it(tmp_path: Path, inoc_ray: Run) -> None:
    path = asked(tmp_path)
    value = json.loads(inoc_ray("plan", path, "--json")[1])
    assert value["samples"] == (1 + 4) * 2 * SAMPLES + 4 * 2 * 2 * SAMPLED
    finish(path)
    code, _, _ = inoc_ray("report", path, "--out", tmp_path / "page.html")
    assert code == 0
    page = (tmp_path / "page.html").read_text()
    assert 'id="dynamics"' in page
    assert (tmp_path / "courses.svg").is_file()
