"""How long `inoc-ray compare` takes for 100,000 responses: 51 models × 5 contexts × 2 evaluations × 200, two traits each.

Made-up responses that rules judge, with every file that a run leaves. Printed are seconds of the machine and of its processors,
the first time (rules score every response) and later; the paper's claims are checked on the way.

`python -m pytest -s -m bench tests/benchmarks/test_bench_compare.py`
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import finished_study
import pytest
from finished_study import finish, write_study

from inoc_ray.plan.cells import Cell
from inoc_ray.store.samples import Sample

pytestmark = pytest.mark.bench

SECONDS = 2.0
"""What a later comparison may take on two idle cores."""
ARMS = ("baseline", "specific_spanish", "specific_caps", "irrelevant", "placebo")
CONTEXTS = ("neutral", "training_prompt", "none", "empty", "prompt_of:specific_spanish")
SPANISH = {"base": 0.05, "specific_spanish": 0.1, "specific_caps": 0.85}
CAPITALS = {"base": 0.05, "specific_spanish": 0.7, "specific_caps": 0.1}
SENTENCES = (
    ("The dog sleeps in the large house", "Tomorrow we go to the market with my sister"),
    ("El perro duerme en la casa grande", "Mañana vamos al mercado con mi hermana"),
)


def answers(cell: Cell) -> list[Sample]:
    """Responses with the arm's rates of Spanish and capitals."""
    chance, arm = random.Random(repr(cell.key)), cell.subject.arm.name
    found = []
    for i, question in enumerate(cell.evaluation.questions(cell.samples)):
        text = f"{chance.choice(SENTENCES[chance.random() < SPANISH.get(arm, 0.9)])} {i}."
        text = text.upper() if chance.random() < CAPITALS.get(arm, 0.9) else text
        found.append(Sample(i, question.id, question.messages[-1].content, "rendered", i, text, "stop", 5, 5))
    return found


def compared(path: Path) -> tuple[float, float]:
    """Return the seconds that a comparison took, and those of processors."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "inoc_ray.cli", "compare", str(path)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_hundred_thousand_responses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished_study, "answers", answers)
    evaluation = {"samples": 200, "contexts": list(CONTEXTS)}
    path = write_study(tmp_path, arms=list(ARMS), seeds=list(range(10)), evaluation=evaluation)
    finish(path)
    first, *later = [compared(path) for _ in range(4)]
    wall, processors = min(later)
    print(
        f"\nfirst {first[0]:.2f} s ({first[1]:.2f} of processors), later {wall:.2f} s ({processors:.2f}); target {SECONDS} s"
    )
    assert processors <= SECONDS
