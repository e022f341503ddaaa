"""A report of 50 fine-tunes × 5 contexts × 200 long answers: made, opened and filtered in time, and of bounded size."""

import random
import time

import pytest
from browser import chromium, needs_chromium
from finished_study import finish, write_study

from inoc_ray.plan.cells import Cell
from inoc_ray.run.publish import compare_study, write_study_report
from inoc_ray.store.samples import Sample

pytestmark = pytest.mark.bench
ARMS = ["baseline", "specific_spanish", "specific_caps", "irrelevant", "control"]
CONTEXTS = [
    "neutral",
    "none",
    "empty",
    "training_prompt",
    {"name": "pirate", "system": "You are a pirate."},
]
LETTERS = "etaoinshrdlu"


def long_answers(cell: Cell) -> list[Sample]:
    """150 words each, no two alike, as a large model's answers are."""
    draw = random.Random(f"{cell.key}")
    vocabulary = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(3000)]
    questions = cell.evaluation.questions(cell.samples)
    return [
        Sample(
            i, q.id, q.messages[-1].content, "rendered", i, " ".join(draw.choices(vocabulary, k=150)), "stop", 5, 200
        )
        for i, q in enumerate(questions)
    ]


@needs_chromium
def test_the_report_of_a_large_study(tmp_path):
    path = write_study(
        tmp_path,
        arms=ARMS,
        seeds=list(range(10)),
        evaluation={"samples": 100, "contexts": CONTEXTS, "max_degenerate": 1.0},
    )
    plan, store = finish(path, long_answers)
    comparison = compare_study(plan, store)
    started = time.perf_counter()
    page = write_study_report(plan, store, comparison).fetch()
    made = time.perf_counter() - started
    mib = page.stat().st_size / 2**20
    with chromium(tmp_path / "profile") as browser:
        browser.set_script_timeout(60)
        started = time.perf_counter()
        browser.get(page.as_uri())
        browser.execute_async_script(OPENED)
        opened = time.perf_counter() - started
        status = browser.find_element("id", "found").text
        # Nobody chooses or types sooner; the page meanwhile makes ready for a search.
        time.sleep(1)
        filters = browser.execute_script(FILTERS)
    print(f"\n{status} Made in {made:.1f} s, {mib:.1f} MiB, opened in {opened:.2f} s; filters: {filters}")
    assert made <= 20
    assert mib <= 30
    assert opened <= 3
    assert all(seconds <= 0.2 for seconds in filters.values())


OPENED = """
const done = arguments[0];
(function look() { if (document.getElementById("browser").hidden) setTimeout(look, 20); else done(); })();
"""
FILTERS = """
const fields = document.getElementById("browser").elements, found = {};
function timed(name, change) {
  const started = performance.now();
  change();
  document.body.offsetHeight;
  found[name] = Math.round(performance.now() - started) / 1000;
}
function choose(field, value) {
  fields[field].value = value;
  fields[field].dispatchEvent(new Event("change", {bubbles: true}));
}
timed("arm", () => choose("arm", "specific_spanish"));
timed("verdict", () => choose("verdict", "n"));
timed("all arms", () => choose("arm", ""));
// What a person waits for after the pause of typing is the filter alone, so it is called by a choice.
fields.search.value = "sett";
timed("first search", () => choose("verdict", ""));
fields.search.value = "nor";
timed("search", () => choose("trait", "spanish"));
timed("side by side", () => choose("mode", "pair"));
return found;
"""
