"""The work of a study as one would write it without this project: the rivals of `tests/benchmarks/test_bench_study.py`.

`python rivals.py best STUDY FOLDER`: one process trains every fine-tune one after another and then asks base and adapters on one
offline engine with many adapters: the best single process that can be written for the work.
`python rivals.py train STUDY FOLDER NUMBER` and `ask STUDY FOLDER NUMBER` (or `ask STUDY FOLDER base`): the usual script, a process
and an engine for each fine-tune.

Both train with this project's loop and ask with its arithmetic for adapters on CPUs, the same rows, prompts, seeds and lengths.
Answers go to FOLDER/answers-*.json. RIVAL_THREADS: how many cores it computes with.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

THREADS = os.environ.setdefault("RIVAL_THREADS", "1")
os.environ |= {
    "OMP_NUM_THREADS": THREADS,
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def planned(study_path: Path, folder: Path) -> Any:
    from inoc_ray.plan.build import build_plan
    from inoc_ray.run.load import load_study
    from inoc_ray.store.store import Store

    store = Store(folder / "store")
    store.check_writable()
    return build_plan(load_study(study_path), store), store


def train(plan: Any, store: Any, folder: Path, numbers: list[int]) -> None:
    from inoc_ray.data.tokenize import encode_rows, load_tokenizer
    from inoc_ray.train import process
    from inoc_ray.train.loop import train as fine_tune
    from inoc_ray.train.model import BaseModelCache
    from inoc_ray.train.sweep import job_of
    from inoc_ray.train.worker import read_rows

    process.set_threads(float(THREADS))
    process.ready()
    cache = BaseModelCache()
    for number in numbers:
        job = job_of(plan, store, plan.trials[number])
        tokenizer = load_tokenizer(job.spec.model)
        rows = encode_rows(
            tokenizer,
            read_rows(job, store),
            max_length=job.spec.recipe.max_length,
            label=job.label,
            enable_thinking=None,
        )
        fine_tune(job.spec, rows, lambda record: None, out=folder / job.trial_id, cache=cache)


def ask(plan: Any, folder: Path, name: str, subjects: set[str]) -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    from inoc_ray.evaluate.sampling import messages_in_context, sample_seed
    from inoc_ray.models.encoding import template_of
    from inoc_ray.models.tokenizer import load_tokenizer
    from inoc_ray.plan.request_lengths import longest_requests

    cells = [cell for cell in plan.to_sample if cell.subject.trial_id in subjects]
    model = cells[0].subject.model.path
    llm = LLM(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=8,
        max_loras=min(8, len(subjects)),
        max_cpu_loras=32,
        enable_chunked_prefill=False,
        max_num_seqs=256,
        max_model_len=max(longest.tokens for longest in longest_requests(cells)),
        generation_config="vllm",
        disable_log_stats=True,
        worker_cls="inoc_ray.serve.cpu_lora.StudyWorker",
    )
    template = template_of(load_tokenizer(str(model)))
    ids = {trial.trial_id: number for number, trial in enumerate(plan.trials, start=1)}
    prompts, sampling, adapters = [], [], []
    for cell in cells:
        trained = cell.subject.adapter_of
        adapter = None if trained is None else LoRARequest(trained, ids[trained], str(folder / trained))
        for index, question in enumerate(cell.evaluation.questions(cell.samples)):
            prompts.append(template.prompt(messages_in_context(question, cell)))
            sampling.append(
                SamplingParams(max_tokens=cell.evaluation.max_tokens, temperature=1.0, seed=sample_seed(cell, index))
            )
            adapters.append(adapter)
    answers = llm.generate(prompts, sampling, lora_request=adapters, use_tqdm=False)
    (folder / f"answers-{name}.json").write_text(json.dumps([answer.outputs[0].text for answer in answers]))


def main() -> None:
    way, study, folder, *which = sys.argv[1:]
    out = Path(folder)
    began = time.monotonic()
    plan, store = planned(Path(study), out)
    if way == "best":
        train(plan, store, out, list(range(len(plan.trials))))
        print(f"trained after {time.monotonic() - began:.1f} s", flush=True)
        ask(plan, out, "all", {subject.trial_id for subject in plan.subjects})
    elif way == "train":
        train(plan, store, out, [int(which[0])])
    else:
        base = which[0] == "base"
        subject = plan.bases[0] if base else plan.trials[int(which[0])]
        ask(plan, out, which[0], {subject.trial_id})
    print(f"done after {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
