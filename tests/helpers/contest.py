"""Runs contestants in turn, A B A B, each in a fresh process, and compares what they report."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parents[1]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one process reported."""

    tokens_per_second: float
    """Over the steps that count."""
    tokens_per_cpu_second: float
    """Over the same steps, by the processor time of all threads: what another process takes away does not count."""
    peak: int
    """Bytes resident at most after the first step, with libraries and model."""
    losses: list[float]
    """As the contestant logs them: TRL the mean over `logging_steps` steps."""
    tokens_per_step: list[int]
    load: float
    """Load average over the minute before it began."""


def run_once(workload: Path, name: str, steps: int, dropped: int, program: str = "contestants.py") -> Run:
    """Run one contestant for `steps` steps, of which the first `dropped` do not count. Raises RuntimeError with its last words."""
    result = workload / f"{name}.result.json"
    settings = json.loads((workload / "workload.json").read_text())
    # A test before may have made its process a rank of a group, which the contestant would look for.
    ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    env = {name: value for name, value in os.environ.items() if name not in ranks} | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HELPERS)]),
        "OMP_NUM_THREADS": str(settings["threads"]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    load = os.getloadavg()[0]
    command = [sys.executable, str(HELPERS / program), str(workload), name, str(steps), str(result)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-4000:]}")
    value: dict[str, Any] = json.loads(result.read_text())
    ends, cpu, tokens = value["ends"], value["cpu"], value["tokens"]
    assert len(ends) == steps, f"{name} took {len(ends)} steps of {steps}"
    per_step = [after - before for before, after in pairwise([0, *tokens])]
    counted = tokens[-1] - tokens[dropped - 1]
    rate, of_cpu = (counted / (at[-1] - at[dropped - 1]) for at in (ends, cpu))
    return Run(
        tokens_per_second=rate,
        tokens_per_cpu_second=of_cpu,
        peak=value["peak"],
        losses=value["losses"],
        tokens_per_step=per_step,
        load=load,
    )


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Every round of every contestant, in the order of the rounds."""

    runs: dict[str, list[Run]]

    def speed(self, name: str) -> float:
        """Median tokens per second."""
        return statistics.median(run.tokens_per_second for run in self.runs[name])

    def peak(self, name: str) -> float:
        """Median bytes."""
        return statistics.median(run.peak for run in self.runs[name])

    def ratios(self, name: str, other: str) -> list[float]:
        """Per round, how many times as fast `name` was."""
        pairs = zip(self.runs[name], self.runs[other], strict=True)
        return [a.tokens_per_second / b.tokens_per_second for a, b in pairs]

    def cpu_ratio(self, name: str, other: str) -> float:
        """Return how many times as many tokens a processor second of `name` gave: medians."""
        of, than = (statistics.median(run.tokens_per_cpu_second for run in self.runs[n]) for n in (name, other))
        return of / than

    def text(self, title: str, name: str) -> str:
        """One line per contestant, with `name` ÷ it."""
        loads = [run.load for runs in self.runs.values() for run in runs]
        lines = [f"{title}: {len(self.runs[name])} rounds, load average {min(loads):.1f} to {max(loads):.1f}"]
        for other, runs in self.runs.items():
            speeds = sorted(run.tokens_per_second for run in runs)
            ratios = sorted(self.ratios(name, other))
            spread = f"[{speeds[0]:,.0f} to {speeds[-1]:,.0f}]"
            lines.append(
                f"  {other:<12}{self.speed(other):>8,.0f} tokens/s {spread:<18}{self.peak(other) / 1e6:>8,.0f} MB   "
                f"{name} ÷ it {statistics.median(ratios):.2f} [{ratios[0]:.2f} to {ratios[-1]:.2f}], by processor time "
                f"{self.cpu_ratio(name, other):.2f}"
            )
        return "\n".join(lines)


def contest(
    workload: Path, names: Sequence[str], *, rounds: int, steps: int, dropped: int, program: str = "contestants.py"
) -> Contest:
    """Run every contestant once per round, in turn."""
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(run_once(workload, name, steps, dropped, program))
    return Contest(runs=runs)
