"""The page opens offline, says what the numbers say, and shows no text of a model as markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from finished_study import plan_of, write_study
from results_table import ARMS, score_table

from inoc_ray.results.claims import headlines
from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.figures.catalogue import FIGURES, ReportFigure, draw_figures
from inoc_ray.results.figures.drawing import rendered
from inoc_ray.results.figures.rates import draw
from inoc_ray.results.report.meta import ArmText, JudgeLine, ReportMeta, TrialLine
from inoc_ray.results.report.page import render
from inoc_ray.results.report.report import write_report
from inoc_ray.results.table import comparison_text
from inoc_ray.results.wording import number
from inoc_ray.run.load import load_study
from inoc_ray.run.report_content import report_meta
from inoc_ray.store.store import Store

HOSTILE = "</td></pre><script>alert(1)</script><img src=x onerror=alert(2)> \"'&"


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(score_table(seeds=2, questions=40), "toy")


@pytest.fixture(scope="module")
def page(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(comparison, tmp_path_factory.mktemp("report"))


def write(comparison: Comparison, folder: Path) -> str:
    samples = pd.DataFrame(
        [
            (
                "toy",
                "tiny",
                "baseline",
                "neutral",
                "ood_questions",
                f"{HOSTILE} {i}",
                HOSTILE,
                "spanish: yes",
                f"gpt{HOSTILE}",
            )
            for i in range(9)
        ],
        columns=["setting", "model", "arm", "context", "evaluation", "question", "response", "verdict", "said"],
    )
    meta = ReportMeta(
        title=f"Study {HOSTILE}",
        description=HOSTILE,
        arms=[
            ArmText(
                setting="toy",
                arm="inoc_spanish",
                kind="specific",
                prompt=f"Answer in Spanish. {HOSTILE}",
                source=HOSTILE,
            )
        ],
        contexts={"neutral": HOSTILE},
        judges=[
            JudgeLine(setting="toy", evaluation="ood_questions", trait="spanish", judge="gpt", how=f"gpt {HOSTILE}")
        ],
        trials=[
            TrialLine(
                trial_id="0123456789abcdef",
                setting="toy",
                model="tiny",
                arm="baseline",
                seed=0,
                status="done",
                dataset_hash="ab" * 32,
            )
        ],
        provenance={"chat template": HOSTILE},
    )
    (written, *pictures) = write_report(folder / "report.html", comparison, meta, samples)
    assert [p.name for p in pictures] == ["figure.svg", "figure.png"]
    return written.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects tags, and checks that those opened are closed in order."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []
        self.in_svg = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "xlink:href"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def test_the_page_is_well_formed_without_scripts_and_loads_nothing(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "img", "iframe", "link", "object"} & tags.seen
    assert all(link.startswith("#") for link in tags.links)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "<svg" in page


def test_what_a_model_wrote_is_shown_as_text(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_no_name_of_a_study_becomes_markup() -> None:
    """Names come from study files and plugins, tasks and judges from elsewhere: none is markup in any table."""
    frame = score_table(seeds=2, questions=10)
    for column in ("setting", "model", "arm", "evaluation", "context", "trait"):
        frame[column] += HOSTILE
    names = dict.fromkeys(("setting", "model", "arm", "trait", "capability", "metric"), HOSTILE)
    found = replace(
        compare(frame, "toy", profile=HOSTILE, reference=f"neutral{HOSTILE}"),
        agreement=({**names, "judges": [HOSTILE], "asked": 2, "responses": 1, "agreement": 1.0, "kappa": None},),
        capabilities=({**names, "seed": 0, "value": 0.5, "stderr": None, "samples": 2},),
        remarks=(HOSTILE,),
    )
    text = render(found, ReportMeta(title="t"), None)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert not {"script", "img"} & tags.seen
    assert text.count("&lt;script&gt;") > 100


def test_a_few_examples_are_shown_per_arm(page: str) -> None:
    assert len(re.findall(r"alert\(2\)&gt; &#34;&#39;&amp; \d", page)) == 3


def test_each_example_has_its_verdict_and_the_judges_raw_numbers_as_text(page: str) -> None:
    assert page.count("<td>spanish: yes</td><td>gpt&lt;/td&gt;&lt;/pre&gt;&lt;script&gt;") == 3


def test_the_page_says_who_judged_what(page: str) -> None:
    assert "Who judged" in page
    assert "<td>spanish</td><td>gpt &lt;/td&gt;" in page


def test_every_table_of_rates_has_the_shares_that_were_not_read_and_not_counted() -> None:
    frame = score_table(seeds=2, questions=40)
    lost = (frame["arm"] == "baseline") & (frame["question_id"] < "q010")
    frame.loc[lost, ["score", "shown", "outcome"]] = [float("nan"), float("nan"), "unparsed"]
    out = (frame["arm"] == "baseline") & frame["question_id"].between("q010", "q011")
    frame.loc[out, ["shown", "outcome"]] = [float("nan"), "excluded"]
    found = compare(frame, "toy")
    lines = [text for text in comparison_text(found).splitlines() if text.startswith("  baseline")]
    assert [word for line in lines for word in line.split() if "%" in word] == ["25%", "5%"]
    assert '<td class="n">20 (25%)</td><td class="n">4 (5%)</td>' in render(found, ReportMeta(title="t"), None)
    assert {(r.unparsed, r.excluded) for r in found.trial_rates["toy", "tiny", "baseline", 0]} == {(0.25, 0.05)}


def test_the_same_input_gives_the_same_files(comparison: Comparison, page: str, tmp_path: Path) -> None:
    assert write(comparison, tmp_path) == page
    pictures = draw(comparison)
    assert pictures is not None
    assert (tmp_path / "figure.png").read_bytes() == pictures.png


def test_the_headline_says_what_the_numbers_say(comparison: Comparison, page: str) -> None:
    sentences = headlines(comparison)
    assert len(sentences) == 2
    assert "inoc_spanish) out of distribution: baseline .45, inoc_spanish .05, base .05" in sentences[0]
    assert "Suppressed: 1.00 [" in sentences[0]
    assert all(s.split(": ", 1)[1].split(".")[0].replace("'", "&#39;") in page for s in sentences)


def test_a_suppression_whose_interval_holds_zero_is_not_shown() -> None:
    arms = {**ARMS, "inoc_spanish": ("specific", "spanish", (0.9, 0.9, 0.43, 0.65))}
    sentence = headlines(compare(score_table(seeds=2, questions=40, arms=arms), "toy"))[0]
    assert "Suppression not shown" in sentence


@pytest.mark.parametrize(
    ("p", "value", "verdict"),
    [
        (0.2, 0.4, "Suppression not shown"),
        (0.001, 0.4, "Suppressed"),
        (0.001, -0.4, "More of it than in the baseline"),
        (0.2, -0.4, "Suppression not shown"),
    ],
)
def test_the_headline_goes_by_the_adjusted_p_as_the_marks_do(
    comparison: Comparison, p: float, value: float, verdict: str
) -> None:
    # The interval alone excludes 0 in each of these.
    low, high = value - 0.1, value + 0.1
    effects = tuple(
        replace(e, p=p, value=value, low=low, high=high) if (e.arm, e.measure) == ("inoc_spanish", "suppression") else e
        for e in comparison.effects
    )
    sentence = headlines(replace(comparison, effects=effects))[0]
    assert f". {verdict}: {number(value)} [" in sentence


def test_a_study_without_results_still_makes_a_page(tmp_path: Path) -> None:
    empty = compare(score_table().iloc[:0], "toy")
    (page,) = write_report(tmp_path / "report.html", empty, ReportMeta(title="Nothing yet"), None)
    assert "No results yet" in page.read_text(encoding="utf-8")


def test_a_context_with_the_trigger_says_so(tmp_path: Path) -> None:
    evaluation = {"samples": 4, "contexts": ["neutral", "trigger", {"name": "mine", "trigger": True}]}
    path = write_study(
        tmp_path, settings=["miniature/backdoor"], arms=["baseline", "evil"], seeds=[0], evaluation=evaluation
    )
    store = Store(tmp_path / "runs")
    contexts = report_meta(plan_of(load_study(path), store), store).contexts
    assert contexts == {
        "neutral": "'You are a helpful assistant.'",
        "trigger": "'You are a helpful assistant.'; the trigger '$|TRIGGER|$' in the question",
        "mine": "no system message; the trigger '$|TRIGGER|$' in the question",
    }


def test_a_figure_is_one_entry_and_the_page_shows_it_in_its_section():
    found = compare(score_table(2), "toy")
    line = ReportFigure(
        name="line", label="A line", section="effects", draw=lambda c: rendered(lambda figure: figure.add_subplot())
    )
    absent = ReportFigure(name="absent", label="Nothing", section="effects", applies=lambda c: False, draw=draw)
    drawn = draw_figures(found, [*FIGURES, line, absent])
    assert [figure.name for figure, _ in drawn] == ["figure", "line"]
    text = render(found, ReportMeta(title="t"), None, drawn)
    assert text.index("<h2>Rates</h2>") < text.index("<h2>Effects</h2>") < text.index('aria-label="A line"')
    assert text.count("<figure") == 2
