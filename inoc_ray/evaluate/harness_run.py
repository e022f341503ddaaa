"""Run one task of lm-evaluation-harness in a child process and read its scores; `harness` is the child's side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate.harness_task import HarnessTask
from inoc_ray.models.config import context_window
from inoc_ray.store.place import Place
from inoc_ray.store.scratch import scratch_folder

if TYPE_CHECKING:
    from inoc_ray.endpoint.connection import EndpointAddress

CONCURRENCY = 8
"""Requests in flight at once."""
_LOG_SECONDS = 5.0
"""Least time between two writes to the log: in a bucket each is an object of its own, and the harness prints many lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityScore:
    """One number that the harness reports."""

    task: str
    metric: str
    """The metric's name, with the harness's filter after a dot if there is one: `exact_match.strict-match`."""
    value: float | None
    """None when the harness gives no number."""
    stderr: float | None
    samples: int
    higher_is_better: bool | None
    version: str
    """The task's version, as its authors count."""
    part: bool = False
    """Whether the task is a part of the requested one, as each subject of `mmlu` is."""


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
    """Run one task with `model` at the endpoint and return its scores; write each item's record to `samples`.

    `window` is the endpoint's, in tokens, when it is not the model's own. The harness's output goes to `log`.

    Raises InputError for a task that cannot run (see `harness.run`), and TrialError when the harness fails.
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
    with scratch_folder() as scratch:
        request_file, result = scratch / "request.json", scratch / "result.json"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        # -P: the task file's folder, which is the working folder, must not shadow modules.
        command = [
            sys.executable,
            "-P",
            "-m",
            "inoc_ray.evaluate.harness",
            str(request_file),
            str(result),
            str(samples.absolute()),
        ]
        folder = Path(task.source).parent if Path(task.source).is_absolute() else scratch
        start = log.stat().size if log.is_file() else 0
        code = _run(command, folder, endpoint.api_key, log)
        if code or not result.exists():
            raise TrialError(
                f"lm-eval ended with status {code} on {capability.task}: {_last_problem(log, start)}; see {log}"
            )
        found = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise InputError(found["error"])
    scores = [CapabilityScore(**score) for score in found["scores"]]
    if not scores:
        raise TrialError(f"lm-eval gave no score for {capability.task}; see {log}")
    return scores


def _run(command: list[str], folder: Path, key: str | None, log: Place) -> int:
    """Run the command and return its exit status; log its output without the key, which the harness shows in HTTP errors."""
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
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A terminal sends Ctrl-C to its whole group; this process ends the harness.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        flushed = time.monotonic()
        with log.append() as output:
            for line in process.stdout:
                output.write(line.replace(key.encode(), b"***") if key else line)
                if time.monotonic() - flushed >= _LOG_SECONDS:
                    output.flush()
                    flushed = time.monotonic()
        return process.wait()
    finally:
        # If the caller was interrupted, nobody reads the result.
        process.kill()
        process.wait()


def _last_problem(log: Place, start: int) -> str:
    """Return why the harness failed, from its output after `start`: the endpoint's refusal, or else the last line."""
    output = log.read_bytes()[start:].decode(errors="replace")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    refused = [line for line in lines if "API request failed" in line]
    return (refused or lines or ["it printed nothing"])[-1][:400]
