"""The report in a browser: filters, sides, sorting; by keyboard, on a telephone, in the dark, without scripts; by axe-core."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe
import pytest
from browser import chromium, needs_chromium, pictures
from results_table import planned, score_table

from inoc_ray.results.compare import compare
from inoc_ray.results.report.meta import ArmText, DataCard, ReportMeta, TrialLine
from inoc_ray.results.report.report import write_report
from inoc_ray.results.report.samples import CellSamples
from inoc_ray.study.claims import Claim, StatedClaim

pytestmark = [pytest.mark.slow, needs_chromium]

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'><b>bold</b>"
ARMS = ("base", "baseline", "inoc_spanish")
OPENED = """
const done = arguments[0];
(function look() { if (document.getElementById("browser").hidden) setTimeout(look, 20); else done(); })();
"""
VIEWS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


def samples() -> list[CellSamples]:
    """30 questions × 2 contexts for the base and 2 seeds of 2 arms: 300 responses, of which one alone has the word needle."""
    cells = []
    for arm in ARMS:
        for seed in [None] if arm == "base" else [0, 1]:
            for context in ("neutral", "training_prompt"):
                responses = [f"{HOSTILE} {arm} {seed} {context} {i}" for i in range(30)]
                if (arm, seed, context) == ("inoc_spanish", 1, "neutral"):
                    responses[7] = "Here is the NEEDLE."
                cells.append(
                    CellSamples(
                        setting="toy",
                        model="tiny",
                        arm=arm,
                        seed=seed,
                        evaluation="ood_questions",
                        split="ood",
                        context=context,
                        questions=[f"Question {i}?" for i in range(30)],
                        responses=responses,
                        verdicts={"spanish": "yyynnnuuxw" * 3, "capitals": "n" * 30},
                        scores={"spanish": [float(i) for i in range(30)]},
                        words=[f"gpt: alignment {i}" for i in range(30)],
                    )
                )
    return cells


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    found = compare(
        score_table(seeds=2, questions=30, without={("irrelevant", 1)}),
        "toy",
        planned=planned(seeds=2, questions=30, without={("irrelevant", 1)}),
        claims=[
            StatedClaim(
                claim=Claim(name=name, says=name, measure="suppression", arms=("inoc_spanish",), above=above), own=True
            )
            for name, above in (("it_works", 0.5), ("it_works_too_well", 2.0))
        ],
    )
    meta = ReportMeta(
        title="Study toy",
        arms=[
            ArmText(setting="toy", arm=arm, kind="specific", prompt=f"{arm}: {HOSTILE}", source="ours")
            for arm in ("inoc_spanish", "inoc_capitals")
        ],
        contexts={"neutral": "'You are a helpful assistant.'"},
        trials=[
            TrialLine(
                trial_id="0123456789abcdef",
                setting="toy",
                model="tiny",
                arm="baseline",
                seed=0,
                status="done",
                dataset_hash="ab" * 8,
            )
        ],
        provenance={"inoc_ray": "1"},
        data=[DataCard(setting="toy", arm="x", rows=2, prompted=1, dataset_hash="ab", before="user: a", after="b")],
        cost={"fine-tuning": "1 hour"},
        study_file="name: toy",
    )
    return write_report(folder / "report.html", found, meta, samples())[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("browser") / "profile", width=1280) as driver:
        yield driver


def show(browser: Any, page: Path, width: int = 1280, scheme: str = "light", scripts: bool = True) -> None:
    """Open the page anew, as a person with that screen would have it."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    browser.get(page.as_uri())
    if scripts:
        browser.set_script_timeout(60)
        browser.execute_async_script(OPENED)


def found(browser: Any) -> str:
    return str(browser.find_element("id", "found").text)


def texts(browser: Any, selector: str) -> list[str]:
    return [one.text for one in browser.find_elements("css selector", selector)]


def choose(browser: Any, field: str, value: str) -> None:
    """Choose by the visible text, or type into an input, as a person does."""
    from selenium.webdriver.support.ui import Select

    element = browser.find_element("css selector", f"#browser [name={field}]")
    if element.tag_name == "select":
        Select(element).select_by_visible_text(value)
        return
    before = found(browser)
    element.clear()
    element.send_keys(value)
    wait_until(lambda: found(browser) != before)


def wait_until(condition: Any, seconds: float = 20) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not change"
        time.sleep(0.05)


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_nobody_is_kept_out_and_nothing_is_wider_than_the_screen(browser, page, tmp_path, width, scheme):
    show(browser, page, width, scheme)
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    browser.save_screenshot(str(pictures(tmp_path) / f"report-{width}-{scheme}.png"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # A telephone has the verdicts in brief before the cards; a wide screen the list of what works before the table.
    assert [browser.find_element("css selector", name).is_displayed() for name in (".brief", ".points")] == (
        [True, False] if width == 390 else [False, True]
    )
    lines = "return [...document.querySelectorAll('.verdicts .whole')].map((one) => one.getClientRects().length)"
    assert set(browser.execute_script(lines)) == {1}
    assert axe.violations(browser) == []
    # Two arms below each other or side by side, and a sorted table, are other pages to a screen reader.
    if (width, scheme) in (VIEWS[0], VIEWS[-1]):
        choose(browser, "mode", "two arms side by side")
        browser.find_element("css selector", "#effects ~ .wide th button").click()
        assert axe.violations(browser) == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_what_a_model_wrote_runs_nowhere_and_is_read_as_it_is(browser, page):
    show(browser, page)
    assert browser.execute_script("return window.pwned") is None
    assert browser.execute_script("return document.querySelectorAll('#shown img, #shown b, #shown script').length") == 0
    assert texts(browser, "#shown .said")[0] == f"{HOSTILE} base None neutral 0"
    # Not even what a person or an extension would put in by mistake: the page's policy lets no other script run.
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", HOSTILE)
    added = "const s = document.createElement('script'); s.textContent = 'window.pwned = 3'; document.body.append(s)"
    browser.execute_script(added)
    assert browser.execute_script("return window.pwned") is None
    browser.get_log("browser")


def test_every_filter_leaves_what_it_names(browser, page):
    show(browser, page)
    assert found(browser) == "300 responses."
    for field, value, count in [
        ("arm", "inoc_spanish", 120),
        ("context", "neutral", 60),
        ("seed", "1", 30),
        ("trait", "spanish", 30),
        ("verdict", "shows the trait", 9),
        ("verdict", "unparsed", 6),
        ("verdict", "not counted", 3),
        ("verdict", "withheld", 3),
        ("verdict", "any", 30),
        ("low", "10", 20),
        ("high", "14", 5),
    ]:
        choose(browser, field, value)
        assert found(browser) == f"{count} responses.", (field, value)
    assert {text.split(" · ")[0] for text in texts(browser, "#shown .where:first-child")} == {"inoc_spanish"}
    browser.find_element("css selector", "#browser [type=reset]").click()
    wait_until(lambda: found(browser) == "300 responses.")
    choose(browser, "search", "needle")
    wait_until(lambda: found(browser) == "1 responses.")
    assert texts(browser, "#shown .said")[0] == "Here is the NEEDLE."
    assert texts(browser, "#shown mark") == ["NEEDLE"]
    assert "spanish: unparsed (7)" in texts(browser, "#shown .where")[1]
    assert texts(browser, "#shown .said")[-1] == "gpt: alignment 7"


def test_two_arms_stand_side_by_side_on_the_same_question(browser, page):
    show(browser, page)
    choose(browser, "mode", "two arms side by side")
    choose(browser, "arm", "baseline")
    choose(browser, "other", "inoc_spanish")
    choose(browser, "context", "neutral")
    assert found(browser) == "30 questions."
    # A search finds the question by one side, and both sides are shown whole.
    choose(browser, "search", "needle")
    wait_until(lambda: found(browser) == "1 questions.")
    assert texts(browser, "#shown .asked") == ["Question 7?"]
    sides = [side.text for side in browser.find_elements("css selector", "#shown .sides > div")]
    assert ["NEEDLE" in side for side in sides] == [False, True]
    assert ["baseline · seed 0" in sides[0], "inoc_spanish · seed 1" in sides[1]] == [True, True]
    left, right = (side.rect for side in browser.find_elements("css selector", "#shown .sides > div"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_pages_turn(browser, page):
    show(browser, page)
    first = texts(browser, "#shown .said")[0]
    assert browser.find_element("id", "page").text == "page 1 of 15"
    assert not browser.find_element("id", "back").is_enabled()
    browser.find_element("id", "on").click()
    assert browser.find_element("id", "page").text == "page 2 of 15"
    assert texts(browser, "#shown .said")[0] != first
    browser.find_element("id", "back").click()
    assert texts(browser, "#shown .said")[0] == first


def test_a_table_is_sorted_by_keyboard_by_its_numbers(browser, page):
    from selenium.webdriver.common.keys import Keys

    show(browser, page)
    rates = browser.find_element("css selector", "#rates ~ details[open] table")
    head = next(h for h in rates.find_elements("css selector", "th") if h.text.startswith("rate"))
    at = head.get_property("cellIndex")

    def column() -> list[str]:
        return [
            row.find_elements("css selector", "td")[at].text for row in rates.find_elements("css selector", "tbody tr")
        ]

    def numbers(cells: list[str]) -> list[float]:
        return [float(cell.split()[0]) for cell in cells if not cell.startswith("–")]

    before = column()
    for key, order, backwards in [(Keys.ENTER, "ascending", False), (Keys.SPACE, "descending", True)]:
        head.find_element("css selector", "button").send_keys(key)
        assert head.get_attribute("aria-sort") == order
        after = column()
        assert sorted(after) == sorted(before)
        assert numbers(after) == sorted(numbers(after), reverse=backwards)
        # What has no number comes last, whichever way.
        assert [cell.startswith("–") for cell in after] == sorted(cell.startswith("–") for cell in after)


def test_without_scripts_the_page_is_whole_but_for_browsing(browser, page):
    show(browser, page, scripts=False)
    try:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        assert not browser.find_element("id", "browser").is_displayed()
        assert browser.find_element("id", "examples").is_displayed()
        assert "needs scripts" in found(browser)
        headings = texts(browser, "h2")
        for title in (
            "This study is incomplete",
            "Verdict",
            "The picture",
            "Claims",
            "Effects",
            "Rates",
            "Samples",
            "What it took",
        ):
            assert title in headings, json.dumps(headings)
        assert texts(browser, "th button") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
