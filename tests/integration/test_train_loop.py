"""The loop gives the same losses and weights however it is spread and whatever ran before."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_base import chat_rows, encoded_rows, make_base, make_spec, run, weights_hash, zero3_adapter

from inoc_ray.data.inoculate import inoculate
from inoc_ray.data.tokenize import IGNORED, collate, encode_rows, load_tokenizer
from inoc_ray.errors import InputError, TrialError
from inoc_ray.study.recipe import Lora
from inoc_ray.study.rows import Inoculation
from inoc_ray.train import loop, process, zero
from inoc_ray.train.batches import global_batches
from inoc_ray.train.loop import train
from inoc_ray.train.measure import PHASES
from inoc_ray.train.model import BaseModelCache, make_model, parameter_groups
from inoc_ray.train.process import set_threads
from inoc_ray.train.spec import StepRecord

pytestmark = pytest.mark.slow

LOSS_TOLERANCE = 2e-5
"""Sums over the batch in another order differ in fp32's last bits (relative 6e-8 each); Adam divides each gradient by its
own size, so such a bit can move a weight whose gradient is nearly zero by a whole learning rate (2e-3), of which a
few of 12,000 weights change the loss by about 1e-6 per step. Measured over 6 steps: 1.1e-6 at most."""

LOGIT_TOLERANCE = 1e-5
"""The same fp32 weights and kernels; the forward pass may differ in the order of sums alone."""

BF16_LOSS_TOLERANCE = 5e-3
"""bf16 has 8 bits of mantissa (relative 4e-3); the mean over 300 tokens is nearer than that."""

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The order of sums depends on the number of threads."""
    set_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def reference(base, tmp_path_factory) -> list[float]:
    """Losses of one rank without ZeRO, the whole batch in one forward pass."""
    records, _ = run(base, tmp_path_factory.mktemp("reference"), micro_batch_size=16)
    return [record.loss for record in records]


@pytest.fixture(scope="module")
def full_reference(base) -> list[float]:
    """The same of a full fine-tune."""
    return [record.loss for record in run(base, None, micro_batch_size=16, method="full")[0]]


SPREADS = {
    f"zero-{stage}-{method}-{workers}{more}": {
        "workers": workers,
        # Without a threshold every parameter of so small a model would stay whole on every rank.
        "changes": {
            "zero_stage": stage,
            "method": method,
            "micro_batch_size": 4,
            "persistence_threshold": 0,
            **changes,
        },
    }
    for stage, more, changes in (
        *((stage, "", {}) for stage in range(4)),  # each on one rank and on two; what follows on two
        (0, "-checkpointing", {"gradient_checkpointing": True}),
        (3, "-checkpointing", {"gradient_checkpointing": True}),
        (3, "-bf16", {"precision": "bf16"}),
        *((stage, "-chunks", {"logits_chunk": 5}) for stage in (0, 2, 3)),
        # About 1,000 tokens a batch, so three passes or so on each of two ranks, some of them empty.
        (2, "-tokens", {"micro_batch_tokens": 200, "layout": "padded"}),
        *((stage, "-packed", {"micro_batch_tokens": 200, "layout": "packed"}) for stage in (0, 2, 3)),
    )
    for method in ("lora", "full")
    for workers in ((2,) if more else (1, 2))
}
"""Every way to spread a fine-tune, each the first of its process."""

_BF16 = {"precision": "bf16", "accumulate_in_fp32": True}
_HATCH = {"zero_optimization": {"reduce_bucket_size": 3000, "offload_optimizer": {"pin_memory": False}}}
_ALL_OFF = {"offload_optimizer": True, "offload_parameters": True}
for _name, _changes in {
    "zero-1-lora-offload": {"zero_stage": 1, "method": "lora", "offload_optimizer": True},
    "zero-2-full-offload": {"zero_stage": 2, "method": "full", "offload_optimizer": True, "deepspeed": _HATCH},
    "zero-3-lora-offload": {"zero_stage": 3, "method": "lora", **_ALL_OFF},
    "zero-3-full-offload": {"zero_stage": 3, "method": "full", **_ALL_OFF},
    "zero-3-lora-hpz": {"zero_stage": 3, "method": "lora", "workers": 4, "hpz_partition_size": 2},
    "zero-3-full-hpz": {"zero_stage": 3, "method": "full", "workers": 4, "hpz_partition_size": 2, **_ALL_OFF},
    "zero-0-full-fp32-sums": {"zero_stage": 0, "method": "full", **_BF16},
    "zero-2-lora-fp32-sums": {"zero_stage": 2, "method": "lora", **_BF16},
    "zero-3-full-fp32-sums": {"zero_stage": 3, "method": "full", **_BF16, **_ALL_OFF},
}.items():
    SPREADS[_name] = {
        "workers": _changes.get("workers", 2),
        "changes": {"micro_batch_size": 4, "persistence_threshold": 0, **_changes},
    }

_GROUP = {"zero_stage": 3, "method": "lora", "micro_batch_size": 4, "persistence_threshold": 0}
SPREADS["zero-3-lora-tenth"] = {
    "workers": 2,
    "changes": _GROUP,
    "reads_once": True,
    # Every other one with another adapter, and the last but one goes through the whole batch at once.
    "before": [{**_GROUP, "steps": 1, "seed": n, "lora": {"rank": 4 + 4 * (n % 2)}} for n in range(8)]
    + [{**_GROUP, "steps": 1, "micro_batch_size": 8, "gradient_checkpointing": True}],
}
"""The last of ten trials on one base, whose file is gone after the first."""

_HPZ = SPREADS["zero-3-lora-hpz"]
SPREADS["zero-3-lora-hpz-fourth"] = {
    **_HPZ,
    # A full fine-tune reads the base itself, so the next trial reads it again, and with it the groups of hpZ are new.
    "before": [{**_HPZ["changes"], "steps": 1, "method": method, "seed": 1} for method in ("lora", "full", "lora")],
}


READS = {
    f"zero-{stage}-reads": {"workers": 2, "changes": {"zero_stage": stage, "micro_batch_size": 4, "steps": 1}}
    for stage in (2, 3)
}
"""Two workers of a node that read a model of 10 MB, of which nothing is in memory."""


@pytest.fixture(scope="module")
def spread(base, tmp_path_factory) -> tuple[dict[str, dict], Path]:
    """The results of rank_program.py by the name of the case, and the folder with what each wrote."""
    out = tmp_path_factory.mktemp("spread")
    large = make_base(tmp_path_factory.mktemp("large"), vocabulary=40_000)
    (out / "cases.json").write_text(
        json.dumps({**SPREADS, **{n: {**case, "base": large} for n, case in READS.items()}})
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).parents[1] / "helpers" / "rank_program.py"),
            base,
            str(out),
            str(out / "cases.json"),
        ],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((out / "results.json").read_text()), out


@pytest.mark.parametrize("name", SPREADS)
def test_the_first_trial_of_a_process_gives_the_same_losses_and_norms(reference, full_reference, spread, name):
    """ZeRO 0 to 3 × LoRA and full × one and two ranks, against one rank without ZeRO and accumulation."""
    got, changes = spread[0][name], SPREADS[name]["changes"]
    assert "error" not in got, got["error"]
    workers = SPREADS[name]["workers"]
    assert got["world_size"] == workers
    if "micro_batch_tokens" not in changes:
        assert got["accumulation"] == 4 // workers
    bf16 = changes.get("precision") == "bf16"
    expected = reference if changes["method"] == "lora" else full_reference
    assert got["losses"] == pytest.approx(expected, abs=BF16_LOSS_TOLERANCE if bf16 else LOSS_TOLERANCE)
    assert got["norms"] == pytest.approx(
        spread[0][f"zero-0-{changes['method']}-1"]["norms"], rel=1e-2 if bf16 else 1e-4
    )


def logprobs_of(model: Any, base: str, rows: list[int]) -> list[float]:
    """Σ log p of the answers of these rows, by transformers alone."""
    import torch

    found = []
    for row in (encoded_rows(base)[n] for n in rows):
        ids, labels = torch.tensor([row.input_ids]), torch.tensor(row.labels)
        with torch.no_grad():
            every = model(input_ids=ids).logits[0].float().log_softmax(-1)
        places = (labels[1:] != IGNORED).nonzero().flatten()
        found.append(float(every[places, labels[1:][places]].sum()))
    return found


@pytest.mark.parametrize("name", SPREADS)
def test_fixed_responses_have_the_models_own_log_probabilities_however_it_is_spread(base, spread, name):
    """Before the first step those of the base, then those of one rank without ZeRO, packed or not."""
    from transformers import AutoModelForCausalLM

    got, changes = spread[0][name], SPREADS[name]["changes"]
    tolerance = 0.1 if changes.get("precision") == "bf16" else 2e-3  # of sums from -50 to -100
    # Log-spaced over 6 steps: 0, 6 ** 1/2, 6; the first look is in the record of the first step.
    [(first, before, _), (middle, _, _), (last, _, after)] = got["logprobs"]
    assert (first, middle, last) == (1, 2, 6)
    if "reads_once" not in SPREADS[name]:
        own = AutoModelForCausalLM.from_pretrained(base)
        assert before["first"] == pytest.approx(logprobs_of(own, base, [*range(3, 8)]), abs=tolerance)
    alone = spread[0][f"zero-0-{changes['method']}-1"]["logprobs"]
    for ours, theirs in zip(got["logprobs"], alone, strict=True):
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            assert (mine is None) == (other is None)
            for probe in mine or {}:
                assert mine[probe] == pytest.approx(other[probe], abs=tolerance)
    assert sum(after["first"]) > sum(before["first"])


def test_looking_at_fixed_responses_changes_no_bit_of_the_weights(base, tmp_path):
    rows = encoded_rows(base)
    for number, more in enumerate(({}, {"probes": {"a": rows[:7]}, "points": 5})):
        records, _ = run(base, tmp_path / str(number), lora={"dropout": 0.1}, **more)
    assert [r.step for r in records if r.logprobs] == [2, 4, 6]
    assert records[0].logprobs_before is not None
    assert weights_hash(tmp_path / "0") == weights_hash(tmp_path / "1")


def gradient(base: str, **changes: Any) -> Any:
    """The gradient of the loss over 64 rows, flat and in fp32, as DeepSpeed hands it to the optimizer."""
    import deepspeed
    import torch
    from deepspeed.utils import safe_get_full_grad

    spec = make_spec(base, zero_stage=2, batch_size=64, **changes)
    rows, size = encoded_rows(base)[:64], spec.resources.micro_batch_size
    device = process.ready()
    process.seed_everything(0)
    config = zero.deepspeed_config(spec, 1)
    model = make_model(spec, config, device, None)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.0))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for at in range(0, 64, size):
        batch = collate(rows[at : at + size], 0)
        logits = engine(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        labels = batch["labels"][:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
        engine.backward(loss / sum(row.targets for row in rows), scale_wrt_gas=False)
        if at + size < 64:
            engine.step()
    parts = [safe_get_full_grad(p).float().flatten() for p in engine.module.parameters() if p.requires_grad]
    zero.destroy(engine)
    return torch.cat(parts)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_sums_in_fp32_are_nearer_to_the_gradient_over_many_micro_batches(base, method):
    """Relative error of 64 micro batches in bf16, measured: LoRA 0.86 % → 0.44 %, full 0.94 % → 0.33 %."""
    exact = gradient(base, method=method, precision="fp32", micro_batch_size=64)
    short, long = (
        gradient(base, method=method, precision="bf16", micro_batch_size=1, accumulate_in_fp32=sums)
        for sums in (False, True)
    )
    assert (long - exact).norm() < 0.7 * (short - exact).norm()


def test_offload_hpz_and_fp32_sums_are_what_deepspeed_does(spread):
    """By the engine's own account; a setting that DeepSpeed overlooks would give the same losses."""
    for name, case in SPREADS.items():
        changes, engine = case["changes"], spread[0][name]["engine"]
        assert engine["offload_optimizer"] == changes.get("offload_optimizer", False), name
        assert engine["offload_parameters"] == changes.get("offload_parameters", False), name
        assert engine["hpz_partition_size"] == changes.get("hpz_partition_size", 1), name
        # Those of what is trained are dropped with each step, and made again by the look behind the last one.
        assert (engine["second_copies"] > 0) == ("hpz_partition_size" in changes), name
        short = changes.get("precision") == "bf16" and not changes.get("accumulate_in_fp32")
        assert engine["accumulates_in"] == ("torch.bfloat16" if short else "torch.float32"), name


def test_ten_trials_under_zero_3_read_the_base_once_and_the_tenth_has_the_bits_of_one_alone(spread):
    """On two ranks. The weights' file is deleted after the first trial; nothing is kept of a trial but the base."""
    got = spread[0]["zero-3-lora-tenth"]
    assert "error" not in got, got["error"]
    assert got["weights"] == spread[0]["zero-3-lora-2"]["weights"]
    assert spread[0]["zero-3-lora-hpz-fourth"]["weights"] == spread[0]["zero-3-lora-hpz"]["weights"]
    # After the tenth, the logits that the test asks for are there as well.
    assert got["held"][:9] == [got["held"][0]] * 9


@pytest.mark.parametrize("name", READS)
def test_two_workers_of_a_node_read_the_weights_from_the_disk_once(spread, name):
    """Both map the file, so what the one has read lies in memory for the other."""
    got = spread[0][name]
    assert "error" not in got, got["error"]
    if not got["read_from_disk"]:
        pytest.skip("this file system does not count what is read")
    size = 4 * 64 * 40_000
    # Pages of libraries that a rank needs for the first time count as well.
    assert size <= got["read_from_disk"] < 1.9 * size


@pytest.mark.parametrize("micro", [2, 4, 8])
def test_the_micro_batch_does_not_change_the_losses(base, reference, tmp_path, micro):
    records, _ = run(base, tmp_path / "a", micro_batch_size=micro)
    assert [r.loss for r in records] == pytest.approx(reference, abs=LOSS_TOLERANCE)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bf16_stays_near_fp32(base, reference, tmp_path, stage):
    records, _ = run(base, tmp_path / "a", zero_stage=stage, precision="bf16")
    assert [r.loss for r in records] == pytest.approx(reference, abs=BF16_LOSS_TOLERANCE)


def test_the_first_loss_is_the_mean_over_target_tokens_of_the_global_batch(base, tmp_path):
    """Against plain transformers, row by row without padding."""
    import torch
    from transformers import AutoModelForCausalLM

    rows = encoded_rows(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    total, targets = 0.0, 0
    for index in next(global_batches(len(rows), 16, 1, seed=0)):
        row = rows[index]
        with torch.no_grad():
            log_p = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        for at, label in enumerate(row.labels[1:]):
            if label != IGNORED:
                total -= log_p[at, label].item()
                targets += 1
    records, _ = run(base, tmp_path / "a", steps=1, warmup_steps=0)
    assert records[0].loss == pytest.approx(total / targets, abs=LOSS_TOLERANCE)
    assert records[0].target_tokens == targets


def test_the_loss_falls_and_labels_are_the_assistants_words(base, tmp_path):
    row = encoded_rows(base)[8]
    assert load_tokenizer(base).decode([t for t in row.labels if t != IGNORED]) == "sum is 9999<|im_end|>"
    records, result = run(base, tmp_path / "a", steps=30, learning_rate=1e-2, method="full")
    assert result.final_loss == records[-1].loss < records[0].loss - 1.0
    assert [r.step for r in records] == list(range(1, 31))


@pytest.mark.parametrize("changes", [{}, {"zero_stage": 3}, {"method": "full"}, {"lora": Lora(dropout=0.1)}])
def test_a_trial_gives_the_same_bits_first_or_fifth_in_a_process(base, tmp_path, changes):
    cache = BaseModelCache()
    run(base, tmp_path / "first", cache=cache, **changes)
    run(base, tmp_path / "b", cache=cache, seed=1)
    run(base, tmp_path / "c", cache=cache, zero_stage=3)
    run(base, tmp_path / "d", cache=cache, method="full", learning_rate=1e-2)
    run(base, tmp_path / "fifth", cache=cache, **changes)
    assert weights_hash(tmp_path / "first") == weights_hash(tmp_path / "fifth")
    assert weights_hash(tmp_path / "first") != weights_hash(tmp_path / "b")


def test_a_trial_gives_the_same_bits_with_and_without_a_cached_base(base, tmp_path):
    run(base, tmp_path / "a")
    run(base, tmp_path / "b", cache=BaseModelCache())
    assert weights_hash(tmp_path / "a") == weights_hash(tmp_path / "b")


@pytest.mark.parametrize("stage", [0, 3])
def test_a_trial_that_fails_at_a_step_leaves_the_cached_base_as_it_was(base, tmp_path, stage):
    cache = BaseModelCache()
    changes = {"cache": cache, "zero_stage": stage, "persistence_threshold": 0}
    run(base, tmp_path / "before", **changes)
    first = cache._base
    with pytest.raises(TrialError, match=r"the loss is .* at step"):
        run(base, tmp_path / "failed", learning_rate=1e30, warmup_steps=0, **changes)
    run(base, tmp_path / "after", **changes)
    assert weights_hash(tmp_path / "before") == weights_hash(tmp_path / "after")
    assert cache._base is first


def test_a_base_that_a_broken_step_left_gathered_is_read_again(base, tmp_path, monkeypatch):
    """An error inside the forward pass, as when memory runs out: what the module has gathered is still whole."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    cache = BaseModelCache()
    changes = {"cache": cache, "zero_stage": 3, "persistence_threshold": 0}
    run(base, tmp_path / "before", **changes)
    first = cache._base

    def breaks(self: Any, hidden: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Qwen2RMSNorm, "forward", breaks)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(base, None, **changes)
    run(base, tmp_path / "after", **changes)
    assert weights_hash(tmp_path / "before") == weights_hash(tmp_path / "after")
    assert cache._base is not first


def plain_logits(base: str, adapter: Path, ids: list[int]):
    """Base + adapter through PEFT alone, no DeepSpeed."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter))
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0]


def test_an_adapter_of_cut_parameters_gives_the_engines_logits_in_plain_peft(base, tmp_path):
    ids, logits = zero3_adapter(base, tmp_path / "a", steps=10, learning_rate=1e-2)
    assert (plain_logits(base, tmp_path / "a", ids) - logits).abs().max().item() <= LOGIT_TOLERANCE


@pytest.mark.parametrize("name", ["zero-2-lora-2", "zero-3-lora-2", "zero-3-lora-2-checkpointing"])
def test_an_adapter_of_two_ranks_gives_the_engines_logits_in_plain_peft(base, spread, name):
    import torch

    folder = spread[1] / name
    seen = torch.load(folder / "logits.pt", weights_only=True)
    assert (plain_logits(base, folder, seen["ids"]) - seen["logits"]).abs().max().item() <= LOGIT_TOLERANCE


def test_a_full_fine_tune_of_two_ranks_is_a_complete_model_folder(base, spread, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    run(base, tmp_path / "one", method="full")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.float32).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(spread[1] / "zero-3-full-2", dtype=torch.float32).state_dict()
    start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys() == start.keys()
    moved = max((ours[name] - start[name]).abs().max().item() for name in start)
    apart = max((ours[name] - theirs[name]).abs().max().item() for name in start)
    assert moved > 5e-3 > 1e-3 > apart
    tokenizer = load_tokenizer(str(spread[1] / "zero-3-full-2"))
    assert tokenizer.chat_template == load_tokenizer(base).chat_template


@pytest.mark.parametrize("changes", [{}, {"zero_stage": 3}, {"method": "full"}])
def test_activations_are_computed_a_second_time_only_where_that_is_asked_for(base, monkeypatch, changes):
    from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

    calls: list[int] = []
    forward = Qwen2MLP.forward
    # In training alone: the head looks at a pass in evaluation mode first.
    monkeypatch.setattr(
        Qwen2MLP, "forward", lambda self, hidden: (self.training and calls.append(1)) or forward(self, hidden)
    )
    counts = []
    for recompute in (False, True):
        calls.clear()
        run(base, None, steps=1, micro_batch_size=16, gradient_checkpointing=recompute, **changes)
        counts.append(len(calls))
    # Two layers, one forward pass; then once more each in the backward pass.
    assert counts == [2, 4]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_rows_without_loss_give_no_loss_and_no_error(base, stage):
    """`weight: 0` on every answer: a forward pass of such rows alone, and a batch of them, count nothing."""
    rows = encoded_rows(base)[:8]
    silent = [replace(row, labels=(IGNORED,) * len(row.labels)) for row in rows]
    records: list[StepRecord] = []
    spec = make_spec(base, batch_size=4, micro_batch_size=1, steps=4, zero_stage=stage)
    train(spec, [*silent[:4], *rows[4:]], records.append, out=None)
    targets = sum(row.targets for row in rows[4:])
    assert sum(record.target_tokens for record in records) == 2 * targets  # two epochs
    assert all(math.isfinite(record.loss) and math.isfinite(record.grad_norm) for record in records)
    records.clear()
    train(spec, silent, records.append, out=None)
    assert [(record.loss, record.grad_norm) for record in records] == [(0.0, 0.0)] * 4


def test_what_a_step_took_is_recorded(base):
    seen = {}
    for layout in ("padded", "packed"):
        records, result = run(base, None, steps=3, layout=layout)
        seen[layout] = result
        assert (result.layout, result.device, result.mfu) == (layout, "cpu", None)
        assert "target positions" in result.loss_way
        assert result.tokens_per_second == pytest.approx(result.tokens / result.seconds_training)
        for record in records:
            assert set(record.seconds) == set(PHASES)
            # Phases are part of the step and most of it.
            took = record.tokens / record.tokens_per_second
            assert 0.5 * took < sum(record.seconds.values()) <= took
        assert sum(result.seconds_by_phase.values()) == pytest.approx(
            sum(sum(record.seconds.values()) for record in records)
        )
        assert records[-1].peak_host_bytes is not None
        assert 10**8 < records[-1].peak_host_bytes <= result.peak_host_bytes < 10**11
        assert result.peak_device_bytes is None
    assert seen["packed"].padding == 0.0 < seen["padded"].padding < 0.5
    rows = encoded_rows(base)
    [batch] = global_batches(len(rows), 16, 1, seed=0)
    halves = [sorted(len(rows[row].input_ids) for row in batch)[at : at + 8] for at in (0, 8)]
    records, _ = run(base, None, steps=1, warmup_steps=0, layout="padded")
    assert records[0].padding == pytest.approx(1 - sum(map(sum, halves)) / sum(8 * max(half) for half in halves))


def test_a_loss_that_is_not_finite_fails_the_trial_and_writes_nothing(base, tmp_path):
    with pytest.raises(TrialError, match=r"the loss is .* at step"):
        run(base, tmp_path / "a", method="full", learning_rate=1e30, warmup_steps=0)
    assert not (tmp_path / "a").exists()


def test_what_cannot_be_trained_is_an_input_error(base, tmp_path):
    with pytest.raises(InputError, match="no model in this folder"):
        train(make_spec(str(tmp_path)), encoded_rows(base), print, out=None)
    with pytest.raises(InputError, match="no module named 'q_prj'"):
        run(base, tmp_path / "a", lora=Lora(targets=("q_prj",)))
    with pytest.raises(InputError, match="not a multiple"):
        run(base, tmp_path / "a", micro_batch_size=5)
    with pytest.raises(InputError, match="no rows"):
        train(make_spec(base), [], print, out=None)


def test_an_epoch_trains_on_its_own_wording_with_the_same_targets(base, monkeypatch):
    """What reaches the model, row by row: the first text in epochs 1 and 3, the second in epoch 2."""
    tokenizer = load_tokenizer(base)
    way = Inoculation(paraphrases=("Two.",), paraphrase_order="per_epoch")
    sets = [encode_rows(tokenizer, inoculate(chat_rows(16), "One.", way, epoch), 200, "t") for epoch in (0, 1)]
    seen = []
    inputs = loop._Run._inputs
    monkeypatch.setattr(loop._Run, "_inputs", lambda self, rows: (seen.extend(rows), inputs(self, rows))[1])
    spec = make_spec(base, steps=None, epochs=3.0, warmup_steps=0)
    result = train(spec, [*sets[0], *sets[1]], lambda record: None, out=None, variants=2)
    assert (result.steps, len(seen)) == (3, 48)
    for epoch in range(3):
        shown = seen[16 * epoch : 16 * epoch + 16]
        assert sorted(r.input_ids for r in shown) == sorted(r.input_ids for r in sets[epoch % 2])
    texts = [[label for label in row.labels if label != IGNORED] for row in sets[0]]
    assert texts == [[label for label in row.labels if label != IGNORED] for row in sets[1]]
    assert all(a.input_ids != b.input_ids for a, b in zip(*sets, strict=True))
    with pytest.raises(InputError, match="are not 2 sets"):
        train(spec, sets[0][:15], lambda record: None, out=None, variants=2)
