"""Our loop beside TRL's SFTTrainer: the same rows, model, first adapter, batch and rate, loss on the assistant's tokens alone.

Each run is a fresh process, in turn: ours, TRL padded, TRL packed, ours, … Run it on an idle machine, and read the load average
that is printed before the ratios.
"""

import pytest
import workloads
from contest import contest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

NAMES = ("ours", "trl_padded", "trl_packed")
MINIATURE, LARGE_VOCABULARY = 1.8, 3.0
"""How many times as many tokens per second as the faster of TRL's two layouts."""


def compare(workload, title: str, *, rounds: int, steps: int, dropped: int, at_least: float) -> None:
    result = contest(workload, NAMES, rounds=rounds, steps=steps, dropped=dropped)
    print(f"\n{result.text(title, 'ours')}")
    faster = max(NAMES[1:], key=result.speed)
    assert result.speed("ours") / result.speed(faster) >= at_least
    assert result.peak("ours") <= max(result.peak(name) for name in NAMES[1:])


def test_the_miniature_beside_trl(tmp_path):
    compare(workloads.miniature(tmp_path), "miniature", rounds=3, steps=60, dropped=10, at_least=MINIATURE)


def test_a_large_vocabulary_beside_trl(tmp_path):
    compare(
        workloads.large_vocabulary(tmp_path),
        "100M parameters, vocabulary 151,936",
        rounds=3,
        steps=4,
        dropped=1,
        at_least=LARGE_VOCABULARY,
    )
