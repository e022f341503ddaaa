"""Who judges what in a study, and how much of it is still to be judged; asks nobody and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inoc_ray.evaluate.score_table import setting_of
from inoc_ray.plan.judges import measure_of
from inoc_ray.plan.plan import Plan
from inoc_ray.scoring.judgment import RULES
from inoc_ray.store.samples import find_judgments
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Judge


@dataclass(frozen=True)
class Told:
    """One trait of one evaluation and who tells it, in the order in which they count."""

    setting: str
    evaluation: str
    trait: str
    judges: tuple[str, ...]
    rubrics: tuple[str, ...]
    """What judging models among them are asked: the trait's rubric, and those that decide whether a response counts."""
    gate: tuple[str, tuple[str, ...]] | None = None
    """For rules among them: the judging model and the rubrics that decide whether a response counts."""

    def in_words(self, plan: Plan) -> str:
        """For people: "rules, then small (miniature, digit) on alignment, coherence; the first that gives an answer"."""
        named = [self._rules(plan) if name == RULES else _model(plan, name) for name in self.judges]
        asked = f" on {', '.join(self.rubrics)}" if set(self.judges) - {RULES} else ""
        return "; ".join(filter(None, [", ".join(named) + asked, self.combined(plan)]))

    def how(self, plan: Plan, judge: str) -> str:
        """One of the judges in words: "rules", or "small (miniature, digit) on alignment, coherence"."""
        if judge == RULES:
            return self._rules(plan)
        return f"{judge} ({model_of(plan.study.judges[judge])}) on {', '.join(self.rubrics)}"

    def combined(self, plan: Plan) -> str:
        """Which of several judges counts; empty where there is one."""
        how = {"first": "the first that gives an answer", "mean": "the mean of their numbers"}
        combine = plan.study.evaluation.combine
        return how.get(combine, f"{combine} of them") if len(self.judges) > 1 else ""

    def _rules(self, plan: Plan) -> str:
        if self.gate is None:
            return RULES
        judge, rubrics = self.gate
        return f"{RULES} (counted by {_model(plan, judge)} on {', '.join(rubrics)})"


def _model(plan: Plan, judge: str) -> str:
    return f"{judge} ({model_of(plan.study.judges[judge])})"


@dataclass(frozen=True)
class Workload:
    """What one judging model has done and has to do. A judgment is one number for one response on one rubric."""

    judge: str
    model: str
    judged: int
    """Judgments that are stored."""
    missing: int
    """Judgments that are not, of responses that are still to be asked for among them."""
    calls: int
    """Requests, if none has to be repeated and none was answered before, in any study of the storage."""

    def to_json(self) -> dict[str, Any]:
        return {
            "judge": self.judge,
            "model": self.model,
            "judged": self.judged,
            "missing": self.missing,
            "calls": self.calls,
        }


def model_of(judge: Judge) -> str:
    """Which model it is and how it is asked, in words."""
    return f"{judge.served_model or judge.path}, {judge.method}"


def told(plan: Plan) -> Iterator[Told]:
    """Every trait of every evaluation of the study, each once."""
    seen: set[tuple[str, str]] = set()
    for cell in plan.cells:
        spec, setting = cell.evaluation, setting_of(plan, cell.subject.setting)
        if (setting.name, spec.name) in seen:
            continue
        seen.add((setting.name, spec.name))
        for trait in spec.traits:
            names = plan.panel.told_by(setting, spec, trait)
            measure = measure_of(setting, spec, trait)
            rubrics = measure.rubrics if measure is not None else ()
            gate = plan.panel.gate_of(setting, spec, trait)
            yield Told(setting.name, spec.name, trait, tuple(names), rubrics, gate)


def workloads(plan: Plan, store: Store) -> list[Workload]:
    """One for each judging model that the study asks something. Raises InputError when a judge's folder is no model."""
    counts: dict[str, list[int]] = {}
    seen: set[tuple[str, str, str]] = set()
    # Of several cells with the same place the one that asks most.
    for cell in sorted(plan.cells, key=lambda c: -c.samples):
        for name, rubrics in plan.panel.asked(setting_of(plan, cell.subject.setting), cell.evaluation).items():
            judgments_id = plan.panel.judging(name).judgments_id(rubrics)
            if (cell.subject.trial_id, cell.evaluation_id, judgments_id) in seen:
                continue
            seen.add((cell.subject.trial_id, cell.evaluation_id, judgments_id))
            parts = store.parts(*cell.key)
            done = sum(p.stop - p.start for p in parts if find_judgments(p.path, judgments_id) is not None)
            # Whole parts are judged, also where another study has asked for more than this one.
            responses = max(cell.samples, parts[-1][1] if parts else 0)
            total = counts.setdefault(name, [0, 0, 0])
            total[0] += done * len(rubrics)
            total[1] += (responses - done) * len(rubrics)
            total[2] += (responses - done) * _calls(plan.study.judges[name], len(rubrics))
    return [
        Workload(name, model_of(plan.study.judges[name]), judged, missing, calls)
        for name, (judged, missing, calls) in counts.items()
    ]


def _calls(judge: Judge, rubrics: int) -> int:
    """Requests for one response. What `candidates` asks an own engine behind prefixes is not counted."""
    return 1 if judge.method == "json" else rubrics * judge.samples
