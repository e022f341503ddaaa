"""Claims that no result of a study could answer, found before it runs by putting them to made-up rates of all that it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from inoc_ray.errors import InputError
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.probes import probes_of_arms
from inoc_ray.plan.steps import steps_of
from inoc_ray.study.dynamics import looks_at

if TYPE_CHECKING:
    from inoc_ray.results.effects import View
    from inoc_ray.results.stats import Estimate

_MADE_UP = {"base": 0.1, "baseline": 0.9, "irrelevant": 0.8}
_ELSE = 0.5
"""Rates of a study in which training teaches every trait and every prompt suppresses it: no measure is withheld."""


def check_answerable(plan: Plan) -> None:
    """Raise InputError for a claim of the study on an arm that has no such number in any setting × model of the claim."""
    if not plan.study.claims:
        return
    from inoc_ray.results.claim_checks import is_about
    from inoc_ray.results.claim_values import values_of

    groups = list(_views(plan))
    for claim in plan.study.claims:
        found = [values_of(claim, view, scores) for view, scores in groups if is_about(claim, view)]
        lacking = [of_arm[0].why for of_arm in zip(*found, strict=True) if all(one.estimate is None for one in of_arm)]
        if not found:
            lacking = ["the study trains no such model in such a setting"]
        if lacking:
            raise InputError(
                f"claims: {claim.name!r}: nothing that the study asks for answers it: {lacking[0]}; change the claim, or have that "
                "evaluated."
            )


def _views(plan: Plan) -> Iterator[tuple[View, Mapping[tuple[str, str], Estimate]]]:
    """Yield each setting × model with a rate of every trait in every cell, and a score of all else that is measured."""
    from inoc_ray.results.effects import Arm, Direction, View
    from inoc_ray.results.stats import RateKey

    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        for label in cell.subject.compared_as:
            groups.setdefault((cell.subject.setting, label), []).append(cell)
    for group, cells in groups.items():
        arms = {cell.subject.arm.name: cell.subject.arm.kind for cell in cells}
        roles: dict[str, dict[str, set[str]]] = {name: {} for name in arms}
        rates: dict[RateKey, Estimate] = {}
        for cell in cells:
            arm = cell.subject.arm
            for trait in cell.judges.traits:
                roles[arm.name].setdefault(cell.role(trait), set()).add(trait)
                rates[RateKey(arm.name, cell.evaluation.name, cell.context, trait)] = _made_up(arm.kind)
        view = View(
            setting=group[0],
            model=group[1],
            arms=tuple(
                Arm(
                    name,
                    kind,
                    Direction(*(tuple(sorted(roles[name].get(r, ()))) for r in ("undesired", "desired", "narrow"))),
                )
                for name, kind in arms.items()
            ),
            splits={cell.evaluation.name: cell.evaluation.split for cell in cells},
            rates=rates,
            reference=plan.reference,
            triggered=frozenset(cell.evaluation.name for cell in cells if cell.triggered),
        )
        yield view, _scores(plan, group[0], arms)


def _made_up(kind: str) -> Estimate:
    import numpy as np

    from inoc_ray.results.stats import Estimate

    value = _MADE_UP.get(kind, _ELSE)
    return Estimate(value, np.full(2, value))


def _scores(plan: Plan, setting: str, arms: Mapping[str, str]) -> dict[tuple[str, str], Estimate]:
    """Return what is measured beside rates: the scores on capability tasks, and what is followed while fine-tunes train."""
    from inoc_ray.results.claim_dynamics import GAIN, LATE_GAIN, key_of

    found = {
        (arm, task.task): _made_up(kind) for arm, kind in arms.items() for task in plan.study.evaluation.capabilities
    }
    measures = [GAIN, *([LATE_GAIN] if _looks_at_the_middle(plan) else [])]
    for (where, arm), probes in probes_of_arms(plan).items():
        for probe in probes if where == setting else ():
            found |= {(arm, key_of(name, probe.trait, probe.context)): _made_up(arms[arm]) for name in measures}
    return found


def _looks_at_the_middle(plan: Plan) -> bool:
    """Return whether a fine-tune is looked at between a quarter and half of its steps; True where a study gives no number."""
    points = plan.study.dynamics.points if plan.study.dynamics is not None else None
    return points is None or any(
        steps / 4 < look <= steps / 2
        for steps in {steps_of(plan, trial) for trial in plan.trials}
        for look in looks_at(steps, points)
    )
