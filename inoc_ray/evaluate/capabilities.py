"""Capabilities: a study's scores on the tasks of lm-evaluation-harness, measured through the endpoint that serves everything.

A model's scores on a task are a folder in the store (see `store.capabilities`), with each item as asked and answered. The
folder's name is a content id, so a task is measured once for a model, whatever the study is called. Nothing is downloaded: data
that the harness would fetch must already be on the machine.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray import stopping
from inoc_ray.console import say
from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.harness_run import CONCURRENCY, CapabilityScore, measure
from inoc_ray.evaluate.harness_task import HarnessTask, find_task
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, seed_of
from inoc_ray.store.capabilities import commit_capability, read_capability
from inoc_ray.store.failures import Thing
from inoc_ray.store.place import Place
from inoc_ray.store.scratch import scratch_folder
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Capability

if TYPE_CHECKING:
    from inoc_ray.serve.app import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingCapability:
    """A task that has not been measured for a model."""

    subject: Subject
    task: HarnessTask
    folder: Place
    weights: str | None = None
    """The hash of the weights that will answer, from the trial's commit; None for the untouched model."""

    @property
    def thing(self) -> Thing:
        """The key of this task and model in a failure."""
        return capability_thing(self.subject, self.task)


def weights_id(subject: Subject) -> str:
    """Return the id of the trial whose weights answer, or of the untouched model, which is the same in every setting."""
    return subject.adapter_of or subject.model.hash[:16]


def capability_thing(subject: Subject, task: HarnessTask) -> Thing:
    """Return the key of a model's scores on a task in a failure."""
    return ("capability", weights_id(subject), task.id(subject.precision))


def missing_capabilities(plan: Plan, store: Store, capabilities: Sequence[Capability]) -> list[MissingCapability]:
    """Return what is not measured of the models that exist, each once, those of one model together."""
    tasks = [find_task(capability) for capability in capabilities]
    found: dict[Place, MissingCapability] = {}
    for subject in plan.subjects:
        if plan.has_weights(subject):
            for task in tasks:
                folder = store.capability(weights_id(subject), task.id(subject.precision))
                if not is_measured(subject, store, task):
                    weights = _weights(subject, store)
                    found.setdefault(
                        folder, MissingCapability(subject=subject, task=task, folder=folder, weights=weights)
                    )
    return list(found.values())


def measure_missing(
    missing: Sequence[MissingCapability],
    endpoint: Endpoint,
    tokenizer: Path,
    log: Place,
    concurrency: int = CONCURRENCY,
) -> list[dict[str, Any]]:
    """Measure and commit the missing capabilities of the models behind one endpoint, one after the other.

    `tokenizer` is the folder of the model that the endpoint serves; the harness's output goes to `log`. Return what failed, as
    {label, error, log, of}; a task that cannot run at all is tried with one model only.
    """
    from inoc_ray.serve.models import served_name

    failed: list[dict[str, Any]] = []
    impossible: set[HarnessTask] = set()
    for number, one in enumerate(missing, start=1):
        if one.task in impossible:
            continue
        say(f"capabilities {number}/{len(missing)}: {one.task.capability.task} of {one.subject.label}")
        try:
            served = served_name(one.subject, endpoint.model_id)
            with scratch_folder() as scratch:
                samples = scratch / "answers.jsonl.gz"
                scores = measure(
                    endpoint,
                    served,
                    tokenizer=tokenizer,
                    task=one.task,
                    samples=samples,
                    log=log,
                    concurrency=concurrency,
                    window=endpoint.window,
                )
                commit_scores(one, scores, samples.read_bytes())
        except (InputError, TrialError) as error:
            stopping.check()
            of = [one.thing]
            if isinstance(error, InputError):
                impossible.add(one.task)
                of = [other.thing for other in missing if other.task == one.task]
            label = f"capability {one.task.capability.task} of {one.subject.label}"
            failed.append({"label": label, "error": str(error), "log": str(log), "of": of})
    return failed


def commit_scores(one: MissingCapability, scores: Sequence[CapabilityScore], samples: bytes) -> None:
    """Write the samples, then the scores, whose file marks the measurement as complete."""
    capability = one.task.capability
    value = {
        "task": capability.task,
        "content": one.task.content,
        "asked": capability.model_dump(mode="json"),
        "harness": importlib.metadata.version("lm_eval"),
        "precision": one.subject.precision,
        "model": one.subject.model.name,
        "model_hash": one.subject.model.hash,
        "scores": [asdict(score) for score in scores],
        "weights": one.weights,
    }
    commit_capability(one.folder, value, samples)


def _weights(subject: Subject, store: Store) -> str | None:
    return None if subject.adapter_of is None else store.weights(subject.adapter_of)


def is_measured(subject: Subject, store: Store, task: HarnessTask) -> bool:
    """Return whether complete scores of the model's present weights are stored."""
    return _stored(subject, store, task) is not None


def _stored(subject: Subject, store: Store, task: HarnessTask) -> list[CapabilityScore] | None:
    """Return the stored scores; None if they are missing, damaged, or of other weights (the trial was trained again)."""
    value = read_capability(store.capability(weights_id(subject), task.id(subject.precision)))
    try:
        found = None if value is None else [CapabilityScore(**score) for score in value["scores"]]
    except (KeyError, TypeError):
        return None
    if value is None:
        return None
    answered, now = value.get("weights"), _weights(subject, store)
    return found if answered == now or None in (answered, now) else None


def stored_scores(subject: Subject, store: Store, task: HarnessTask) -> list[CapabilityScore]:
    """Return the stored scores; empty if the task is not measured, or has to be measured again."""
    return _stored(subject, store, task) or []


def read_capability_scores(plan: Plan, store: Store, capabilities: Sequence[Capability]) -> list[dict[str, Any]]:
    """Return all stored scores of a study, one record per score. What is not measured has no record."""
    tasks = [find_task(capability) for capability in capabilities]
    return [
        {
            "setting": subject.setting,
            "model": label,
            "arm": subject.arm.name,
            "kind": subject.arm.kind,
            "trial_id": subject.trial_id,
            "seed": seed_of(subject),
            "capability": task.capability.task,
            **asdict(score),
        }
        for subject in plan.subjects
        for label in subject.compared_as
        for task in tasks
        for score in stored_scores(subject, store, task)
    ]
