"""The responses that a study asks for over the steps of its fine-tunes: how many are stored, and which are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from inoc_ray.plan.cells import Cell, stored_once
from inoc_ray.plan.courses import step_of
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import KeptWeights, seed_of


def outlined_courses(plan: Plan) -> list[dict[str, Any]]:
    """Return all weights that are asked over the steps, with the cells that nothing else asks for, as plain values.

    They are in the order of the fine-tunes and their steps, and do not depend on what is done.
    """
    compared = {cell.key: cell.samples for cell in stored_once(plan.cells)}
    new = stored_once(cell for cell in plan.courses if compared.get(cell.key, 0) < cell.samples)
    cells: dict[str, list[Cell]] = {}
    for cell in new:
        cells.setdefault(cell.subject.trial_id, []).append(cell)
    subjects = {cell.subject.trial_id: cell.subject for cell in plan.courses if cell.subject.trial_id in cells}
    return [
        {
            "trial_id": name,
            "fine_tune": subject.fine_tune if isinstance(subject, KeptWeights) else None,
            "setting": subject.setting,
            "model": subject.model_label,
            "arm": subject.arm.name,
            "seed": seed_of(subject),
            "step": step_of(plan, subject),
            "cells": [[cell.evaluation_id, cell.samples] for cell in cells[name]],
        }
        for name, subject in subjects.items()
    ]


def courses_json(
    outlined: Iterable[Mapping[str, Any]],
    count: Callable[[str, str], int],
    may_be_kept: Callable[[Mapping[str, Any]], bool],
) -> list[dict[str, Any]]:
    """Return what `outlined_courses` does with stored and wanted samples in place of cells, for `--json`.

    count: (weights, evaluation) → stored samples. may_be_kept: False for weights that a finished fine-tune has not kept, which
    nobody can ask.
    """
    return [
        {
            **{name: value for name, value in one.items() if name not in ("cells", "fine_tune")},
            "samples_stored": sum(min(samples, count(one["trial_id"], cell)) for cell, samples in one["cells"]),
            "samples_wanted": sum(samples for _, samples in one["cells"]),
        }
        for one in outlined
        if one["fine_tune"] is None or may_be_kept(one)
    ]


def courses_text(courses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line with the count of responses over the steps, and one for each fine-tune that lacks some."""
    if not courses:
        return []
    stored, wanted = (sum(one[name] for one in courses) for name in ("samples_stored", "samples_wanted"))
    lacking: dict[str, list[str]] = {}
    for one in courses:
        if one["samples_stored"] < one["samples_wanted"]:
            seed = "" if one["seed"] is None else f" seed {one['seed']}"
            place = f"{one['setting']} · {one['model']} · {one['arm']}{seed}"
            lacking.setdefault(place, []).append(
                f"{one['samples_stored']}/{one['samples_wanted']} after step {one['step']}"
            )
    missing = f"; {wanted - stored:,} are missing:" if lacking else "."
    return [
        f"Over the steps of the fine-tunes (dynamics.samples): {stored:,} of {wanted:,} responses{missing}",
        *(f"  {place}: {', '.join(steps)}" for place, steps in lacking.items()),
    ]
