"""Every name in a store: its folders and its files. No other module spells one.

trials/TRIAL/           COMMIT.json trial.json curves.jsonl adapter/        one fine-tune, complete once COMMIT.json exists
trials/TRIAL/checkpoints/STEP/                                              its weights on the way, where they were kept
snapshots/TRIAL/        STEP-TOKEN/ checkpoint-STEP/                        a trial in training: to resume from, and what is kept
snapshots/TRIAL.now                                                         asks for a snapshot
logs/TRIAL.log                                                              why a trial failed
rows/HASH.jsonl                                                             training rows, by content
evaluations/TRIAL/      weights.json                                        which weights gave the samples
evaluations/TRIAL/EVALUATION/   evaluation.json samples-… scores-… form-… judgments-…       one cell
judgments/JUDGE/        SEGMENT.jsonl                                       every answer of a judge
capabilities/WEIGHTS/CAPABILITY/    scores.json samples.jsonl.gz            what the harness measured
studies/STUDY/          study.json outline.json progress.json failures.json results.json report.html samples/ *.log
                        samples-under-way.jsonl
studies/STUDY/figures/                                                      figures of the paper
leases/                 NAME.json taking.lock                               which process works on what
mlflow/                 mlflow.db artifacts/ sync.lock                      tracking without a server
ray/RUN/                attempts/ more-room placement-group sign-of-life     what groups of workers and their driver tell each other
"""

from __future__ import annotations

import re

from inoc_ray.config.identity import content_id

TRIALS, LOGS, ROWS, EVALUATIONS, JUDGMENTS = "trials", "logs", "rows", "evaluations", "judgments"
CAPABILITIES, STUDIES, LEASES, MLFLOW, RAY = "capabilities", "studies", "leases", "mlflow", "ray"
SNAPSHOTS = "snapshots"
CHECKPOINTS = "checkpoints"
"""Below a trial: its weights after some of its steps."""
FOLDERS = (TRIALS, SNAPSHOTS, LOGS, ROWS, EVALUATIONS, JUDGMENTS, CAPABILITIES, STUDIES, LEASES, MLFLOW, RAY)
"""The folders of a store."""

COMMIT = "COMMIT.json"
"""Size and SHA-256 of every file of a trial; written last."""
TRIAL, CURVES, ADAPTER = "trial.json", "curves.jsonl", "adapter"
DAMAGED = "DAMAGED.json"
"""What was found damaged in a trial, and the commit that it had."""
WEIGHTS, DESCRIPTION = "weights.json", "evaluation.json"
CAPABILITY_SCORES, CAPABILITY_SAMPLES = "scores.json", "samples.jsonl.gz"
STUDY, FAILURES, UNDER_WAY, REPORT, TABLES, FIGURES = (
    "study.json",
    "failures.json",
    "samples-under-way.jsonl",
    "report.html",
    "samples",
    "figures",
)
OUTLINE, PROGRESS = "outline.json", "progress.json"
RESULTS = "results.json"
"""What report and MLflow were last written from."""
TABLES_NOTE = "sample-tables.json"
"""What the sample tables were made of."""
TAKING, SYNC_LOCK = "taking.lock", "sync.lock"
MLFLOW_DATABASE, MLFLOW_ARTIFACTS = "mlflow.db", "artifacts"
ATTEMPTS = "attempts"
GROW, ROOM, SIGN_OF_LIFE, STOPPED = "more-room", "placement-group", "sign-of-life", "told-to-stop"

FILES = (
    COMMIT,
    TRIAL,
    CURVES,
    DAMAGED,
    WEIGHTS,
    DESCRIPTION,
    CAPABILITY_SCORES,
    CAPABILITY_SAMPLES,
    STUDY,
    FAILURES,
    UNDER_WAY,
    REPORT,
    OUTLINE,
    PROGRESS,
    RESULTS,
    TABLES_NOTE,
    TAKING,
    SYNC_LOCK,
    MLFLOW_DATABASE,
    GROW,
    ROOM,
    SIGN_OF_LIFE,
    STOPPED,
)
"""The files of a store that have fixed names."""

SAMPLES, SCORES, FORM, JUDGED = "samples-", "scores-", "form-", "judgments-"
PREFIXES = (SAMPLES, SCORES, FORM, JUDGED)
"""Prefixes of the names of a cell's files; samples count from START to STOP - 1."""
REFUSED = ".refused"
"""Suffix of the note beside judgments, some of which an API refused."""

_PART = re.compile(r"samples-(\d{6})-(\d{6})(?:\.[0-9a-f]{16})?\.parquet")


def part_name(start: int, stop: int) -> str:
    """Return the name of the file that holds samples start ≤ i < stop of a cell."""
    return f"{SAMPLES}{start:06d}-{stop:06d}.parquet"


def range_of(name: str) -> tuple[int, int] | None:
    """Return (start, stop) of a file of samples, sealed or not; None for any other file."""
    match = _PART.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def is_read_by_plans(name: str) -> bool:
    """Return True for the names of the files that a plan reads of trials and cells: what says whether they are done."""
    return name in (COMMIT, WEIGHTS)


def is_no_weights(name: str) -> bool:
    """Return True for the names of the files that results are made of: all but weights."""
    return not name.endswith(".safetensors")


def derived_name(part: str, what: str, content: str) -> str:
    """Return the name of a file derived from a part (named without its seal) with that content: `what` replaces "samples"."""
    return part.replace(SAMPLES, f"{what}-{content}-")


def earlier_name(part: str, what: str) -> str:
    """Return the name that an earlier version gave a file derived from a part, without the hash of the part's content."""
    return part.replace(SAMPLES, f"{what}-")


def scores_of(rules_id: str) -> str:
    """Return the `what` of `derived_name` for the scores of these rules."""
    return f"{SCORES}{rules_id}"


def form_of(version: int) -> str:
    """Return the `what` of `derived_name` for the table of degenerate responses."""
    return f"{FORM}{version}"


def judgments_of(judgments_id: str) -> str:
    """Return the `what` of `derived_name` for these judgments."""
    return f"{JUDGED}{judgments_id}"


def earlier_judgments(part: str) -> re.Pattern[str]:
    """Return a pattern for the names of an earlier version's judgments of a part; group 1 is the `what` of `derived_name`."""
    return re.compile(re.escape(part).replace(r"samples\-", r"(judgments-[0-9a-f]{16})-"))


def log_name(what: str) -> str:
    """Return the name of a log."""
    return f"{what}.log"


def request_name(trial_id: str) -> str:
    """Return the name of the file that asks for a snapshot of a trial."""
    return f"{trial_id}.now"


def table_name(setting: str, model: str, arm: str, seed: int | None) -> str:
    """Return the name of a sample table, by its place in the study: two settings or models may share a trial."""
    # Names of settings and labels may contain "/", but neither "+" nor ",".
    name = ",".join(part.replace("/", "+") for part in (setting, model, arm)) + ("" if seed is None else f",s{seed}")
    return f"{name if len(name) <= 200 else f'{name[:180]}~{content_id(name)}'}.parquet"
