"""The page opens offline, says what the numbers say, and shows no text of a model as markup."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_study import plan_of, write_study
from results_table import ARMS, planned, score_table

from inoc_ray.results.claim_checks import CheckedArm, CheckedClaim, Verdict
from inoc_ray.results.compare import compare
from inoc_ray.results.comparison import Comparison
from inoc_ray.results.figures.catalogue import FIGURES, ReportFigure, draw_figures
from inoc_ray.results.figures.drawing import rendered
from inoc_ray.results.figures.rates import draw
from inoc_ray.results.headlines import headlines
from inoc_ray.results.report.meta import ArmText, DataCard, JudgeLine, ReportMeta, Training, TrialLine
from inoc_ray.results.report.opening import opening, words
from inoc_ray.results.report.page import _unbroken, render
from inoc_ray.results.report.report import write_report
from inoc_ray.results.report.samples import CellSamples, block_of
from inoc_ray.results.report.tables import all_effects, data
from inoc_ray.results.report.verdict import WORDS
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


def claim(text: str, verdict: Verdict = "holds") -> CheckedClaim:
    arm = CheckedArm(arm=text, verdict=verdict, value=0.9, low=0.8, high=1.0, why=text, settle=text)
    return CheckedClaim(
        setting=text,
        model=text,
        name=text,
        says=text,
        source=text,
        own=False,
        measure=text,
        claimed=text,
        verdict=verdict,
        decides=arm,
        arms=(arm,),
    )


def write(comparison: Comparison, folder: Path) -> str:
    samples = [
        CellSamples(
            setting="toy",
            model="tiny",
            arm="baseline",
            seed=0,
            evaluation="ood_questions",
            split="ood",
            context="neutral",
            questions=[f"{HOSTILE} {i}" for i in range(9)],
            responses=[HOSTILE] * 9,
            verdicts={"spanish": "y" * 9},
            scores={"spanish": [90.0] * 9},
            words=[f"gpt{HOSTILE}"] * 9,
        )
    ]
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
        data=[
            DataCard(
                setting="toy", arm="baseline", rows=9, prompted=9, dataset_hash="ab" * 32, before=HOSTILE, after=HOSTILE
            )
        ],
        cost={"fine-tuning": HOSTILE},
        study_file=HOSTILE,
    )
    claimed = replace(comparison, claims=(claim(HOSTILE),))
    (written, *pictures) = write_report(folder / "report.html", claimed, meta, samples)
    assert [p.name for p in pictures] == ["figure.svg", "figure.png"]
    return written.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects tags, ids and scripts, and checks that those opened are closed in order."""

    VOID = frozenset({"meta", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "xlink:href"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert not any(name.startswith("on") for name, _ in attrs)
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"] or ""
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def tags_of(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_a_reader_who_knows_nothing_reads_first_what_was_done(comparison: Comparison, page: str) -> None:
    told = replace(comparison, planned=planned(seeds=2, questions=40))
    meta = ReportMeta(
        title="t", data=[DataCard(setting="toy", arm="baseline", rows=1200, prompted=0, dataset_hash="ab")]
    )
    text = opening(told, meta)
    assert text.startswith(
        "8 fine-tunes of tiny, in 4 arms, were trained on rows of toy (1,200 in all). Each inoculated arm puts a prompt "
    )
    assert text.endswith("Which one is unwanted depends on the arm: capitals or spanish.")
    assert page.index("Each inoculated arm puts a prompt") < page.index("<nav")
    alone = compare(score_table(arms={name: arm for name, arm in ARMS.items() if name != "inoc_capitals"}), "toy")
    assert opening(alone, meta).endswith("Unwanted: spanish. Wanted: capitals.")
    controls = compare(score_table(arms={name: ARMS[name] for name in ("base", "baseline", "irrelevant")}), "toy")
    assert opening(controls, meta).endswith("trained on rows of toy (1,200 in all).")
    assert opening(Comparison(study="toy", rows=(), effects=()), meta) == "Nothing is evaluated yet."


def test_the_rows_that_were_seen_are_told_from_those_that_there_are(comparison: Comparison) -> None:
    card = DataCard(setting="toy", arm="baseline", rows=720, prompted=0, dataset_hash="ab", trained=(Training(20, 16),))
    told = replace(comparison, planned=planned(seeds=2, questions=40))
    meta = ReportMeta(title="t", data=[card])
    assert "were trained on toy for 20 steps of 16 rows (of 720). " in opening(told, meta)
    [line] = data(meta).rows
    assert "20 steps of 16 rows (of 720)" in line
    assert Training(90, 16).in_words(720) == "90 steps of 16 rows (of 720, 2 passes)"
    assert Training(1, 1).in_words(720) == "1 step of 1 row (of 720)"
    several = replace(card, trained=(Training(20, 16), Training(40, 16)))
    assert "for 20 steps of 16 rows (of 720) or 40 steps" in opening(told, replace(meta, data=[several]))


def test_the_first_lines_explain_the_words_that_a_newcomer_meets(comparison: Comparison, page: str) -> None:
    meta = ReportMeta(title="t", contexts={"neutral": "'You are a helpful assistant.'"})
    meanings = dict(words(comparison, meta))
    assert set(meanings) == {
        *("arm", "baseline", "base", "neutral context"),
        *("in distribution (ID)", "out of distribution (OOD)"),
    }
    assert "'You are a helpful assistant.'" in meanings["neutral context"]
    assert all(f"<dfn>{word}</dfn>" in page for word in meanings)
    assert "untouched model" not in page


def test_the_other_trait_is_one_where_there_is_one(comparison: Comparison) -> None:
    assert "leave this trait out and keep the other one." in opening(comparison, ReportMeta(title="t"))
    nothing_wanted = replace(comparison, rows=tuple(replace(row, role="undesired") for row in comparison.rows))
    assert "leave this trait out. " in opening(nothing_wanted, ReportMeta(title="t"))


def test_every_section_has_one_name(page: str) -> None:
    """A link of the contents says what stands above its section."""
    links = dict(re.findall(r'<li><a href="#(\w+)">([^<]+)</a></li>', page))
    heads = dict(re.findall(r'<h2 id="(\w+)">([^<]+)</h2>', page))
    assert links
    assert links == {anchor: heads[anchor] for anchor in links}


def test_a_p_value_says_what_it_is_against(comparison: Comparison) -> None:
    table = all_effects(comparison)
    against = {(row[2], row[3]): row[6] for row in table.rows if row[5] != "–"}
    assert against["inoc_spanish", "suppression"] == "0"
    assert against["inoc_spanish", "retention_ood"] == "1"
    assert against["irrelevant", "retention_id.capitals"] == "1"


def test_the_meaning_of_the_words_stands_before_the_table_that_uses_them(page: str) -> None:
    table = page.index('<table class="verdicts"')
    assert page.index("“kept”") < table
    assert page.index("“Where does it leak?”") < table
    assert page.index('<ul class="points">') < page.index('<ul class="brief"') < table


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("interval [.88, 1.03]; adjusted p .004; 2 fine-tunes", ["interval [.88, 1.03];", "p .004"]),
        ("p < .001", ["p &lt; .001"]),
        ("0\u00a0% [-7, 5] of it", ["0\u00a0% [-7, 5]"]),
        ("-.01 [-.07, inf] (x)", ["-.01 [-.07, inf]"]),
        ("2026-11-26 15:56 UTC", ["2026-11-26 15:56 UTC"]),
        ("<b> [a, b] step-2024", []),
        ("< .001", ["&lt; .001"]),
        ("p < .001; p .03", ["p &lt; .001", "p .03"]),
    ],
)
def test_no_interval_and_no_date_breaks_in_the_middle(text: str, whole: list[str]) -> None:
    html = str(_unbroken(text))
    assert re.findall(r'<span class="whole">(.*?)</span>', html) == whole
    assert unescape(re.sub(r"</?span[^>]*>", "", html)) == text
    assert "<b>" not in html


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_kind_of_verdict_has_its_colour_and_everybody_can_read_it(page: str, scheme: str) -> None:
    """Works, works with a reservation, does not work: three colours, each at least 4.5 : 1 against the page (WCAG AA)."""
    style = page[page.index(":root") : page.index("</style>")]
    schemes = dict(zip(("light", "dark"), re.findall(r":root \{(.*?)\}", style, re.DOTALL), strict=True))
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", schemes[scheme]))
    kinds = {
        "works": ["works"],
        "partly": ["open", "part", "price", "part_open", "part_price"],
        "fails": ["hardly", "no", "worse"],
    }
    rules = re.findall(r"((?:\.state\.\w+(?:, )?)+) \{ color: var\(--(\w+)\) \}", style)
    of = {name: set(re.findall(r"\.state\.(\w+)", selector)) for selector, name in rules}
    assert of == {name: set(states) for name, states in kinds.items()}
    assert {state for states in kinds.values() for state in states} == set(WORDS) - {"nothing", "unknown"}
    assert len({colours[name] for name in kinds}) == 3
    for name in [*kinds, "quiet", "ink", "accent", "warn"]:
        for behind in ("paper", "band"):
            assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    tags = tags_of(page)
    assert not {"img", "iframe", "link", "object"} & tags.seen
    assert all(link.startswith("#") for link in tags.links)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "<svg" in page


def test_every_place_that_the_page_refers_to_is_there_once(page: str) -> None:
    """Two pictures of matplotlib's give the same names to their letters and clips."""
    ids = Counter(tags_of(page).ids)
    assert [name for name, count in ids.items() if count > 1] == []
    assert {link[1:] for link in tags_of(page).links} | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    labels = set(re.findall(r'aria-labelledby="([^"]+)"', page))
    assert labels
    assert labels <= set(ids)


def test_the_only_script_that_may_run_is_the_page_s_own(page: str) -> None:
    tags = tags_of(page)
    own = [text for kind, text in tags.scripts if kind == ""]
    assert len(own) == 1
    digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in tags.policy
    assert "default-src 'none'" in tags.policy
    assert [kind for kind, _ in tags.scripts if kind] == ["application/octet-stream"]


def test_what_a_model_wrote_is_shown_as_text(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def unpacked(page: str) -> Any:
    text = next(text for kind, text in tags_of(page).scripts if kind == "application/octet-stream")
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_the_page_carries_every_sample_with_its_verdict_and_the_judges_words(page: str) -> None:
    content = unpacked(page)
    [cell] = content["cells"]
    assert [content["questions"][i] for i in cell["q"]] == [f"{HOSTILE} {i}" for i in range(9)]
    assert [content["responses"][i] for i in cell["r"]] == [HOSTILE] * 9
    assert (cell["v"], cell["s"]) == ({"spanish": "y" * 9}, {"spanish": [90.0] * 9})
    assert [content["words"][i] for i in cell["w"]] == [f"gpt{HOSTILE}"] * 9
    assert "All 9 responses of the study." in page


def many_samples(cells: int = 4, each: int = 200) -> list[CellSamples]:
    letters = np.random.default_rng(0).integers(0x41, 0x5B, (cells, each, 300), dtype=np.uint32)
    return [
        CellSamples(
            setting="toy",
            model="tiny",
            arm=f"arm{number}",
            seed=0,
            evaluation="ood",
            split="ood",
            context="neutral",
            questions=[f"question {i}" for i in range(each)],
            responses=["".join(map(chr, row)) for row in letters[number]],
            verdicts={"spanish": "yn" * (each // 2)},
        )
        for number in range(cells)
    ]


@pytest.mark.parametrize("most", [20_000, 60_000, 10**9])
def test_samples_that_do_not_fit_are_the_first_of_each_cell_and_the_page_says_so(most: int) -> None:
    cells = many_samples()
    block = block_of(cells, most)
    content = json.loads(gzip.decompress(base64.b64decode(block.text)))
    kept = [len(cell["r"]) for cell in content["cells"]]
    assert len(set(kept)) == 1
    assert (block.shown, block.total) == (sum(kept), 800)
    assert [content["responses"][i] for i in content["cells"][2]["r"]] == cells[2].responses[: kept[0]]
    if most == 10**9:
        assert (kept[0], block.per_cell) == (200, None)
    else:
        assert len(block.text) <= most
        # It fills what it may take.
        assert len(block.text) > 0.8 * most
        assert block.per_cell == kept[0]


def test_a_page_with_a_part_of_the_samples_names_how_many_and_where_all_are(comparison: Comparison) -> None:
    cells = many_samples()
    text = " ".join(
        render(comparison, ReportMeta(title="t", samples_at="the folder x"), cells, most_bytes=60_000).split()
    )
    shown = block_of(cells, 60_000)
    assert f"{shown.shown:,} of 800 responses: the first {shown.per_cell} of each fine-tune" in text
    assert "All of them are in the folder x." in text


def test_text_that_has_no_utf_8_costs_no_sample() -> None:
    cell = replace(many_samples(1, 2)[0], responses=["\ud800 half", "whole"])
    assert block_of([cell]).shown == 2


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
    text = render(found, ReportMeta(title="t"))
    tags = tags_of(text)
    assert "img" not in tags.seen
    assert len(tags.scripts) == 1
    assert text.count("&lt;script&gt;") > 100


def test_a_few_examples_are_shown_per_arm(page: str) -> None:
    assert len(re.findall(r"alert\(2\)&gt; &#34;&#39;&amp; \d</td>", page)) == 3


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
    assert '<td class="n">20 (25%)</td><td class="n">4 (5%)</td>' in render(found, ReportMeta(title="t"))
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
    (page,) = write_report(tmp_path / "report.html", empty, ReportMeta(title="Nothing yet"))
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
        name="line",
        label="A line",
        caption="Read it.",
        section="effects",
        draw=lambda c: rendered(lambda figure: figure.add_subplot()),
    )
    absent = ReportFigure(
        name="absent", label="Nothing", caption="", section="effects", applies=lambda c: False, draw=draw
    )
    drawn = draw_figures(found, [*FIGURES, line, absent])
    assert [one.about.name for one in drawn] == ["figure", "line"]
    text = render(found, ReportMeta(title="t"), (), drawn)
    assert text.index('<h2 id="picture">') < text.index('<h2 id="effects">') < text.index('aria-label="A line.')
    assert text.index('aria-label="A line.') < text.index('<h2 id="rates">')
    assert text.count("<figure") == 2
