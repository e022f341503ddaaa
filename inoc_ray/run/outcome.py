"""The outcome of a run: what it did, what failed, where its results are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from inoc_ray.console import duration
from inoc_ray.store.failures import Failure, Thing
from inoc_ray.store.place import Place

if TYPE_CHECKING:
    from inoc_ray.results.comparison import Comparison


@dataclass
class StudyOutcome:
    """What a run did and where its results are."""

    study: str
    trained: int = 0
    sampled: int = 0
    judge_calls: int = 0
    """Requests sent to judging models."""
    failed: list[Failure] = field(default_factory=list)
    """What failed in this run."""
    tried: set[Thing] = field(default_factory=set)
    """What this run tried to make."""
    schedule: Literal["overlap", "phased"] | None = None
    """Whether models were evaluated beside the training or after it; None if there was nothing to train."""
    seconds: dict[str, float] = field(default_factory=dict)
    phase: str = ""
    """The step that it is at, or was stopped at."""
    comparison: Comparison | None = None
    report: Place | None = None
    tracking_uri: str = ""

    @property
    def has_made_something(self) -> bool:
        """Whether this run trained, sampled or judged, or tried to."""
        return bool(self.trained or self.sampled or self.judge_calls or self.tried or self.failed)

    def to_json(self) -> dict[str, Any]:
        """Return the value for `--json`."""
        return {
            "study": self.study,
            "trained": self.trained,
            "samples_asked": self.sampled,
            "judge_calls": self.judge_calls,
            "schedule": self.schedule,
            "failed": [failure.to_json() for failure in self.failed],
            "seconds": {step: round(seconds, 2) for step, seconds in self.seconds.items()},
            "report": str(self.report) if self.report else None,
            "tracking_uri": self.tracking_uri,
            "comparison": self.comparison.to_json() if self.comparison else None,
        }

    def to_text(self) -> str:
        """Return what was done and where the results are; the comparison has a text of its own."""
        lines = [] if self.comparison else ["Nothing is evaluated yet.\n"]
        times = ", ".join(f"{step} {duration(seconds)}" for step, seconds in self.seconds.items())
        calls = f", sent {self.judge_calls} requests to judges" if self.judge_calls else ""
        lines.append(f"Trained {self.trained} trials, sampled {self.sampled} responses{calls} ({times}).")
        if self.report:
            lines.append(f"Report: {self.report}")
        if self.tracking_uri:
            lines.append(f"MLflow store: {self.tracking_uri}")
            if not self.tracking_uri.startswith("http"):
                lines.append(f"  open it with: mlflow ui --backend-store-uri {self.tracking_uri}")
            lines.append(f"  experiment {self.study}: “Compare the arms” at the top of its page")
        return "\n".join(lines)

    def failure_text(self) -> str:
        """Return the error message: a line for each failure."""
        return "\n".join([f"{len(self.failed)} failed:", *(f"  {failure.in_words()}" for failure in self.failed)])
