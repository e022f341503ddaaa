"""A study on a planned cluster: what fits on which nodes, how long it takes and what it costs; or why it cannot run there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from inoc_ray.cluster.cluster_file import PlannedCluster, of_own
from inoc_ray.cluster.hardware import MACHINES
from inoc_ray.errors import InputError
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.steps import steps_of
from inoc_ray.plan.trials import Trial
from inoc_ray.sizing.engines import CHEAPER, EngineFit, engines_of, with_engine_gpus
from inoc_ray.sizing.fine_tunes import FineTunes, Fit, best_fits, fit_of, limit, why_not
from inoc_ray.sizing.row_lengths import RowLengths, row_lengths
from inoc_ray.sizing.speed import EFFICIENCY
from inoc_ray.sizing.training import GIB
from inoc_ray.study.resources import GroupResources
from inoc_ray.train.layout import check_fits

MOST_NODES = 8
"""Nodes of a kind that are proposed where nothing on the cluster fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A study on a planned cluster."""

    cluster: PlannedCluster
    efficiency: float
    training: tuple[Fit, ...]
    better: Mapping[str, Fit]
    """By the fine-tunes' label: a shape that takes clearly fewer GPU-hours than the study's."""
    engines: tuple[EngineFit, ...]
    notes: tuple[str, ...]

    @property
    def gpu_hours(self) -> float | None:
        """Of training and engines; None if one of them is not known."""
        return _sum([fit.gpu_hours for fit in self.training] + [engine.gpu_hours for engine in self.engines])

    @property
    def dollars(self) -> float | None:
        """Likewise, in dollars."""
        return _sum([fit.dollars for fit in self.training] + [engine.dollars for engine in self.engines])

    @property
    def hours(self) -> float | None:
        """From start to end: fine-tunes of one shape after the other, then one engine after the other."""
        return _sum([fit.hours for fit in self.training] + [engine.hours for engine in self.engines])


def _sum(values: list[float | None]) -> float | None:
    return None if any(value is None for value in values) else sum(value for value in values if value is not None)


def estimate(plan: Plan, cluster: PlannedCluster) -> Estimate:
    """Return what the study takes on the cluster.

    Needs config.json of each model; a tokenizer makes the numbers of tokens exact. Raises InputError if fine-tunes or an
    engine do not fit on any nodes of the cluster: with the arithmetic, and two shapes that would.
    """
    efficiency = cluster.efficiency or EFFICIENCY
    plan = with_engine_gpus(with_shapes(plan, cluster), cluster)
    kinds = sorted(cluster.kinds, key=lambda kind: kind.gpus)
    training: list[Fit] = []
    better: dict[str, Fit] = {}
    notes: list[str] = []
    for tunes in fine_tunes_of(plan):
        fits = [
            fit_of(tunes, kind, tunes.resources, capacity=cluster.only(kind), efficiency=efficiency) for kind in kinds
        ]
        found = [fit for fit in fits if fit is not None]
        if not found:
            raise InputError(_refusal(tunes, cluster, efficiency))
        fit = min(found, key=lambda one: (one.gpu_hours or 0.0, one.hours or 0.0))
        training.append(fit)
        proposed = _best(tunes, cluster, efficiency)
        plain = proposed and not proposed[0].memory.host
        if plain and fit.gpu_hours and (proposed[0].gpu_hours or 0.0) <= CHEAPER * fit.gpu_hours:
            better[tunes.label] = proposed[0]
        if not tunes.resources.gpus_per_worker and any(kind.gpu for kind in kinds):
            notes.append(
                f"{tunes.label} trains on CPUs, for which no time is estimated: set {tunes.place}.gpus_per_worker: 1"
            )
        if fit.tight:
            of_device = f"{fit.memory.total / GIB:.1f} of {limit(fit.kind, fit.resources) / GIB:.1f} GiB"
            notes.append(
                f"{tunes.label} takes {of_device}, by an estimate that may be some percent off; a smaller "
                f"{tunes.place}.micro_batch_size or more workers leave room"
            )
        if not tunes.rows.counted:
            notes.append(f"{tunes.model.name}: no tokenizer beside config.json, so tokens are estimated by characters")
            tokens = tunes.resources.micro_batch_tokens
            if tokens is not None and tunes.rows.longest > tokens:
                notes.append(
                    f"{tunes.label}: by its characters the longest row has about {tunes.rows.longest} tokens, more than "
                    f"{tunes.place}.micro_batch_tokens ({tokens}); a run refuses such a row"
                )
    engines = tuple(engines_of(plan, cluster, kinds))
    if any(kind.gpu for kind in kinds):
        notes += _engines_on_cpus(engines)
    return Estimate(
        cluster=cluster,
        efficiency=efficiency,
        training=tuple(training),
        better=better,
        engines=engines,
        notes=tuple(dict.fromkeys(notes)),
    )


def _engines_on_cpus(engines: tuple[EngineFit, ...]) -> list[str]:
    """Return what to set for engines on CPUs of a cluster that has GPUs: one line for each place in the study."""
    places: dict[str, list[EngineFit]] = {}
    for engine in engines:
        if not engine.resources.gpus:
            places.setdefault(engine.place, []).append(engine)
    notes = []
    for place, there in places.items():
        number = [engine.gpus_that_fit for engine in there]
        fits = None if None in number else max(gpus for gpus in number if gpus is not None)
        says = "runs" if len(there) == 1 else "run"
        what = " and ".join(engine.label for engine in there)
        way_out = f"set {place}.serve_gpus: {fits}" if fits else "no node has enough GPUs for it"
        notes.append(f"{what} {says} on CPUs (serve_gpus is 0), for which no time is estimated: {way_out}")
    return notes


def with_shapes(plan: Plan, cluster: PlannedCluster) -> Plan:
    """Return the plan with the shape of each kind of fine-tunes that take GPUs and whose workers its study leaves open.

    The best of the cluster (`best_fits`) that has everything else as the study gives it. What fits nowhere stays as it is.
    """
    efficiency, given = cluster.efficiency or EFFICIENCY, plan.study.resources.given_to_fine_tune
    found: dict[tuple[str, str | None], GroupResources] = {}
    for tunes in fine_tunes_of(plan, _leaves_workers_open):
        pair = (tunes.model.name, tunes.recipe_name)
        if fits := _best(tunes, cluster, efficiency, given(*pair)):
            found[pair] = fits[0].resources
    return replace(plan, shapes=found) if found else plan


def _leaves_workers_open(plan: Plan, trial: Trial) -> bool:
    """Return whether a trial takes GPUs, and the study does not say how many workers it has."""
    given = plan.study.resources.given_to_fine_tune(trial.model.name, trial.recipe_name)
    return plan.resources_of(trial).gpus_per_worker > 0 and "workers" not in given


def fine_tunes_of(plan: Plan, of: Callable[[Plan, Trial], bool] = lambda plan, trial: True) -> list[FineTunes]:
    """Return the plan's fine-tunes that are to be trained, those of a model and a recipe together. of: those with this trial."""
    found: dict[tuple[str, str | None], list[Trial]] = {}
    for trial in plan.to_train:
        found.setdefault((trial.model.name, trial.recipe_name), []).append(trial)
    out = []
    for trials in found.values():
        if not of(plan, trials[0]):
            continue
        first = trials[0]
        resources, rows = plan.resources_of(first), _lengths(plan, trials)
        tunes = FineTunes(
            model=first.model,
            recipe_name=first.recipe_name,
            recipe=first.recipe,
            resources=resources,
            steps=sum(steps_of(plan, trial) for trial in trials),
            trials=len(trials),
            rows=rows.within(resources.micro_batch_tokens),
        )
        if rows.counted:
            check_fits(rows.longest, resources.micro_batch_tokens, f"{tunes.label}: the longest row")
        out.append(tunes)
    return out


def _lengths(plan: Plan, trials: list[Trial]) -> RowLengths:
    """Return the lengths of the rows of all arms and settings together: each set of rows once."""
    sets: dict[tuple[str, str], RowLengths] = {}
    for trial in trials:
        key = (trial.dataset_hash, trial.arm.name)
        if key not in sets:
            sets[key] = row_lengths(
                trial.model.path,
                plan.training_rows(trial),
                trial.recipe.max_length,
                f"{trial.rows_label} (arm {trial.arm.name})",
                trial.model.enable_thinking,
            )
    found = list(sets.values())
    return RowLengths(
        lengths=tuple(length for one in found for length in one.lengths),
        targets=tuple(target for one in found for target in one.targets),
        longest=max(one.longest for one in found),
        most_targets=max(one.most_targets for one in found),
        counted=all(one.counted for one in found),
    )


def _best(tunes: FineTunes, cluster: PlannedCluster, efficiency: float, keep: Set[str] = frozenset()) -> list[Fit]:
    """Return the best shape on each kind of node of the cluster, the cheapest first; keep: as `best_fits` has it."""
    firsts = [
        fits[0]
        for kind in cluster.kinds
        if (fits := best_fits(tunes, kind, capacity=cluster.only(kind), efficiency=efficiency, keep=keep))
    ]
    return sorted(firsts, key=lambda fit: (fit.memory.host > 0, fit.dollars or math.inf, fit.gpu_hours or 0.0))


def _refusal(tunes: FineTunes, cluster: PlannedCluster, efficiency: float) -> str:
    """Return why the fine-tunes run nowhere on the cluster, and two shapes that would."""
    largest = max(cluster.kinds, key=lambda kind: (kind.gpu.memory_gib if kind.gpu else 0.0, kind.gpus))
    why = why_not(tunes, largest, tunes.resources, capacity=cluster.only(largest))
    here = _two_here(tunes, cluster, efficiency)
    elsewhere = [] if len(here) > 1 else _elsewhere(tunes, efficiency)
    proposals = [*here, *elsewhere][:2]
    advice = (
        "; ".join(f"({number}) {_in_words(fit, cluster)}" for number, fit in enumerate(proposals, start=1))
        or "no shape of the machines known here"
    )
    return f"{tunes.label} does not fit on {cluster.file} ({largest.in_words()}): {why}. What fits: {advice}."


def _two_here(tunes: FineTunes, cluster: PlannedCluster, efficiency: float) -> list[Fit]:
    """Return up to two shapes on the cluster: the best, and the best of another width or one that offloads."""
    found: dict[tuple[Any, ...], Fit] = {}
    for kind in cluster.kinds:
        for fit in best_fits(tunes, kind, capacity=cluster.only(kind), efficiency=efficiency):
            found.setdefault((kind.name, fit.resources.workers, fit.memory.host > 0), fit)
    return list(found.values())[:2]


def _elsewhere(tunes: FineTunes, efficiency: float) -> list[Fit]:
    """Return the cheapest shapes on machines that the cluster does not have, with as few nodes as will do."""
    found: list[Fit] = []
    for machine in MACHINES.values():
        if machine.gpu is None or machine.dollars_per_hour is None:
            continue
        count = 1
        while count <= MOST_NODES:
            cluster = of_own("", {"nodes": {machine.name: {"machine": machine.name, "count": count}}})
            if fits := best_fits(tunes, cluster.kinds[0], capacity=cluster.capacity, efficiency=efficiency):
                found.append(fits[0])
                break
            count *= 2
    found.sort(key=lambda fit: (fit.memory.host > 0, fit.dollars or 0.0))
    # Two kinds of GPU: whoever cannot have the one may have the other.
    return list({fit.kind.gpu.name: fit for fit in reversed(found) if fit.kind.gpu}.values())[::-1]


def _in_words(fit: Fit, cluster: PlannedCluster) -> str:
    """Return "resources.models.m.recipes.r: {workers: 16, …} on 2 × p5.48xlarge (…), 45.2 GiB of 79.6"."""
    changes = ", ".join(f"{name}: {_yaml(value)}" for name, value in fit.changes().items())
    use = fit.host
    host = (
        f" and {use.total / GIB:.0f} GiB of a node's memory (all {use.workers} workers on it)"
        if use.workers > 1
        else f" and {use.total / GIB:.0f} GiB of the node's memory"
    )
    host = host if use.each else ""
    there = "" if fit.kind in cluster.kinds else f" on {fit.kind.in_words()}"
    assert fit.kind.gpu is not None
    of_gpu = f"{fit.memory.total / GIB:.1f} of {fit.kind.gpu.memory_gib:g} GiB on each GPU"
    return f"{fit.of.place}: {{{changes}}}{there}: {of_gpu}{host}"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
