"""A trial as a job for a worker group, and its outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from inoc_ray.train.spec import LoopSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialJob:
    """One trial to train; `to_dict` and `from_dict` take it to the workers and back."""

    trial_id: str
    label: str
    """How people name it, in progress and messages: setting/arm/seed."""
    spec: LoopSpec
    rows: str | Sequence[Mapping[str, Any]]
    """The content hash of rows that the store keeps, or the rows themselves (`ChatRow.to_dict()`)."""
    starts_from: str | None = None
    """The trial whose adapter it goes on with, which the worker fetches from the store in place of `spec.start`."""
    probes: Mapping[str, Sequence[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    """Probe set → fixed responses (`ChatRow.to_dict()`) whose log-probability is followed."""
    points: int | None = None
    """How often; None for what a small share of the time allows."""
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the trial's record says beside what training adds."""
    variants: int = 1
    """How many sets of the same rows, with other wordings of the prompt, `rows` holds; the epochs take them in turn."""
    study: str = ""
    """The study that it is trained for, in log lines."""

    def to_dict(self) -> dict[str, Any]:
        """Return the job as JSON-able values; of the resources those of a single trial."""
        return dict(_JOB.dump_python(self, mode="json"))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TrialJob:
        """Read what `to_dict` returned."""
        return _JOB.validate_python(value)


_JOB = TypeAdapter(TrialJob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a trial."""

    trial_id: str
    label: str
    status: Literal["trained", "skipped", "failed"]
    """skipped: it was committed before."""
    seconds_training: float = 0.0
    """Optimizer steps alone."""
    seconds_total: float = 0.0
    """With reading and encoding rows, making the model, export and commit; without the start of the group."""
    final_loss: float | None = None
    error: str | None = None
    """One line; the traceback is in the store's log of the trial."""
