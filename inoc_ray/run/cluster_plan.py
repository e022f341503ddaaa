"""`inoc-ray plan STUDY --cluster FILE`: a study on a cluster that is not there, as a table and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inoc_ray.cluster.cluster_file import NodeKind, read_cluster
from inoc_ray.cluster.hardware import PRICES
from inoc_ray.console import table
from inoc_ray.errors import said_of
from inoc_ray.models.config import context_window
from inoc_ray.models.resolve import fetch
from inoc_ray.models.weights import check_configuration
from inoc_ray.plan.build import build_plan
from inoc_ray.run.preflight import check_batches
from inoc_ray.sizing.engines import EngineFit
from inoc_ray.sizing.estimate import Estimate, estimate
from inoc_ray.sizing.fine_tunes import Fit
from inoc_ray.sizing.training import GIB
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study, models_of


def plan_for(study: Study, store: Store, file: Path) -> Estimate:
    """Return what the study takes on the cluster of a file.

    Reads configurations and tokenizers, no weights; those of a hub model are fetched, a few megabytes. Raises InputError if
    something fits nowhere on the cluster, with the arithmetic and shapes that would.
    """
    cluster = read_cluster(file)
    for source, where in models_of(study):
        fetch(source, where, weights=False)
    plan = build_plan(study, store, weights=False)
    check_batches(plan)
    for folder, name in {model.path: model.name for model in (trial.model for trial in plan.to_train)}.items():
        with said_of(f"models: {name!r}"):
            check_configuration(folder)
            context_window(folder)
    return estimate(plan, cluster)


def cluster_json(study: Study, found: Estimate) -> dict[str, Any]:
    """Return the estimate for `--json`: bytes, hours and dollars as numbers, null where they are not known."""
    return {
        "study": study.name,
        "cluster": found.cluster.file,
        "nodes": [_node_json(kind) for kind in found.cluster.kinds],
        "efficiency": found.efficiency,
        "training": [_fit_json(fit) for fit in found.training],
        "better": {
            **{label: _fit_json(fit) for label, fit in found.better.items()},
            **{engine.label: _engine_json(engine.cheaper) for engine in found.engines if engine.cheaper},
        },
        "engines": [_engine_json(engine) for engine in found.engines],
        "total": {"hours": found.hours, "gpu_hours": found.gpu_hours, "dollars": found.dollars},
        "notes": list(found.notes),
    }


def _node_json(kind: NodeKind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "machine": kind.machine,
        "count": kind.count,
        "gpu": None if kind.gpu is None else kind.gpu.name,
        "gpu_memory_gib": None if kind.gpu is None else kind.gpu.memory_gib,
        "gpus": kind.gpus,
        "cpus": kind.cpus,
        "memory_gib": kind.memory_gib,
        "dollars_per_hour": kind.dollars_per_hour,
    }


def _fit_json(fit: Fit) -> dict[str, Any]:
    tunes, resources = fit.of, fit.resources
    return {
        "model": tunes.model.name,
        "recipe": tunes.recipe_name,
        "parameters": tunes.size.parameters,
        "trained_parameters": tunes.size.trained,
        "trials": tunes.trials,
        "steps": tunes.steps,
        "longest_row": tunes.rows.longest,
        "mean_row": tunes.rows.mean,
        "tokens_counted": tunes.rows.counted,
        "node": fit.kind.name,
        "resources": resources.model_dump(mode="json"),
        "bytes": fit.memory.to_json(),
        "host_bytes_of_a_node": fit.host.total,
        "groups_at_once": fit.at_once,
        "seconds_each": fit.seconds,
        "hours": fit.hours,
        "gpu_hours": fit.gpu_hours,
        "dollars": fit.dollars,
    }


def _engine_json(engine: EngineFit) -> dict[str, Any]:
    return {
        "engine": engine.label,
        "parameters": engine.parameters,
        "node": engine.kind.name,
        "serve_gpus": engine.resources.gpus,
        "bytes": None if engine.memory is None else engine.memory.to_json(),
        "engines": engine.engines,
        "replicas": engine.replicas,
        "side_by_side": engine.side_by_side,
        "requests": engine.requests,
        "requests_at_once": engine.at_once,
        "hours": engine.hours,
        "gpu_hours": engine.gpu_hours,
        "dollars": engine.dollars,
    }


def cluster_text(study: Study, found: Estimate, width: int | None = None) -> str:
    """Return the estimate as tables, with what it rests on. width: as in `console.table`."""
    lines = [f"Study {study.name} on {found.cluster.file}: {_kinds(found)}", ""]
    if found.training:
        head = ["fine-tunes", "model", "runs on", "of a GPU", "trials", "at once", "each", "GPU-hours", "$"]
        lines += [table([_training_row(fit) for fit in found.training], head, width), ""]
    if found.engines:
        head = ["engine", "model", "runs on", "of a GPU", "answers", "at once", "all", "GPU-hours", "$"]
        lines += [table([_engine_row(engine) for engine in found.engines], head, width), ""]
    if not found.training and not found.engines:
        lines.append("To train: nothing. To sample: nothing.")
    else:
        lines.append(_total(found))
    lines += [f"Cheaper: {_better(fit)}." for fit in found.better.values()]
    lines += [f"Cheaper: {_better_engine(engine.cheaper)}." for engine in found.engines if engine.cheaper]
    lines += [f"Note: {note}." for note in found.notes]
    basis = f"Assumes {found.efficiency:.0%} of the GPUs' peak in training"
    priced = any(kind.dollars_per_hour is not None for kind in found.cluster.kinds)
    lines.append(f"{basis}{f'; prices: {PRICES}' if priced else ''}. See docs/sizing.md.")
    return "\n".join(lines)


def _kinds(found: Estimate) -> str:
    return ", ".join(kind.in_words() for kind in found.cluster.kinds)


def _training_row(fit: Fit) -> list[str]:
    size, resources = fit.of.size, fit.resources
    trained = "all" if size.trained == size.parameters else _count(size.trained)
    return [
        fit.of.label,
        f"{_count(size.parameters)}, trains {trained}",
        _shape(fit),
        _of_device(fit.memory.total, fit.kind) if resources.gpus_per_worker else f"{fit.memory.total / GIB:.1f} GiB",
        str(fit.of.trials),
        str(fit.at_once),
        duration(fit.seconds),
        _number(fit.gpu_hours),
        _number(fit.dollars),
    ]


def _engine_row(engine: EngineFit) -> list[str]:
    gpus = engine.resources.gpus
    return [
        engine.label + (f" × {engine.engines}" if engine.engines > 1 else ""),
        _count(engine.parameters),
        (f"{engine.side_by_side} × " if engine.side_by_side > 1 else "")
        + (f"{gpus} GPU" if gpus else f"{engine.resources.serve_cpus:g} CPU"),
        "–" if engine.memory is None else _of_device(engine.memory.total, engine.kind),
        f"{engine.requests:,}",
        str(engine.at_once) if engine.at_once else "–",
        duration(engine.seconds),
        _number(engine.gpu_hours),
        _number(engine.dollars),
    ]


def _shape(fit: Fit) -> str:
    """Return "4 GPU, ZeRO-3, 2 rows"."""
    resources = fit.resources
    devices = f"{fit.gpus:g} GPU" if fit.gpus else f"{resources.workers * resources.cpus_per_worker:g} CPU"
    stage = f", ZeRO-{resources.zero_stage}" if resources.zero_stage else ""
    offload = ", offload" if fit.memory.host else ""
    tokens = resources.micro_batch_tokens
    passes = (
        f"{tokens:,} tokens" if tokens else f"{resources.micro_batch_size} row{'s' * (resources.micro_batch_size > 1)}"
    )
    return f"{devices}{stage}{offload}, {passes}"


def _of_device(size: int, kind: NodeKind) -> str:
    if kind.gpu is None:
        return f"{size / GIB:.1f} GiB"
    return f"{size / GIB:.1f} of {kind.gpu.memory_gib:.0f} GiB"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """Return "2 h 10 min", "35 min" or "–"."""
    if seconds is None:
        return "–"
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _total(found: Estimate) -> str:
    if found.gpu_hours is None or found.hours is None:
        return "Time: not known, because a part of it runs on CPUs."
    money = "" if found.dollars is None else f", about ${found.dollars:,.0f}"
    return f"In all about {duration(3600 * found.hours)} on the whole cluster: {_number(found.gpu_hours)} GPU-hours{money}."


def _better_engine(engine: EngineFit) -> str:
    assert engine.memory is not None
    beside = f", {engine.side_by_side} side by side" if engine.side_by_side > 1 else ""
    return (
        f"{engine.place}: {{serve_gpus: {engine.resources.gpus}}} takes {_number(engine.gpu_hours)} GPU-hours and "
        f"{duration(engine.seconds)} for {engine.label} ({engine.memory.total / GIB:.1f} GiB{beside})"
    )


def _better(fit: Fit) -> str:
    changes = ", ".join(f"{name}: {value:g}" for name, value in fit.changes().items())
    return (
        f"{fit.of.place}: {{{changes}}} takes {_number(fit.gpu_hours)} GPU-hours for {fit.of.label} "
        f"({fit.memory.total / GIB:.1f} GiB, {fit.at_once} at once)"
    )
