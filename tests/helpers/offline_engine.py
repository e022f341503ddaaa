"""vLLM offline, as a user would run it: loads a model with adapters, then answers a file of prompts each time it is told to.

Reads the path of a JSON file `[[adapter or null, prompt, seed], …]` per line of standard input, prints
`{"tokens": …, "seconds": …}` for each. `--grouped` takes this project's LoRA arithmetic for CPUs instead of vLLM's own.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    base, trials, *options = sys.argv[1:]
    worker = {"worker_cls": "inoc_ray.serve.cpu_lora.StudyWorker"} if "--grouped" in options else {}
    llm = LLM(
        model=base,
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=8,
        max_loras=8,
        max_cpu_loras=32,
        enable_chunked_prefill=False,
        max_num_seqs=256,
        generation_config="vllm",
        disable_log_stats=True,
        **worker,
    )
    ids = {folder.name: number for number, folder in enumerate(sorted(Path(trials).iterdir()), start=1)}
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(Path(line.strip()).read_text())
        prompts = [prompt for _, prompt, _ in asked]
        sampling = [SamplingParams(max_tokens=48, temperature=1.0, seed=seed) for *_, seed in asked]
        adapters = [
            LoRARequest(name, ids[name], str(Path(trials) / name / "adapter")) if name else None for name, *_ in asked
        ]
        started = time.perf_counter()
        answers = llm.generate(prompts, sampling, lora_request=adapters, use_tqdm=False)
        seconds = time.perf_counter() - started
        print(json.dumps({"tokens": sum(len(a.outputs[0].token_ids) for a in answers), "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
