"""Run one task of lm-evaluation-harness in a process of its own: `python -m inoc_ray.evaluate.harness REQUEST RESULT SAMPLES`.

It needs a process of its own because the harness prints, seeds the global random generators, runs an event loop, and takes the
key and the offline mode from the environment; and because it looks for a task file's data in the working folder.
`inoc_ray.evaluate.harness_run` is the other side.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import math
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inoc_ray.config.base import nearest
from inoc_ray.config.identity import as_text
from inoc_ray.errors import InputError

TIMEOUT_S = 600
_PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""
BOOTSTRAPS = 1000
"""Bootstrap samples for the standard error of metrics that are not means; means have a formula."""


def fetch_command(name: str, folder: Path | None) -> str:
    """Return a shell command that fetches a task's data by loading the task; `folder` is that of a user's task file."""
    where = f"include_path={str(folder)!r}" if folder else ""
    return f'python -c "from lm_eval.tasks import TaskManager; TaskManager({where}).load([{name!r}])"'


def run(request: Mapping[str, Any], samples: Path) -> dict[str, Any]:
    """Measure `request["task"]` and return {scores, configs}; write each item's record to `samples` (JSON lines, gzip).

    Raises InputError for a task that does not exist, whose data are not on this machine, or that would run a model's code.
    """
    from lm_eval import simple_evaluate

    manager, name, folder = _find(request["task"])
    loaded = _load(manager, name, folder)
    unsafe = [inner for inner, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        raise InputError(
            f"capabilities: task {unsafe[0]} runs code that the model writes, which is not supported; leave it out."
        )
    chat = request["chat"]
    results = simple_evaluate(
        model="local-completions",
        model_args={
            "model": request["model"],
            "base_url": f"{request['base_url']}/completions",
            "tokenizer": request["tokenizer"],
            "tokenizer_backend": "huggingface",
            "tokenized_requests": True,
            # A chat template writes its own beginning-of-text token; plain text gets the tokenizer's.
            "add_bos_token": not chat,
            "max_length": request["max_length"],
            # With one request at a time the harness takes another path, which would use the environment's proxy.
            "num_concurrent": max(2, request["concurrency"]),
            "timeout": TIMEOUT_S,
        },
        tasks=[name],
        num_fewshot=request["num_fewshot"],
        limit=request["limit"],
        bootstrap_iters=BOOTSTRAPS,
        apply_chat_template=chat,
        task_manager=manager,
        log_samples=True,
    )
    assert results is not None, "this process has rank 0"
    _write_samples(samples, results.get("samples", {}))
    return {"scores": list(_scores(results)), "configs": results["configs"]}


def _find(task: str) -> tuple[Any, str, Path | None]:
    """Return the harness's task manager, its name for the task, and the folder of a task file (else None)."""
    from lm_eval.tasks import TaskManager

    if not task.endswith((".yaml", ".yml")):
        manager = TaskManager()
        if task not in manager.all_tasks:
            raise InputError(f"capabilities: lm-eval knows no task {task!r}{nearest_task(task, manager.all_tasks)}.")
        return manager, task, None
    # Reading the harness's own task files takes 9 s. It accepts no path to a group file, so the name is looked up.
    manager = TaskManager(include_path=Path(task).parent, include_defaults=False)
    here = [name for name, entry in manager.task_index.items() if entry.yaml_path == Path(task)]
    return manager, here[0] if here else task, Path(task).parent


def _load(manager: Any, name: str, folder: Path | None) -> Any:
    """Load the task and its parts, with their data."""
    try:
        return manager.load([name])
    except Exception as error:
        # A user's task file can be wrong in any way.
        if _needs_network(error):
            raise InputError(
                f"capabilities: the data of task {name} are not on this machine and nothing is fetched here ({error}); with a "
                f"network, fetch them once by: {fetch_command(name, folder)}"
            ) from error
        raise InputError(
            f"capabilities: task {name} cannot be loaded ({type(error).__name__}: {error}); fix it, or leave it out."
        ) from error


def nearest_task(task: str, known: list[str]) -> str:
    """Return " (did you mean 'x'?)" or, since there are thousands of names, how to list them."""
    guess = nearest(task, known)
    return guess if guess.startswith(" (did you mean") else " (`lm_eval ls tasks` lists them)"


def _needs_network(error: BaseException) -> bool:
    chain: BaseException | None = error
    while chain is not None:
        text = str(chain)
        if (
            "OfflineModeIsEnabled" in type(chain).__name__ + text
            or "is not cached" in text
            or "offline" in text.lower()
        ):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _scores(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    parts = {part for members in results.get("group_subtasks", {}).values() for part in members}
    counts = results.get("n-samples", {})
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, _, made_by = key.partition(",")
            if (
                not made_by
                or metric.endswith("_stderr")
                or isinstance(value, bool)
                or not isinstance(value, int | float)
            ):
                continue
            leaves = _leaves(task, results.get("group_subtasks", {}))
            yield {
                "task": task,
                "metric": metric if made_by == "none" else f"{metric}.{made_by}",
                "value": _finite(value),
                "stderr": _finite(metrics.get(f"{metric}_stderr,{made_by}")),
                "samples": sum(counts[leaf]["effective"] for leaf in leaves if leaf in counts),
                "higher_is_better": results.get("higher_is_better", {}).get(task, {}).get(metric),
                "version": str(results.get("versions", {}).get(task, "")),
                "part": task in parts,
            }


def _leaves(task: str, members: Mapping[str, list[str]]) -> list[str]:
    below = members.get(task)
    return [leaf for member in below for leaf in _leaves(member, members)] if below else [task]


def _finite(value: Any) -> float | None:
    """Return the number; None for NaN and for what is not a number ("N/A")."""
    finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if finite else None


def _write_samples(path: Path, samples: Mapping[str, list[Any]]) -> None:
    with gzip.GzipFile(path, "wb", mtime=0) as stream:
        for task, items in samples.items():
            for item in items:
                line = json.dumps({"task": task, **item}, ensure_ascii=False, default=str)
                stream.write(f"{as_text(line)}\n".encode())


def main(request: str, result: str, samples: str) -> None:
    """Read the request and write the result: `{"scores", "configs"}`, or `{"error"}` for wrong input."""
    try:
        found = run(json.loads(Path(request).read_text(encoding="utf-8")), Path(samples))
    except InputError as error:
        found = {"error": str(error)}
    Path(result).write_text(json.dumps(found, default=str), encoding="utf-8")


def end_with_parent() -> None:
    """Have Linux end this process when the one that started it dies, whose own cleaning up a SIGKILL leaves out."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    main(*sys.argv[1:])
