"""What MLflow is told of a study, as plain data: records of the study, its trials and its runs; without MLflow."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from inoc_ray.evaluate.harness_run import CapabilityScore
from inoc_ray.store.place import Place
from inoc_ray.store.seal import cached_hash

Status = Literal["done", "failed", "running", "new"]
CURVES = ("loss", "lr", "grad_norm", "tokens_per_second", "mfu")
"""What of a step becomes a point of a curve; curves.jsonl in the storage has the rest."""
MAX_PROBES = 4
"""Probe sets of a fine-tune with a curve in MLflow; tables/dynamics.csv has all of them."""
FIRST_RUN = "first_run"
"""A tag of a study's run: when the study was first run (epoch ms). Its storage keeps that wherever it is moved."""
MAX_PARAM = 6000  # characters; MLflow's limit
MAX_TAG = 5000  # characters; the limit of older servers, which a newer one raises to 8000
MAX_NAME = 250  # characters of a metric's name; MLflow's limit
HASHED_BYTES = 16 << 20
"""A larger file is compared by size and version: hashing the weights of a large model takes minutes."""


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study as the store has it. created_at: epoch ms, from the store and so fixed. tags: further tags of its run."""

    name: str
    created_at: int
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial, or the untouched base (arm and kind "base", no seed, no curves), as the store has it.

    recipe: nested dicts become parameters with dotted names. curves: one dict per step with "step" and any of CURVES (of which
    "lr" stands under "learning_rate"), and "ended_at" if it is known.
    adapter_dir: the files that adapter_files names (file in it → committed SHA-256) become a logged model, after a check against
    it; of a full fine-tune, only their place does. samples_path: a parquet file, of which the UI shows a table. Both are fetched
    only if they are sent.
    started_at, ended_at: epoch ms from the store, None if unknown. status: "new" if the weights do not exist and nothing failed,
    e.g. after a trial was deleted.
    """

    trial_id: str
    setting: str
    model: str
    arm: str
    kind: str
    prompt: str | None
    seed: int | None
    recipe: Mapping[str, Any]
    dataset_hash: str
    curves: Sequence[Mapping[str, Any]] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    """What training measured, as trial.json has it; records of earlier versions have less."""
    adapter_dir: Place | None = None
    adapter_files: Mapping[str, str] = field(default_factory=dict)
    samples_path: Place | None = None
    started_at: int | None = None
    ended_at: int | None = None
    status: Status = "done"
    compared_as: str = ""
    """The model's label in the tables, if it differs (the base of several recipes)."""
    prior_trial: str = ""
    """The trial of the prior stage, whose adapter this one started from (or, for a base, is); "" for none."""
    capabilities: Sequence[CapabilityScore] = ()
    """Scores of lm-evaluation-harness; parts of a task (the subjects of mmlu) do not become metrics."""
    base: str = ""
    """The base model: its name in the study, its folder, the beginning of its content hash."""
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Probe set that was followed → its `trait` and `context`, and the `tokens` of each response."""
    rows_name: str = ""
    """The training rows' name: the user's file, or the setting."""

    @property
    def place(self) -> str:
        """Its place in the study, by which its run is found: two settings may share a trial."""
        return place_of(self.setting, self.model, self.arm, self.seed)

    @property
    def arm_place(self) -> str:
        """The place of its arm, which all its seeds share."""
        return " · ".join([self.setting, self.model, self.arm])


def place_of(setting: str, model: str, arm: str, seed: int | str | None) -> str:
    """Return the tag `place` of a run: "setting · model · arm · seed", with an empty seed for a base."""
    return " · ".join([setting, model, arm, "" if seed is None else str(seed)])


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a training curve."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file of a run: a file of the store as it is, or bytes that are made when it is sent."""

    path: str
    """Inside the run's artifacts."""
    of: tuple[Place, ...] = ()
    """The files on which its content rests; one, whose content it is, unless `make` is given."""
    make: Callable[[], bytes] | None = None
    committed: str = ""
    """The SHA-256 of a file that was committed and never changes."""
    table: bool = False
    """Whether the UI shows it as a table."""

    def state(self) -> list[Any]:
        """Return what differs when the content does."""
        if self.make is not None and not self.of:
            return [self.path, hashlib.sha256(self.make()).hexdigest()]
        return [self.path, *(self.committed or file_state(place) for place in self.of)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The weights of a trial as a logged model. files: what is sent; none for a whole model, which stays where it is."""

    name: str
    content: str
    """A hash of the committed files."""
    params: Mapping[str, str]
    tags: Mapping[str, str]
    files: Sequence[Artifact] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """The rows that a trial was trained on."""

    name: str
    digest: str
    """At most 36 characters; MLflow's limit."""
    source: str
    """JSON with the content hash of the rows and the prompt that was put before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The content of one MLflow run. identity: the tag (name, value) by which it is found again."""

    identity: tuple[str, str]
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    started_at: int
    ended_at: int | None
    status: str
    parent: tuple[str, str] | None = None
    """The identity of the run that this one is shown under."""
    curves: Sequence[Point] = ()
    artifacts: Sequence[Artifact] = ()
    dataset: DatasetRecord | None = None
    model: ModelRecord | None = None

    def curves_hash(self) -> str:
        """Return a hash of all points."""
        return _hash([[p.key, p.value, p.timestamp, p.step] for p in self.curves])

    def artifacts_hash(self) -> str:
        """Return a hash of all artifacts, by path and content."""
        return _hash([artifact.state() for artifact in self.artifacts])

    def state(self) -> list[Any]:
        """Return what differs when anything of the run does."""
        return [
            self.identity,
            self.name,
            sorted(self.tags.items()),
            sorted(self.params.items()),
            sorted(self.metrics.items()),
            [self.started_at, self.ended_at, self.status],
            self.parent,
            self.curves_hash(),
            self.artifacts_hash(),
            None if self.dataset is None else [self.dataset.name, self.dataset.digest, self.dataset.source],
            None if self.model is None else [self.model.content, sorted(self.model.tags.items())],
        ]


def cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Cut tags to MLflow's limit: a server would cut a longer one, which would then never agree with the store."""
    return {key: value if len(value) <= MAX_TAG else value[: MAX_TAG - 1] + "…" for key, value in tags.items()}


def with_valid_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics with names and values that MLflow stores unchanged.

    A name uses MLflow's alphabet, is a path without empty or dotted parts, and has at most MAX_NAME characters: a longer one keeps
    its beginning and its end around a hash of the whole, so that names stay distinct. An infinite value becomes the largest float,
    as in MLflow's databases.
    """
    out: dict[str, float] = {}
    for full, value in metrics.items():
        name = _name(full)
        if len(name) > MAX_NAME or name in out:
            mark = f"_{hashlib.sha256(full.encode()).hexdigest()[:8]}_"
            half = (MAX_NAME - len(mark)) // 2
            name = _name(full)[:half] + mark + _name(full)[-half:]
        out[name] = max(-sys.float_info.max, min(sys.float_info.max, value))
    return out


def points_of(row: Mapping[str, Any], otherwise: int = 0) -> Iterator[Point]:
    """Yield the points of one step. otherwise: their time in epoch ms if the step does not say when it ended."""
    ended = row.get("ended_at")
    timestamp = otherwise if ended is None else int(ended * 1000)
    for key in CURVES:
        value = row.get("learning_rate" if key == "lr" else key)
        if value is not None:
            yield Point(key, float(value), timestamp, int(row["step"]))
    for field_name, step in (("logprobs_before", int(row["step"]) - 1), ("logprobs", int(row["step"]))):
        # The first ones: a chart of each.
        for probe, values in list((row.get(field_name) or {}).items())[:MAX_PROBES]:
            yield Point(f"logprob.{probe}", statistics.fmean(values), timestamp, step)


def _name(text: str) -> str:
    """Return a metric's name in the alphabet that MLflow accepts, as a path without empty parts, `.` and `..`."""
    # A name that begins with two dots looks to MLflow like one outside of its folder.
    parts = re.sub(r"^\.\.|[^\w./: -]", "_", text).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def file_state(path: Place) -> Any:
    """Return what differs when the content of a file does, as JSON. Raises `OSError` if there is no such file."""
    stat = path.stat()
    if stat.size > HASHED_BYTES:
        return [stat.size, stat.version]
    return cached_hash(path)
