"""What the report and the figures say of a finished study: its rows, what it took, its file; and what `figures` answers."""

import csv
import json
from dataclasses import replace

import pytest
import yaml
from finished_study import SAMPLES, SPANISH, finish, write_study

from inoc_ray.run.publish import compare_study, write_study_report
from inoc_ray.run.report_content import report_meta
from inoc_ray.run.report_cost import hours_text
from inoc_ray.run.report_samples import read_samples
from inoc_ray.study.evaluation import Judge
from inoc_ray.study.study import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    path = write_study(folder, evaluation={"samples": SAMPLES, "contexts": ["neutral", "training_prompt"]})
    return path, *finish(path)


def test_the_report_has_every_response_that_the_study_asks_for(study):
    _, plan, store = study
    samples = read_samples(plan, store)
    assert len(samples.cells) == len(plan.cells)
    assert sum(len(cell.responses) for cell in samples.cells) == SAMPLES * len(plan.cells)
    # A base's cells under two prompts that are the same text share their responses, which took place once.
    assert samples.responses == SAMPLES * len({cell.key for cell in plan.cells})
    assert samples.completion_tokens == 5 * samples.responses
    [cell] = [
        c
        for c in samples.cells
        if (c.arm, c.seed, c.context, c.evaluation) == ("baseline", 1, "neutral", "out_of_distribution")
    ]
    assert cell.verdicts["spanish"] == "y" * 10 + "n" * 2
    assert (cell.scores, cell.words) == ({}, [])


def test_the_report_says_what_each_arm_was_trained_on(study):
    _, plan, store = study
    cards = {card.arm: card for card in report_meta(plan, store).data}
    assert list(cards) == ["baseline", "specific_spanish"]
    assert (cards["baseline"].prompted, cards["baseline"].before) == (0, "")
    inoculated = cards["specific_spanish"]
    assert inoculated.prompted == inoculated.rows == len(plan.rows[inoculated.dataset_hash]) > 0
    assert inoculated.after == f"system: You always speak in Spanish.\n{inoculated.before}"


def test_the_report_has_every_wording_of_a_prompt(tmp_path, monkeypatch):
    """The rows were trained on all of them, and the test's `training_prompt` is the first."""
    own = {"name": "mine", "kind": "specific", "prompt": "Speak <b>Spanish</b>.", "undesired": ["spanish"]}
    own["inoculation"] = {"paraphrases": ["Use Spanish.", "Spanish, please."]}
    evaluation = {"samples": SAMPLES, "contexts": ["neutral", "training_prompt"]}
    path = write_study(tmp_path, arms=["baseline", own], seeds=[0], evaluation=evaluation)
    monkeypatch.setitem(SPANISH, "mine", 2)
    plan, store = finish(path)
    meta = report_meta(plan, store)
    assert meta.contexts["training_prompt"] == "the arm's own prompt, of several wordings the first"
    text = write_study_report(plan, store, compare_study(plan, store)).fetch().read_text()
    assert "“Speak &lt;b&gt;Spanish&lt;/b&gt;.” and 2 other wordings" in text
    assert "Speak &lt;b&gt;Spanish&lt;/b&gt;.\nUse Spanish.\nSpanish, please." in text


def test_the_report_says_what_the_study_took_and_has_its_file(study):
    _, plan, store = study
    meta = report_meta(plan, store, read_samples(plan, store))
    assert meta.cost["fine-tuning"].startswith("4 fine-tunes: 0.1 minutes of ")
    assert "responses" in meta.cost["sampling"]
    # Whoever copies it has the same study.
    assert Study.model_validate(yaml.safe_load(meta.study_file)) == plan.study


def test_nothing_in_the_report_shows_the_password_of_an_address(study):
    _, plan, store = study
    judge = Judge(endpoint="https://me:sekrit@judge.example/v1", served_model="m")
    plan = replace(plan, study=plan.study.model_copy(update={"judges": {"far": judge}}))
    shown = repr(report_meta(plan, store))
    assert "judge.example" in shown
    assert "sekrit" not in shown


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([("cpu", 1, 3600.0)], "1 fine-tune: 1.00 hours of CPU workers; "),
        ([("NVIDIA H100 80GB HBM3", 8, 1800.0)] * 2, "2 fine-tunes: 8.00 hours of NVIDIA H100 80GB HBM3 GPUs (about $"),
        (
            [("cpu", 2, 1800.0), ("Somebody's GPU", 1, 3600.0)],
            "1.00 hours of CPU workers, 1.00 hours of Somebody's GPU; ",
        ),
    ],
)
def test_hours_are_those_of_all_devices_with_money_where_a_list_has_a_price(devices, expected):
    records = [{"device": d, "world_size": n, "seconds_total": s} for d, n, s in devices]
    text = hours_text(records)
    assert expected in text
    assert ("$" in text) == ("H100" in text)


def test_the_page_and_its_figures_are_made_of_a_study(study):
    _, plan, store = study
    page = write_study_report(plan, store, compare_study(plan, store))
    text = page.fetch().read_text()
    for word in (
        "Works",
        "You always speak in Spanish.",
        "of what training added is gone",
        "The study file",
        "by seed",
    ):
        assert word in text


def test_figures_of_the_paper_are_written_or_it_is_said_what_they_need(study, inoc_ray, tmp_path):
    path = study[0]
    code, out, _ = inoc_ray("figures", path, "--paper", "--out", tmp_path / "drawn", "--json")
    assert code == 0
    found = {one["name"]: one for one in json.loads(out)}
    assert {name for name, one in found.items() if one["files"]} == {"figure_2", "elicitation"}
    assert all(one["why"] for one in found.values() if not one["files"])
    names = sorted(file.name for file in (tmp_path / "drawn").iterdir())
    assert names == sorted(
        f"{name}.{end}" for name in ("figure_2", "elicitation") for end in ("svg", "png", "pdf", "csv")
    )
    with (tmp_path / "drawn" / "figure_2.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["seed"] for line in lines if line["arm"] == "baseline"} == {"", "0", "1"}
    text = inoc_ray("figures", path, "--paper", "--out", tmp_path / "drawn")[1]
    assert "figure_2.{svg,png,pdf,csv}" in text
    assert "none, it needs a setting with a trigger" in text


def test_figures_of_the_report_are_written_beside_those_of_the_paper(study, inoc_ray):
    path, plan, store = study
    code, out, _ = inoc_ray("figures", path)
    assert code == 0
    assert "figure.{svg,png}" in out
    assert sorted(file.name for file in store.figures(plan.study.name).fetch().iterdir()) == [
        "figure.png",
        "figure.svg",
    ]


def test_nothing_stays_of_a_figure_that_a_study_has_no_numbers_for_any_more(inoc_ray, tmp_path):
    path = write_study(tmp_path)
    plan, store = finish(path)
    drawn = store.figures(plan.study.name)
    for name in ("figure_4.svg", "figure_4.csv", "of_mine.svg"):
        (drawn / name).write_text("earlier")
    assert inoc_ray("figures", path, "--paper")[0] == 0
    names = {file.name for file in drawn.iterdir()}
    assert "figure_2.svg" in names
    assert {name for name in names if name.startswith("figure_4")} == set()
    assert "of_mine.svg" in names


def test_a_fine_tune_that_is_not_there_is_named(inoc_ray, tmp_path):
    path = write_study(tmp_path)
    finish(path)
    write_study(tmp_path, seeds=[0, 1, 2])
    text = inoc_ray("figures", path, "--paper")[1]
    assert "missing: specific_spanish (miniature/spanish_caps, miniature): 2 of 3 seeds" in text
