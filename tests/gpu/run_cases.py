"""One process of the check: runs a model's fine-tunes, or the miniature's loss curves. Standard input: JSON, output: JSON.

It prints one line per fine-tune, so that what is done is not lost when a later one ends the process.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cases import STEPS_OF_A_CURVE

GIB = 1 << 30
STEPS, WARM_UP = 6, 2
SMALL_STEPS = 3
"""Steps of each fine-tune, the first of which are not counted; of a stand-in fewer."""


def random_rows(count: int, vocabulary: int, longest: int) -> list[Any]:
    """Rows as long as published ones are: lognormal lengths, median 180 tokens, of which the last 40 % carry loss."""
    from inoc_ray.data.tokenize import IGNORED, EncodedRow

    draw = random.Random(0)
    rows = []
    for _ in range(count):
        length = min(longest, max(16, round(draw.lognormvariate(5.2, 0.7))))
        ids = tuple(draw.randrange(3, vocabulary) for _ in range(length))
        context = round(0.6 * length)
        rows.append(EncodedRow(ids, (IGNORED,) * context + ids[context:]))
    return rows


def write_model(config: dict[str, Any], folder: Path) -> None:
    """Write a model of random weights, in bf16, as safetensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = dict(config)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(values.pop("model_type"), **values), dtype=torch.bfloat16
        )
    model.save_pretrained(folder)


def fine_tune(
    model: str, rows: list[Any], recipe: dict[str, Any], resources: dict[str, Any], cache: Any
) -> dict[str, Any]:
    """Train, and return losses, rates, and memory in bytes: at its peak, in use on the whole card, and as planned.

    Without a GPU the peak is the growth of the process; the card's is None. Raises MemoryError when the plan needs more of the
    host's memory than there is.
    """
    import torch

    from inoc_ray.study.recipe import Recipe
    from inoc_ray.study.resources import TrialResources
    from inoc_ray.train.loop import train
    from inoc_ray.train.spec import LoopSpec, StepRecord

    cuda = torch.cuda.is_available()
    # More than zero: what a study's resources say of a worker with a GPU decides which defaults hold.
    place = {"gpus_per_worker": 1.0} if cuda else {}
    spec = LoopSpec(
        model=model,
        seed=0,
        recipe=Recipe.model_validate(recipe),
        resources=TrialResources.model_validate(place | resources),
    )
    planned = plan_memory(spec, rows, cuda)
    if planned.host > host_memory():
        raise MemoryError(f"needs {planned.host / GIB:.0f} GiB of the host's memory, of {host_memory() / GIB:.0f}")
    if cuda:
        torch.cuda.empty_cache()
    before = resident()
    records: list[StepRecord] = []
    card: list[int] = []

    def look(engine: Any) -> None:
        if cuda:
            free, total = torch.cuda.mem_get_info()
            card.append(total - free)

    result = train(spec, rows, records.append, out=None, cache=cache, on_trained=look)
    counted = records[WARM_UP:] or records[-1:]
    seconds = sum(record.tokens / record.tokens_per_second for record in counted)
    tokens = sum(record.tokens for record in counted)
    return {
        "losses": [record.loss for record in records],
        "tokens_per_second": tokens / seconds,
        "seconds_per_token": seconds / tokens,
        "tokens_per_step": statistics.mean(record.tokens for record in records),
        "mfu": mean([record.mfu for record in counted]),
        "hfu": mean([record.hfu for record in counted]),
        "padding": mean([record.padding for record in counted]),
        "peak": result.peak_device_bytes if cuda else (result.peak_host_bytes or before) - before,
        "card": card[0] if card else None,
        "planned": planned.total,
        "reason": f"{result.layout_reason}; {result.loss_way}",
    }


def plan_memory(spec: Any, rows: list[Any], cuda: bool) -> Any:
    """Return what `inoc-ray plan --cluster` would say of a rank: of its fullest pass."""
    from inoc_ray.sizing.training import training_memory

    longest, targets = max(len(row.input_ids) for row in rows), max(row.targets for row in rows)
    at_once = spec.resources.micro_batch_tokens
    tokens = at_once or spec.resources.micro_batch_size * longest
    return training_memory(
        spec, 1, tokens=tokens, targets=round(tokens * targets / longest), device="cuda" if cuda else "cpu"
    )


def mean(values: list[float | None]) -> float | None:
    """Return the mean of what is known, None if nothing is."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def host_memory() -> int:
    """Return this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def device_name() -> str:
    """Return the GPU's name, or "CPU"."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"


def parameters_of(config: dict[str, Any]) -> int:
    """Count a configuration's parameters on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    return sum(p.numel() for p in model.parameters())


def run_model(asked: dict[str, Any]) -> None:
    """Run the fine-tunes of one model of random weights."""
    from inoc_ray.train.model import BaseModelCache

    config, small = asked["config"], asked["small"]
    parameters = parameters_of(config)
    base = {"learning_rate": 1e-4, "batch_size": 16, "steps": SMALL_STEPS if small else STEPS, "warmup_steps": 1}
    rows = random_rows(64, config["vocab_size"], 256 if small else 2048)
    cache = BaseModelCache()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        write_model(config, Path(folder))
        for number, case in asked["cases"]:
            try:
                found = fine_tune(folder, rows, base | case["recipe"], case["resources"], cache)
            except Exception as error:  # noqa: BLE001 - a fine-tune that does not fit is a line of the table
                found = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
            say({"case": number, "device": device_name(), "parameters": parameters, **found})


def run_curves(asked: dict[str, Any]) -> None:
    """Run loss curves of the shipped miniature, whose weights are trained, on its own rows."""
    from inoc_ray.data.tokenize import encode_rows, load_tokenizer
    from inoc_ray.miniature import weights_path
    from inoc_ray.settings import get

    model = str(weights_path())
    rows = encode_rows(load_tokenizer(model), get("miniature/spanish_caps").rows()[:256], 512, "miniature/spanish_caps")
    base = {"learning_rate": 1e-3, "batch_size": 16, "steps": STEPS_OF_A_CURVE, "warmup_steps": 2}
    for number, curve in asked["curves"]:
        found = fine_tune(model, rows, base | curve["recipe"], curve["resources"], None)
        say({"curve": number, "device": device_name(), "losses": found["losses"]})


def say(value: dict[str, Any]) -> None:
    """Write one line for the process that started this one."""
    print(json.dumps(value), flush=True)


def main() -> None:
    """Read what to run and run it."""
    from inoc_ray.train.process import ready, set_threads

    asked = json.load(sys.stdin)
    # Small models are no faster on more cores, and sums in one order compare better.
    set_threads(1)
    ready()
    (run_model if "cases" in asked else run_curves)(asked)


if __name__ == "__main__":
    main()
