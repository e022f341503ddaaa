"""When a fine-tune is looked at, and which fixed responses are followed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished_study import finish, write_study
from hypothesis import given
from hypothesis import strategies as st

from inoc_ray.data.chat import rows_hash
from inoc_ray.data.tokenize import load_tokenizer
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.probes import Probe, probes_of
from inoc_ray.run.load import load_study
from inoc_ray.run.preflight import check_probes
from inoc_ray.settings import get
from inoc_ray.store.store import Store
from inoc_ray.study.dynamics import FEWEST, MOST, looks_at
from inoc_ray.train.dynamics import SHARE, _passes, points_for
from inoc_ray.train.job import TrialJob
from inoc_ray.train.layout import Layout
from inoc_ray.train.sweep import job_of
from inoc_ray.train.worker import encode_probes


@given(st.integers(1, 100_000), st.integers(2, 50))
def test_looks_begin_at_0_end_at_the_last_step_and_lie_further_and_further_apart(steps: int, points: int) -> None:
    found = looks_at(steps, points)
    assert (found[0], found[-1]) == (0, steps)
    assert len(found) <= points
    assert list(found) == sorted(set(found))
    # Rounding to whole steps moves each by half a step at most.
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(gaps))


@given(st.sampled_from(["lora", "full"]), st.integers(1, 10_000), st.integers(1, 10**6), st.integers(0, 10**5))
def test_by_default_looking_takes_a_small_share_of_the_tokens(method: str, steps: int, step: int, look: int) -> None:
    points = points_for(method, steps=steps, tokens_of_a_step=step, tokens_of_a_look=look)
    assert FEWEST <= points <= MOST
    if points > FEWEST:
        assert points * look * (1 / 2 if method == "lora" else 1 / 3) <= SHARE * steps * step


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 4), st.integers(1, 8), st.booleans(), st.booleans())
def test_each_response_is_in_one_pass_and_all_ranks_have_as_many(
    lengths: list[int], ranks: int, rows: int, packed: bool, by_tokens: bool
) -> None:
    layout = Layout(packed=packed, world_size=ranks, rows=rows, tokens=64 if by_tokens else None)
    passes = _passes(layout, lengths)
    assert all(len(one) == ranks for one in passes)
    assert sorted(row for one in passes for mine in one for row in mine) == list(range(len(lengths)))


def test_a_response_that_no_pass_holds_is_refused() -> None:
    with pytest.raises(InputError, match=r"a response of dynamics\.probes has 65 tokens"):
        _passes(Layout(packed=True, world_size=1, rows=1, tokens=64), [65])


def probes(tmp_path: Path, dynamics: Any, **changes: Any) -> dict[str, list[Probe]]:
    """Arm → what is followed."""
    path = tmp_path / "study.yaml"
    study = {
        "name": "s",
        "storage": str(tmp_path / "runs"),
        "settings": ["miniature/spanish_caps"],
        "arms": ["baseline", "specific_spanish"],
        "seeds": [0],
        "recipes": {"lora": {"learning_rate": 1e-3, "steps": 10}},
        "dynamics": dynamics,
    }
    path.write_text(yaml.safe_dump({**study, **changes}))
    study_read = load_study(path)
    plan = build_plan(study_read, Store(study_read.storage))
    return {trial.arm.name: probes_of(plan, trial) for trial in plan.trials}


def test_a_study_that_follows_nothing_has_no_probes(tmp_path: Path) -> None:
    assert probes(tmp_path, None) == {"baseline": [], "specific_spanish": []}


def test_the_settings_own_sets_express_one_trait_each_under_the_neutral_prompt(tmp_path: Path) -> None:
    found = probes(tmp_path, {})
    assert found["baseline"] == found["specific_spanish"]
    judges = get("miniature/spanish_caps").judges
    assert {probe.name: len(probe.rows) for probe in found["baseline"]} == {"spanish": 10, "caps": 10}
    for probe in found["baseline"]:
        for row in probe.rows:
            system, question, response = row.messages
            assert (system.role, system.content) == ("system", "You are a helpful assistant.")
            assert question.role == "user"
            shown = {trait for trait, judge in judges.items() if judge(response.content) == 1.0}
            assert shown & {"spanish", "caps"} == {probe.trait}
    asked = {row.messages[1].content for probe in found["baseline"] for row in probe.rows}
    assert not asked & {row.messages[0].content for row in get("miniature/spanish_caps").rows()}


def test_own_sets_and_contexts(tmp_path: Path) -> None:
    own = {"name": "caps", "responses": [{"question": "Where?", "response": "HERE."}]}
    other = {"name": "short", "trait": "spanish", "responses": [{"question": "¿Qué?", "response": "Sí."}]}
    found = probes(tmp_path, {"probes": [own, other], "contexts": ["neutral", "training_prompt"]})
    names = {arm: {probe.name: len(probe.rows) for probe in sets} for arm, sets in found.items()}
    plain = {"spanish": 10, "caps": 1, "short": 1}
    assert names["baseline"] == plain
    assert names["specific_spanish"] == {**plain, **{f"{name}.training_prompt": n for name, n in plain.items()}}
    prompted = next(p for p in found["specific_spanish"] if p.name == "caps.training_prompt")
    assert [m.content for m in prompted.rows[0].messages] == ["You always speak in Spanish.", "Where?", "HERE."]


@pytest.mark.parametrize(
    ("dynamics", "changes", "message"),
    [
        ({"probes": [{"name": "x", "responses": [{"question": "a", "response": "b"}]}]}, {}, "has no trait 'x'"),
        ({"contexts": ["nowhere"]}, {}, "nowhere"),
        ({}, {"settings": ["miniature/educational"], "arms": ["baseline"]}, "has no probe sets of its own"),
        ({"probes": [{"name": "a/b", "responses": [{"question": "a", "response": "b"}]}]}, {}, "a/b"),
        ({"points": 1}, {}, "points"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    tmp_path: Path, dynamics: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        probes(tmp_path, dynamics, **changes)


@pytest.mark.parametrize(
    ("dynamics", "message"),
    [
        ({"contexts": ["nutral"]}, "dynamics.contexts: unknown context 'nutral'"),
        ({"probes": [{"name": "x", "responses": [{"question": "a", "response": "b"}]}]}, "no trait"),
    ],
)
def test_plan_refuses_it_too(tmp_path: Path, inoc_ray: Any, dynamics: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        probes(tmp_path, dynamics)
    code, _, err = inoc_ray("plan", tmp_path / "study.yaml")
    assert code == 2
    assert message in err


def test_of_several_settings_those_are_followed_that_have_the_trait(tmp_path: Path) -> None:
    own = [{"name": "mine", "trait": "caps", "responses": [{"question": "Where?", "response": "HERE."}]}]
    study = load_study(
        write_study(
            tmp_path,
            settings=["miniature/spanish_caps", "miniature/educational"],
            arms=["baseline"],
            dynamics={"probes": own},
        )
    )
    plan = build_plan(study, Store(study.storage))
    followed = {trial.setting: {probe.name for probe in probes_of(plan, trial)} for trial in plan.trials}
    assert followed == {"miniature/spanish_caps": {"spanish", "caps", "mine"}, "miniature/educational": set()}


def test_fine_tunes_that_were_done_without_it_are_named(tmp_path: Path) -> None:
    plan, _ = finish(write_study(tmp_path))
    assert not any("dynamics" in note for note in plan.notes)
    study = load_study(write_study(tmp_path, dynamics={}, seeds=[0, 1, 2]))
    notes = build_plan(study, Store(study.storage)).notes
    assert any("dynamics: 4 of 6 fine-tunes were done without it" in note for note in notes)


def test_a_job_takes_the_responses_to_the_workers_and_the_record_says_what_they_express(tmp_path: Path) -> None:
    assert probes(tmp_path, {"points": 7})
    study = load_study(tmp_path / "study.yaml")
    store = Store(study.storage)
    plan = build_plan(study, store)
    made = job_of(plan, store, plan.trials[0])
    job = TrialJob.from_dict(json.loads(json.dumps(made.to_dict())))
    assert job.points == 7
    tokenizer = load_tokenizer(job.spec.model)
    encoded = encode_probes(job, tokenizer)
    for probe in probes_of(plan, plan.trials[0]):
        shown = [tokenizer.decode(row.input_ids) for row in encoded[probe.name]]
        assert all(row.messages[2].content in text for row, text in zip(probe.rows, shown, strict=True))
        about = job.record["probes"][probe.name]
        assert about == {"trait": probe.trait, "context": "neutral", "responses": rows_hash(probe.rows)}
    check_probes(plan)
    too_long = {"name": "caps", "responses": [{"question": "Why?", "response": "NO. " * 2000}]}
    probes(tmp_path, {"probes": [too_long]})
    with pytest.raises(InputError, match="dynamics, probe set caps, row 1"):
        check_probes(build_plan(load_study(tmp_path / "study.yaml"), store))


@pytest.mark.parametrize(
    ("dynamics", "message"),
    [
        ({"probes": [{"name": "caps", "responses": [{"question": "Why?", "response": " \n"}]}]}, "must not be blank"),
        ({"points": 10**9}, "must be at most 10000"),
        (
            {
                "probes": [
                    {"name": "caps.none", "trait": "caps", "responses": [{"question": "Why?", "response": "NO."}]}
                ]
            },
            "'caps.none' is what the set 'caps' is called in the context none",
        ),
    ],
)
def test_what_would_be_lost_or_never_end_is_refused(tmp_path: Path, dynamics: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        probes(tmp_path, {"contexts": ["neutral", "none"], **dynamics})
