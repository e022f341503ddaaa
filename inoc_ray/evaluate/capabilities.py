"""Capabilities: what lm-evaluation-harness says a model can do, asked through the same endpoint as everything else.

A model's scores on a task are a folder in the store (see `store.capabilities`), with each item as asked and answered. The
folder's name is a content id, so a task is measured once for a model whatever the study is called.

Nothing is fetched: data of a task that the harness would download must be there already. A task file of the user's can
name Python functions (`!function`), which run here: it is the user's own code, as a plugin is.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import FORMAT, content_id, file_hash, identity_fields
from inoc_ray.console import say
from inoc_ray.endpoint.connection import EndpointAddress
from inoc_ray.errors import InputError, TrialError
from inoc_ray.models.config import context_window
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, seed_of
from inoc_ray.serve.app import Endpoint
from inoc_ray.serve.models import served_name
from inoc_ray.store.capabilities import commit_capability, read_capability
from inoc_ray.store.failures import Thing
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Capability
from inoc_ray.study.named import TASKS

CONCURRENCY = 8
_MAX_FILES, _MAX_BYTES = 1000, 1 << 30


@dataclass(frozen=True, slots=True)
class CapabilityScore:
    """One number of the harness."""

    task: str
    metric: str
    """With the harness's filter behind a dot where there is one: `exact_match.strict-match`."""
    value: float | None
    """None where the harness gives no number."""
    stderr: float | None
    samples: int
    higher_is_better: bool | None
    version: str
    """Of the task, as its authors count."""
    part: bool = False
    """Whether the task is a part of the one that was asked for, as each subject of `mmlu` is."""


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """A capability found: what the harness is told, and what the task is made of."""

    capability: Capability
    source: str
    """A name that the harness knows, or the absolute path of a task file."""
    content: str
    """The name, or a hash over the files in the task file's folder."""

    def id(self, precision: str) -> str:
        """16 hex digits: the task, how it is asked, by which harness, and in which precision the engine answers."""
        return content_id(
            {
                "format": FORMAT,
                "task": self.content,
                "asked": identity_fields(self.capability),
                "harness": importlib.metadata.version("lm_eval"),
                "precision": precision,
            }
        )


@dataclass(frozen=True, slots=True)
class MissingCapability:
    """A capability of a model that is not measured yet."""

    subject: Subject
    task: HarnessTask
    folder: Place
    weights: str | None = None
    """Which weights they are that answer, as the trial's commit says; None for the untouched model."""

    @property
    def thing(self) -> Thing:
        """What a failure calls it."""
        return capability_thing(self.subject, self.task)


def find_task(capability: Capability) -> HarnessTask:
    """Return the task of a capability. Raise InputError for a file that is not there or lies among too much else.

    Whether the harness knows a name is seen when it is asked: reading its list takes 9 s.
    """
    name = capability.task
    path = TASKS.get(name) or task_file(name)
    if path is None:
        return HarnessTask(capability, name, name)
    return HarnessTask(capability, str(path), _folder_hash(path))


def task_file(name: str) -> Path | None:
    """Return the task file of one's own that a name means; None for a registered task and for one that the harness knows.

    Raise InputError for a file that is not there, and for a name that is nearly that of a registered task.
    """
    if name in TASKS or not (name.endswith((".yaml", ".yml")) or "/" in name):
        return None
    path = Path(os.path.expanduser(name)).absolute()
    if not path.is_file() or path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"capabilities: there is no task {name!r}{nearest(name, TASKS.names())} and no task file {path}; give the name of a "
            "task that lm-eval knows, or a .yaml file."
        )
    return path


def _folder_hash(path: Path) -> str:
    """Of the task file's name and everything that it is made of."""
    files = {file.relative_to(path.parent).as_posix(): file_hash(file) for file in task_files(path)}
    return content_id({"file": path.name, "files": files})


def task_files(path: Path) -> list[Path]:
    """Return a task file and all files beside and below it: it may include, read or import any of them.

    Raise InputError when there are too many.
    """
    counted: list[Path] = []
    size = 0
    for file in sorted(path.parent.rglob("*")):
        inner = file.relative_to(path.parent)
        if not file.is_file() or "__pycache__" in inner.parts or any(part.startswith(".") for part in inner.parts):
            continue
        size += file.stat().st_size
        if len(counted) == _MAX_FILES or size > _MAX_BYTES:
            raise InputError(
                f"capabilities: {path}: beside it lie more than {_MAX_FILES} files or 1 GiB, all of which count as the task; "
                "put the task file and its data in a folder of their own."
            )
        counted.append(file)
    return counted


def weights_id(subject: Subject) -> str:
    """Whose capability it is: the trial whose weights answer, or the untouched model, in whatever setting it stands."""
    return subject.adapter_of or subject.model.hash[:16]


def capability_thing(subject: Subject, task: HarnessTask) -> Thing:
    """Return the scores of a task of a model, as a failure names them."""
    return ("capability", weights_id(subject), task.id(subject.precision))


def missing_capabilities(plan: Plan, store: Store, capabilities: Sequence[Capability]) -> list[MissingCapability]:
    """Return what is not measured of models that are there, each once, those of one model together."""
    tasks = [find_task(capability) for capability in capabilities]
    wanted: dict[Place, MissingCapability] = {}
    for subject in plan.subjects:
        if plan.has_weights(subject):
            for task in tasks:
                folder = store.capability(weights_id(subject), task.id(subject.precision))
                if not is_measured(subject, store, task):
                    wanted.setdefault(folder, MissingCapability(subject, task, folder, _weights(subject, store)))
    return list(wanted.values())


def measure_missing(
    wanted: Sequence[MissingCapability], endpoint: Endpoint, tokenizer: Path, log: Place, concurrency: int = CONCURRENCY
) -> list[dict[str, Any]]:
    """Measure and commit, one after the other, what is wanted of models behind one endpoint.

    `tokenizer` is the folder of the model that the endpoint serves; the harness's own words go to `log`. Return what failed, as
    {label, error, log, of}; a task that cannot be asked at all is tried with one model only.
    """
    failed: list[dict[str, Any]] = []
    refused: set[HarnessTask] = set()
    for number, one in enumerate(wanted, start=1):
        if one.task in refused:
            continue
        say(f"capabilities {number}/{len(wanted)}: {one.task.capability.task} of {one.subject.label}")
        try:
            served = served_name(one.subject, endpoint.model_id)
            with tempfile.TemporaryDirectory(prefix="inoc-ray-") as scratch:
                samples = Path(scratch) / "answers.jsonl.gz"
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
                commit(one, scores, samples.read_bytes())
        except (InputError, TrialError) as error:
            of = [one.thing]
            if isinstance(error, InputError):
                refused.add(one.task)
                of = [other.thing for other in wanted if other.task == one.task]
            label = f"capability {one.task.capability.task} of {one.subject.label}"
            failed.append({"label": label, "error": str(error), "log": str(log), "of": of})
    return failed


def measure(
    endpoint: EndpointAddress,
    model: str,
    *,
    tokenizer: Path,
    task: HarnessTask,
    samples: Path,
    log: Place,
    concurrency: int = CONCURRENCY,
    window: int | None = None,
) -> list[CapabilityScore]:
    """Ask `model` at the endpoint one task; each item's record is written to `samples`.

    `window`: the endpoint's, in tokens, where it is not the model's own.

    Raise InputError for a task that cannot be asked (see `harness.run`) and TrialError when the harness fails.
    """
    capability = task.capability
    request = {
        "task": task.source,
        "base_url": endpoint.base_url,
        "model": model,
        "tokenizer": str(tokenizer.absolute()),
        "max_length": window or context_window(tokenizer),
        "limit": capability.limit,
        "num_fewshot": capability.num_fewshot,
        "chat": capability.chat,
        "concurrency": concurrency,
    }
    with tempfile.TemporaryDirectory(prefix="inoc-ray-") as scratch:
        asked, result = Path(scratch) / "request.json", Path(scratch) / "result.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        # -P: the task file's folder is the working folder, and must not shadow modules.
        command = [
            sys.executable,
            "-P",
            "-m",
            "inoc_ray.evaluate.harness",
            str(asked),
            str(result),
            str(samples.absolute()),
        ]
        folder = Path(task.source).parent if Path(task.source).is_absolute() else Path(scratch)
        start = log.stat().size if log.is_file() else 0
        code = _run(command, folder, endpoint.api_key, log)
        if code or not result.exists():
            raise TrialError(
                f"lm-eval ended with status {code} on {capability.task}: {_complaint(log, start)}; see {log}"
            )
        found = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise InputError(found["error"])
    scores = [CapabilityScore(**score) for score in found["scores"]]
    if not scores:
        raise TrialError(f"lm-eval gave no score for {capability.task}; see {log}")
    return scores


def _run(command: list[str], folder: Path, key: str | None, log: Place) -> int:
    """The command's exit status; what it says goes to the log without the key, which HTTP errors of the harness show."""
    package = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        "OPENAI_API_KEY": key or "none",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        with log.append() as words:
            for line in process.stdout:
                words.write(line.replace(key.encode(), b"***") if key else line)
                words.flush()
        return process.wait()
    finally:
        # The caller was interrupted: nobody would read the result.
        process.kill()
        process.wait()


def _complaint(log: Place, start: int) -> str:
    """Why the harness failed, from what it said behind `start`: what the endpoint refused, or else its last line."""
    said = log.read_bytes()[start:].decode(errors="replace")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    refused = [line for line in lines if "API request failed" in line]
    return (refused or lines or ["it said nothing"])[-1][:400]


def commit(one: MissingCapability, scores: Sequence[CapabilityScore], samples: bytes) -> None:
    """Write the samples, then the scores, whose file says that all is there."""
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
    """Return whether there are scores, whole and of the weights that the model has now."""
    return _stored(subject, store, task) is not None


def _stored(subject: Subject, store: Store, task: HarnessTask) -> list[CapabilityScore] | None:
    """The stored scores; None where there are none, or damaged ones, or those of other weights (a trial trained again)."""
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
    """Return the stored scores; empty where it is not measured, or has to be measured again."""
    return _stored(subject, store, task) or []


def read_capability_scores(plan: Plan, store: Store, capabilities: Sequence[Capability]) -> list[dict[str, Any]]:
    """All stored scores of a study, one record a score. What is not measured has no record."""
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
