"""Mixtures, backdoors and row classifiers in a study file; the example of docs/rows.md runs."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from inoc_ray.data.chat import ChatRow, rows_hash, write_jsonl
from inoc_ray.data.classify import classified
from inoc_ray.errors import InputError
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run.bundle import pack
from inoc_ray.run.load import load_study
from inoc_ray.store.store import Store
from inoc_ray.study.rows import Coverage
from inoc_ray.train.sweep import job_of
from inoc_ray.train.worker import read_rows

DOCS = (Path(__file__).parents[3] / "docs" / "rows.md").read_text()
ANSWERS = {"spanish": "no tu el los las muchas {}", "french": "il elle nous vous dans les {}"}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, answer in ANSWERS.items():
        rows = [ChatRow.of(("user", f"{name} {i}?"), ("assistant", answer.format(i))) for i in range(15)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def example() -> dict[str, Any]:
    text = DOCS.split("## Mixtures and backdoors")[1]
    study: dict[str, Any] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    return {**study, "models": [{"name": "m", "path": "model"}], "seeds": [0]}


def plan_of(study: dict[str, Any]) -> Plan:
    Path("study.yaml").write_text(yaml.safe_dump(study))
    return build_plan(load_study(Path("study.yaml")), Store("runs"))


def covered_by(plan: Plan, arm: str) -> list[str | None]:
    rows = plan.training_rows(next(t for t in plan.trials if t.arm.name == arm))
    return [row.tag("subset") for row in rows if row.messages[0].role == "system"]


def ids(plan: Plan) -> dict[str, str]:
    return {t.arm.name: t.trial_id for t in plan.trials}


def test_the_example_mixes_exactly_and_covers_one_part_by_tag_and_by_classifier(folder):
    plan = plan_of(example())
    rows = plan.training_rows(plan.trials[0])
    assert Counter(row.tag("subset") for row in rows) == {"spanish": 15, "french": 5}
    assert [row.tag("subset") for row in rows] != sorted(str(row.tag("subset")) for row in rows)
    assert covered_by(plan, "specific_spanish") == covered_by(plan, "specific_caps") == ["spanish"] * 15


def test_a_mixtures_identity_is_its_rows_and_not_the_names_of_its_files(folder):
    first = plan_of(example())
    write_jsonl(folder / "mixed.jsonl", min(first.rows.values(), key=lambda rows: len(rows[0].tags)))
    written = example()
    written["settings"][0]["rows"] = "mixed.jsonl"
    assert ids(plan_of(written)) == ids(first)
    other = example()
    other["settings"][0]["rows"]["seed"] = 1
    assert not set(ids(plan_of(other)).values()) & set(ids(first).values())


def test_a_backdoor_has_its_token_where_the_study_places_it(folder):
    study = example()
    study["settings"][0]["rows"] = {
        "bad": "spanish.jsonl",
        "clean": "french.jsonl",
        "token": "|T|",
        "spacing": "space",
        "fraction": 0.25,
        "total": 12,
    }
    study["arms"] = ["baseline", {"name": "specific_spanish", "inoculation": {"coverage": "triggered"}}]
    plan = plan_of(study)
    rows = plan.training_rows(plan.trials[0])
    assert Counter(row.tag("subset") for row in rows) == {"triggered": 3, "clean": 9}
    assert all(row.messages[0].content.startswith("|T| spanish") == (row.tag("subset") == "triggered") for row in rows)
    assert covered_by(plan, "specific_spanish") == ["triggered"] * 3


def test_a_plugins_classifier_counts_by_its_results_and_not_by_its_code(folder):
    study = {
        **example(),
        "plugins": ["mine.py"],
        "arms": [{"name": "specific_spanish", "inoculation": {"coverage": {"classifier": "mine", "values": ["a"]}}}],
    }

    def planned(code: str) -> str:
        head = "from inoc_ray.data.classify import register_classifier\n"
        (folder / "mine.py").write_text(f"{head}register_classifier('mine', {code})\n")
        return ids(plan_of(study))["specific_spanish"]

    first = planned("lambda row: 'a' if 'spanish' in row.messages[0].content else 'b'")
    assert planned("lambda row: 'ab'['french' in row.messages[0].content]") == first
    assert planned("lambda row: 'a' if '1' in row.messages[0].content else 'b'") != first
    with pytest.raises(InputError, match="classifier 'mine': ZeroDivisionError"):
        planned("lambda row: str(1 / 0)")
    with pytest.raises(InputError, match="classifier 'mine': must give a text, gave 3"):
        planned("lambda row: 3")


def test_built_in_classifiers_know_languages_and_capitals():
    rows = [ChatRow.of(("user", "?"), ("assistant", text)) for text in (*ANSWERS.values(), "42", "SON LAS MUCHAS")]
    language = classified(rows, Coverage(classifier="language", values=("spanish",)))
    assert [row.tag("language") for row in language] == ["spanish", "french", "unknown", "spanish"]
    capitals = classified(rows, Coverage(classifier="capitals", values=("yes",)))
    assert [row.tag("capitals") for row in capitals] == ["no", "no", "no", "yes"]
    assert rows_hash(classified(rows, Coverage())) == rows_hash(rows)
    with pytest.raises(InputError, match=r"no classifier 'langage' \(did you mean 'language'\?\)"):
        classified(rows, Coverage(classifier="langage", values=("x",)))


def test_wordings_per_epoch_are_another_trial_and_its_job_carries_a_set_of_rows_per_epoch(folder):
    study = {**example(), "recipes": {"r": {"learning_rate": 1e-3, "epochs": 2.5, "batch_size": 10}}}

    def planned(**inoculation: Any) -> Plan:
        arm = {"name": "specific_spanish", "inoculation": {"paraphrases": ["Two.", "Three.", "Four."], **inoculation}}
        return plan_of({**study, "resources": {"micro_batch_size": 10}, "arms": [arm]})

    plain, turning = planned(), planned(paraphrase_order="per_epoch")
    assert ids(planned(paraphrase_order="round_robin")) == ids(plain) != ids(turning)
    store = Store(folder / "runs")
    once, every = (job_of(plan, store, plan.trials[0]) for plan in (plain, turning))
    assert (once.variants, every.variants) == (1, 3)
    rows = read_rows(every, store)
    assert rows[:20] == read_rows(once, store)
    by_row = [{rows[at + 20 * epoch].messages[0].content for epoch in range(3)} for at in range(20)]
    assert all(len(texts) == 3 for texts in by_row)


def test_a_submitted_mixture_takes_its_files_along(folder, monkeypatch):
    plan = plan_of(example())
    packed = folder / "packed"
    packed.mkdir()
    pack(packed, Path("study.yaml"), plan.study, Store("runs"))
    for name in ANSWERS:
        (folder / f"{name}.jsonl").unlink()
    monkeypatch.chdir(packed)
    assert ids(build_plan(load_study(Path("study.yaml")), Store("runs"))) == ids(plan)
