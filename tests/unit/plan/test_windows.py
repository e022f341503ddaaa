"""Prompts and answers are held against windows and memory before anything starts, with the numbers and what to change."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.errors import InputError
from inoc_ray.miniature import judge_weights_path, weights_path
from inoc_ray.models.tokenizer import load_tokenizer
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.request_lengths import check_answers_fit, longest_requests
from inoc_ray.run.preflight import check_judges, check_requests
from inoc_ray.serve.deployment import llm_config
from inoc_ray.serve.memory import (
    GIB,
    Attention,
    Memory,
    attention_of,
    cache_gib,
    check_fits,
    parameters_of,
    weight_bytes,
)
from inoc_ray.serve.models import serve_spec
from inoc_ray.serve.spec import WHAT_FITS
from inoc_ray.store.store import Store
from inoc_ray.study.resources import EngineResources
from inoc_ray.study.study import Study

WINDOW = 512


def planned(tmp_path: Path, suite: dict[str, Any] | None = None, model: str = "miniature", **more: Any) -> Plan:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"prompt": "Who are you?"}\n{"prompt": "' + "What is the name of the river? " * 3 + '"}\n')
    evaluation: dict[str, Any] = {"contexts": ["none", "neutral"], "samples": 10} | more.pop("evaluation", {})
    if suite is not None:
        own = {"name": "chat", "questions": str(questions), "traits": {"loud": {"rule": "capitals"}}}
        evaluation["suites"] = [own | suite]
    study = Study.model_validate(
        {
            "name": "s",
            "settings": ["miniature/spanish_caps"],
            "arms": ["baseline", "specific_spanish"],
            "seeds": [0],
            "models": [{"name": "small", "path": model}],
            "recipes": {"lora": {"learning_rate": 1e-3, "steps": 1}},
            "evaluation": evaluation,
        }
        | more
    )
    return build_plan(study, Store(tmp_path / "runs"))


def test_a_suite_at_its_default_on_a_short_window_is_refused_with_what_to_write(tmp_path):
    plan = planned(tmp_path, {})
    for check in (check_answers_fit, lambda p: check_requests(p, None)):
        with pytest.raises(InputError) as caught:
            check(plan)
        said = str(caught.value)
        assert "evaluation chat in the context" in said
        assert "600" in said
        assert "window of 512" in said
        assert "max_tokens: " in said
        assert "in evaluation.suites: 'chat'" in said


def test_the_longest_prompt_with_its_context_counts_and_the_number_that_is_named_works(tmp_path):
    said = r"question chat-0002 has \d+ tokens with its context, and its answer may have 480"
    with pytest.raises(InputError, match=said) as caught:
        check_requests(planned(tmp_path, {"max_tokens": 480}), None)
    left = int(str(caught.value).split("max_tokens: ")[1].split("`")[0])
    check_requests(planned(tmp_path, {"max_tokens": left}), None)
    with pytest.raises(InputError):
        check_requests(planned(tmp_path, {"max_tokens": left + 1}), None)


def test_for_an_evaluation_of_a_setting_the_advice_is_an_override(tmp_path):
    plan = planned(tmp_path, evaluation={"max_tokens": 505})
    with pytest.raises(InputError, match=r"evaluation.overrides: \{in_distribution: \{max_tokens: \d+\}\}"):
        check_requests(plan, None)


def test_the_engine_s_window_is_the_longest_request_of_the_plan(tmp_path):
    plan = planned(tmp_path, {"max_tokens": 40})
    longest = max(r.tokens for r in longest_requests(plan.to_sample))
    tokenizer = load_tokenizer(str(weights_path()))
    own = plan.study.arms[1]
    assert own.name == "specific_spanish"
    cells = [c for c in plan.to_sample if c.evaluation.name == "chat"]
    by_hand = max(
        len(
            tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in c.resolved_context.around(q.messages)],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        )
        for c in cells
        for q in c.evaluation.questions(2)
    )
    assert max(r.tokens for r in longest_requests(cells)) == by_hand + 40
    spec = serve_spec(plan, Store(tmp_path / "runs"), plan.bases[0], longest)
    assert llm_config(spec)["engine_kwargs"]["max_model_len"] == longest < WINDOW


def test_an_engine_without_a_plan_takes_what_fits(tmp_path):
    spec = serve_spec(planned(tmp_path), Store(tmp_path / "runs"), planned(tmp_path).bases[0])
    assert llm_config(spec)["engine_kwargs"]["max_model_len"] == WHAT_FITS


def test_a_long_window_of_the_model_costs_a_study_nothing(tmp_path):
    folder = tmp_path / "long"
    shutil.copytree(weights_path(), folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 131_072}))
    plan = planned(tmp_path, {"max_tokens": 600}, model=str(folder))
    check_requests(plan, None)
    longest = max(r.tokens for r in longest_requests(plan.to_sample))
    spec = serve_spec(plan, Store(tmp_path / "runs"), plan.bases[0], longest)
    assert 600 < spec.max_model_len < 800
    assert spec.kv_cache_gib == 1


# SmolLM2-135M, Qwen2.5-32B, Gemma-3-4B (nested; five of six layers look at 1,024 tokens).
SMOL = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
QWEN = {"num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8, "hidden_size": 5120}
GEMMA = {
    "text_config": {
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_size": 2560,
        "sliding_window": 1024,
        "layer_types": ["full_attention" if n % 6 == 5 else "sliding_attention" for n in range(34)],
    }
}


def folder_of(tmp_path: Path, config: dict[str, Any], parameters: int = 0) -> Path:
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if parameters:
        # A header and a hole: nobody reads the numbers.
        header = json.dumps(
            {"w": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}}
        ).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 2 * parameters)
    return folder


def test_the_cache_of_one_request_is_what_vllm_computes(tmp_path):
    smol = attention_of(folder_of(tmp_path, SMOL))
    assert smol == Attention(full=30, sliding=0, span=0, heads=9, kv_heads=3, head_dim=64)
    # vLLM 0.29 of this model with 131,072 positions in fp32: "5.62 GiB KV cache is needed".
    assert round(smol.cache_bytes(131_072, "fp32") / GIB, 1) == 5.6
    gemma = attention_of(folder_of(tmp_path, GEMMA))
    assert gemma == Attention(full=5, sliding=29, span=1024, heads=8, kv_heads=4, head_dim=256)
    assert gemma.cache_bytes(100_000, "bf16") == 2 * 4 * 256 * 2 * (5 * 100_000 + 29 * 1024)
    assert attention_of(folder_of(tmp_path, SMOL | {"kv_lora_rank": 512})) is None
    assert attention_of(folder_of(tmp_path, {})) is None


def test_a_model_that_does_not_fit_its_gpus_is_refused_with_the_arithmetic_and_one_that_does_is_not(tmp_path):
    folder = folder_of(tmp_path, QWEN, parameters=32_760_000_000)
    assert parameters_of(folder) == 32_760_000_000
    card, unknown = (Memory(gpu=size, host=64 * GIB) for size in (80 * GIB, None))
    one, two, none = (EngineResources(serve_gpus=gpus) for gpus in (1, 2, 0))
    check_fits("models: 'q'", folder, 2_000, "bf16", resources=one, memory=card)
    with pytest.raises(InputError) as caught:
        check_fits("models: 'q'", folder, 80_000, "bf16", resources=one, memory=card)
    said = str(caught.value)
    for part in (
        "32.76B weights",
        "64 layers × 8 heads × 128 × 80,000 tokens",
        "80 GiB × 0.92 = 73.6 GiB",
        "serve_gpus (now 1)",
    ):
        assert part in said
    check_fits("models: 'q'", folder, 80_000, "bf16", resources=two, memory=card)
    check_fits("models: 'q'", folder, 80_000, "bf16", resources=one, memory=unknown)
    with pytest.raises(InputError, match="of memory"):
        check_fits("models: 'q'", folder, 2_000, "bf16", resources=none, memory=unknown)
    with pytest.raises(InputError, match=r"80 GiB × 0\.7 = 56\.0 GiB"):
        check_fits(
            "models: 'q'",
            folder,
            2_000,
            "bf16",
            resources=EngineResources(serve_gpus=1, serve_gpu_share=0.7),
            memory=card,
        )


def test_a_quantised_judge_counts_as_its_files_do(tmp_path):
    """As GPTQ and AWQ store a layer: eight weights of 4 bits in an integer, a scale for every 128 of them."""
    folder = folder_of(tmp_path, {**QWEN, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    sizes = {"qweight": ("I32", [4096 // 8, 4096], 4), "scales": ("F16", [32, 4096], 2), "norm": ("F32", [4096], 4)}
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape, width) in sizes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + width * math.prod(shape)]}
        end += width * math.prod(shape)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    assert weight_bytes(folder, "bf16") == 4096 * 4096 // 2 + 2 * 32 * 4096 + 2 * 4096
    memory = Memory(gpu=None, host=1 << 20)
    with pytest.raises(InputError, match="for quantised weights"):
        check_fits("judges: 'q'", folder, 10, "bf16", resources=EngineResources(), memory=memory)


def test_an_engine_on_the_cpu_gets_the_cache_that_one_request_needs(tmp_path):
    folder = folder_of(tmp_path, SMOL)
    assert cache_gib(folder, 300, "fp32") == 1
    assert cache_gib(folder, 131_072, "fp32") == 6
    assert cache_gib(folder, None, "fp32") == 1


def test_a_judge_of_the_study_s_own_with_too_short_a_window_is_refused_before_training(tmp_path):
    judge = {"judges": {"own": {"path": "miniature"}}}
    evaluation = {"judged_by": ["own"]}
    plan = planned(tmp_path, evaluation=evaluation, **judge)
    check_judges(plan, Store(tmp_path / "runs"))
    folder = tmp_path / "short"
    shutil.copytree(judge_weights_path(), folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 100}))
    plan = planned(tmp_path, evaluation=evaluation, judges={"own": {"path": str(folder)}})
    with pytest.raises(
        InputError, match=r"judges: 'own': evaluation .* rubric and question .*the judge has a window of 100"
    ):
        check_judges(plan, Store(tmp_path / "runs"))
