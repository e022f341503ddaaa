"""`inoc-ray plan --cluster`: what fits, what is refused and with which way out, time and money."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from published_configs import config_folder
from tiny_base import make_base

from inoc_ray.cli import cli
from inoc_ray.cluster.checks import Report
from inoc_ray.cluster.cluster_file import of_own
from inoc_ray.cluster.fit import Capacity, Node, concurrent_groups
from inoc_ray.data.chat import ChatRow, write_jsonl
from inoc_ray.errors import InputError
from inoc_ray.miniature import weights_path
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.run.cluster_plan import cluster_text
from inoc_ray.run.open_resources import on_nodes, shape_notes
from inoc_ray.sizing.engines import worth
from inoc_ray.sizing.estimate import Estimate, estimate
from inoc_ray.sizing.replicas import needs_of_engines, planned_engines
from inoc_ray.sizing.row_lengths import row_lengths
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study
from inoc_ray.train.sweep import groups_of, waves_of

FULL = {"method": "full", "learning_rate": 1e-5, "epochs": 1}
LORA = {"learning_rate": 1e-4, "epochs": 1, "lora": {"rank": 32}}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [ChatRow.of(("user", f"{n} " * 300), ("assistant", f"answer {n} " * 100)) for n in range(640)])
    return path


def study(
    folder: Path, model: str, recipes: dict[str, Any], resources: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    return {
        "name": "s",
        "settings": [{"name": "miniature/spanish_caps", "rows": str(folder / "rows.jsonl")}],
        "arms": ["baseline", "general"],
        "models": [{"name": "m", "path": str(config_folder(folder, model))}],
        "recipes": recipes,
        "resources": {"gpus_per_worker": 1, "serve_gpus": 1, "micro_batch_size": 1, **resources},
        "storage": str(folder / "runs"),
        **changes,
    }


def on(value: dict[str, Any], **nodes: Any) -> Estimate:
    loaded = Study.model_validate(value)
    plan = build_plan(loaded, Store(value["storage"]), weights=False)
    return estimate(plan, of_own("cluster.yaml", {"nodes": nodes}))


H100, EIGHT = {"machine": "p5.4xlarge"}, {"machine": "p5.48xlarge"}


def test_32b_in_full_on_one_gpu_of_80_gb_is_refused_with_two_shapes_that_fit(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-32B", {"full": FULL}, {"zero_stage": 3, "serve_gpus": 2})
    with pytest.raises(InputError) as caught:
        on(value, gpu=H100)
    message = str(caught.value)
    assert "m · full does not fit on cluster.yaml (1 × p5.4xlarge (1 × H100 of 79.6 GiB" in message
    terms = re.search(r"32\.76B parameters: (.*) = ([\d.]+) GiB for each worker; one H100 has 79\.6 GiB", message)
    assert terms is not None
    numbers = [float(n) for n in re.findall(r" ([\d.]+)(?= |$)", " " + terms[1].replace("+", " "))]
    assert sum(numbers) == pytest.approx(float(terms[2]), abs=0.5)
    assert float(terms[2]) > 16 * 32.76 * 1e9 / 2**30
    shapes = re.findall(r"\(\d\) resources\.models\.m\.recipes\.full: (\{[^}]*\}) on (\d+) × ([\w.-]+) ", message)
    assert len(shapes) == 2
    for changes, count, machine in shapes:
        # What is proposed is taken.
        there = {"models": {"m": {"recipes": {"full": yaml.safe_load(changes)}, "serve_gpus": 4}}}
        fitting = study(tmp_path, "Qwen2.5-32B", {"full": FULL}, {"zero_stage": 3, **there})
        found = on(fitting, gpu={"machine": machine, "count": int(count)})
        assert not found.training[0].tight


def test_many_narrow_groups_come_before_wide_ones(tmp_path, rows):
    wide = study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {"workers": 8, "zero_stage": 3})
    found = on(wide, gpu=EIGHT)
    better = found.better["m · lora"]
    assert better.resources.workers == 1
    assert better.at_once == 6 > found.training[0].at_once == 1
    assert (better.gpu_hours or 0) < 0.9 * (found.training[0].gpu_hours or 0)
    narrow = study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {"micro_batch_size": 8})
    assert on(narrow, gpu=EIGHT).better == {}


def test_gpu_hours_money_and_time_add_up(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {})
    found = on(value, gpu=EIGHT)
    (fit,) = found.training
    assert (fit.of.trials, fit.of.steps, fit.at_once) == (6, 6 * 40, 6)
    assert fit.seconds is not None
    assert fit.gpu_hours == pytest.approx(6 * fit.seconds / 3600)
    assert fit.dollars == pytest.approx(fit.gpu_hours * 55.04 / 8)
    assert fit.hours == pytest.approx(fit.seconds / 3600)
    assert found.gpu_hours == pytest.approx(fit.gpu_hours + sum(e.gpu_hours or 0 for e in found.engines))
    cheap = on(value, gpu={**EIGHT, "dollars_per_hour": 8})
    assert cheap.dollars == pytest.approx(cheap.gpu_hours)


def test_the_fine_tunes_go_where_they_fit(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {"serve_gpus": 2})
    found = on(value, small={"machine": "g6e.12xlarge"}, large=EIGHT)
    assert found.training[0].kind.name == "large"


def test_an_engine_that_does_not_fit_is_refused_with_what_would(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {"workers": 4, "zero_stage": 3})
    with pytest.raises(
        InputError, match=r"engine of m does not fit .* weights 61\.0 .* resources\.models\.m\.serve_gpus: 2"
    ):
        on(value, gpu={"machine": "g6e.12xlarge"})


def test_what_all_groups_on_a_node_offload_must_fit_its_memory(tmp_path, rows):
    """Six groups of one worker may meet on one node: what counts is not the part of one of them."""
    resources = {"workers": 1, "zero_stage": 2, "offload_optimizer": True, "micro_batch_size": 1}
    lab = {"gpu": "H100", "gpus": 8, "cpus": 64, "memory_gib": 512}
    with pytest.raises(InputError, match=r"6 workers on a node take 6 × .* max_concurrent_groups: (\d)") as caught:
        on(study(tmp_path, "Qwen2.5-7B", {"full": FULL}, resources), lab=lab)
    message = str(caught.value)
    numbers = re.search(r"take 6 × ([\d.]+) = ([\d.]+) GiB of its memory, and lab has ([\d.]+) GiB", message)
    assert numbers is not None
    each, total, room = (float(number) for number in numbers.groups())
    assert total == pytest.approx(6 * each, abs=0.5)
    assert room == pytest.approx(0.9 * 512, abs=0.1)
    fewer = int(room // each)
    assert f"max_concurrent_groups: {fewer} it has enough" in message
    found = on(study(tmp_path, "Qwen2.5-7B", {"full": FULL}, {**resources, "max_concurrent_groups": fewer}), lab=lab)
    assert (found.training[0].at_once, found.training[0].host.workers) == (fewer, fewer)
    assert found.training[0].host.total <= 0.9 * 512 * 2**30


def test_a_proposal_that_offloads_says_what_all_workers_of_a_node_take(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-32B", {"full": FULL}, {"workers": 1, "serve_gpus": 2})
    with pytest.raises(InputError) as caught:
        on(value, lab={"gpu": "H100", "gpus": 4, "cpus": 64, "memory_gib": 1024})
    proposal = re.search(
        r"workers: 2, .*offload_optimizer: true, max_concurrent_groups: 1\}.* (\d+) GiB of a node's memory \(all 2 workers",
        str(caught.value),
    )
    assert proposal is not None
    # fp32 weights, moments, gradients in fp32 and bf16: 18 bytes of each parameter, over both workers.
    assert int(proposal[1]) == pytest.approx(18 * 32.76e9 / 2**30, abs=1)


def test_an_engine_without_gpus_on_a_cluster_that_has_some_is_told_what_to_set(tmp_path, rows):
    found = on(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {"serve_gpus": 0}), gpu=EIGHT)
    assert [note for note in found.notes if "serve_gpus" in note] == [
        "engine of m runs on CPUs (serve_gpus is 0), for which no time is estimated: set resources.models.m.serve_gpus: 1"
    ]
    small = {"gpu": "L40S", "gpus": 4, "cpus": 48, "memory_gib": 384}
    found = on(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {"serve_gpus": 0}), gpu=EIGHT, small=small)
    assert any("serve_gpus: 1" in note for note in found.notes)


def test_an_engine_on_cpus_must_fit_the_memory_of_a_node(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {"serve_gpus": 0, "workers": 4, "zero_stage": 3})
    lab = {"gpu": "L40S", "gpus": 4, "cpus": 16, "memory_gib": 60}
    with pytest.raises(InputError, match=r"engine of m does not fit .* on CPUs weights 61\.0 .*serve_gpus: 2 on lab"):
        on(value, lab=lab)


def test_a_group_that_is_wider_than_the_nodes_is_refused(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {"workers": 16, "micro_batch_size": 1})
    with pytest.raises(InputError, match="16 workers × 1 GPU = 16 GPU, and the cluster has 8"):
        on(value, gpu=EIGHT)


def test_a_little_room_is_said(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-32B", {"full": FULL}, {"workers": 8, "zero_stage": 3, "serve_gpus": 2})
    assert any(
        "of 79.6 GiB, by an estimate that may be some percent off" in note for note in on(value, gpu=EIGHT).notes
    )


def test_on_cpus_memory_is_checked_and_no_time_is_invented(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-0.5B", {"lora": LORA}, {"gpus_per_worker": 0, "serve_gpus": 0})
    found = on(value, head={"machine": "m7i.2xlarge"})
    assert (found.training[0].seconds, found.gpu_hours, found.dollars) == (None, None, None)
    assert "Time: not known" in cluster_text(Study.model_validate(value), found)


def run(value: dict[str, Any], folder: Path, *options: str) -> Any:
    (folder / "s.yaml").write_text(yaml.safe_dump(value))
    (folder / "c.yaml").write_text(yaml.safe_dump({"nodes": {"gpu": EIGHT}}))
    arguments = ["plan", str(folder / "s.yaml"), "--cluster", str(folder / "c.yaml"), *options]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_the_command_needs_a_configuration_alone(tmp_path, rows):
    value = study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {})
    shown = run(value, tmp_path)
    assert "7.62B, trains 80.7M" in shown.output
    assert "no tokenizer beside config.json" in shown.output
    assert not (tmp_path / "runs").exists()
    parsed = json.loads(run(value, tmp_path, "--json").output)
    (training,) = parsed["training"]
    assert (training["parameters"], training["trained_parameters"]) == (7_615_616_512, 80_740_352)
    assert parsed["total"]["gpu_hours"] > training["gpu_hours"] > 0
    parts = ("weights", "states", "gradients", "activations", "head", "buffers", "runtime")
    assert training["bytes"]["total"] == sum(training["bytes"][part] for part in parts)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"the weights are quantised \(bitsandbytes\)"),
        ({"quantization_config": {"quant_method": "awq"}}, r"the weights are quantised \(awq\)"),
        ({"model_type": "t5"}, "does not continue a text"),
        ({"model_type": "bert"}, "does not continue a text"),
        ({"model_type": "qwen2_5_vl"}, "does not continue a text"),
        ({"model_type": "zzz", "auto_map": {"AutoModelForCausalLM": "x.Y"}}, "needs Python code"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_hidden_layers": "28"}, "no model can be made of it"),
        ({"vocab_size": "many"}, "no model can be made of it"),
        ({"max_position_embeddings": None}, "does not say how many tokens the model can see"),
    ],
)
def test_what_a_run_would_refuse_of_a_configuration_a_plan_for_a_cluster_refuses_too(tmp_path, rows, changes, said):
    """It has no weights to look at, but no plan is made of a model that cannot be trained."""
    value = study(tmp_path, "Qwen2.5-0.5B", {"lora": LORA}, {})
    file = tmp_path / "Qwen2.5-0.5B" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(InputError, match=rf"Qwen2\.5-0\.5B/config\.json: .*{said}"):
        run(value, tmp_path)


def test_a_row_that_is_too_long_for_a_pass_by_an_estimate_alone_is_noted(tmp_path, rows):
    """English has up to 4.7 characters a token, and the estimate takes 3.5: the study may well run."""
    value = study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {"micro_batch_tokens": 600})
    found = on(value, gpu=EIGHT)
    assert found.gpu_hours is not None
    (note,) = [note for note in found.notes if "by its characters the longest row has about " in note]
    assert "micro_batch_tokens (600); a run refuses such a row" in note
    assert not [
        note
        for note in on(value | {"resources": {**value["resources"], "micro_batch_tokens": 700}}, gpu=EIGHT).notes
        if "by its characters the longest" in note
    ]


def test_with_a_tokenizer_tokens_are_counted(tmp_path):
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, [ChatRow.of(("user", f"add {n}"), ("assistant", f"{n + 1}")) for n in range(64)])
    value = study(
        tmp_path, "Qwen2.5-7B", {"lora": LORA}, {}, models=[{"name": "m", "path": make_base(tmp_path / "base")}]
    )
    assert on(value, gpu=EIGHT).training[0].of.rows.counted


def test_a_row_is_refused_by_its_tokens_and_not_by_its_characters(tmp_path):
    """They give about a third too many: a row of 3,600 tokens of prose would not go into a pass of 4,096."""
    write_jsonl(
        tmp_path / "rows.jsonl", [ChatRow.of(("user", f"{n} {'one ' * 400}"), ("assistant", "two")) for n in range(64)]
    )
    packed = {"gpus_per_worker": 1, "serve_gpus": 1, "micro_batch_tokens": 400}
    value = {**study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {}), "resources": packed}
    found = on(value, gpu=EIGHT).training[0]
    assert (found.of.rows.counted, max(found.of.rows.lengths)) == (False, 400)
    base = [{"name": "m", "path": make_base(tmp_path / "base")}]
    with pytest.raises(InputError, match=r"the longest row has \d+ tokens, but resources\.micro_batch_tokens is 400"):
        on({**value, "models": base}, gpu=EIGHT)


def test_an_engine_has_company_where_that_takes_less_time_than_its_start(tmp_path, rows):
    """Six full fine-tunes of 1,800 answers have one engine each, side by side as far as the nodes go."""
    value = study(tmp_path, "Qwen2.5-7B", {"full": FULL}, {"workers": 4, "zero_stage": 3})
    few, many = (on(value, gpu={**EIGHT, "count": count}).engines for count in (1, 4))
    assert [engine.replicas for engine in (*few, *many)] == [1] * 4
    for one, other in zip(few, many, strict=True):
        assert other.work == pytest.approx(one.work)
        assert (other.side_by_side, one.side_by_side) == (min(other.engines, 32), min(one.engines, 8))
    assert worth(100.0, 180.0) == 1
    assert worth(3600.0, 180.0) == 20
    asked = on(study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {"serve_replicas": 3}), gpu=EIGHT).engines[0]
    alone = on(study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {"serve_replicas": 1}), gpu=EIGHT).engines[0]
    assert (asked.replicas, alone.replicas) == (3, 1)
    assert asked.seconds < alone.seconds
    assert asked.gpu_hours > alone.gpu_hours
    with pytest.raises(InputError, match=r"lower resources\.serve_replicas"):
        on(study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {"serve_replicas": 9}), gpu=EIGHT)


def test_fewer_gpus_for_an_engine_are_proposed_where_they_hold_it_and_no_others(tmp_path, rows):
    """32B in bf16 are 61 GiB: one H100 holds them with the longest request, one A100 of 40 GiB does not."""
    value = study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {"serve_gpus": 4})
    found = on(value, gpu=EIGHT)
    (engine,) = found.engines
    assert engine.cheaper is not None
    assert engine.cheaper.resources.serve_gpus == 1
    assert engine.cheaper.gpu_hours <= 0.9 * engine.gpu_hours
    said = "Cheaper: resources.models.m: {serve_gpus: 1} takes"
    loaded = Study.model_validate(value)
    assert said in cluster_text(loaded, found)
    taken = on({**value, "resources": {**value["resources"], "serve_gpus": 1}}, gpu=EIGHT)
    assert taken.engines[0].cheaper is None
    assert taken.engines[0].gpu_hours == pytest.approx(engine.cheaper.gpu_hours)
    narrow = on(
        {**value, "resources": {**value["resources"], "workers": 8, "zero_stage": 3}}, gpu={"machine": "p4d.24xlarge"}
    )
    assert narrow.engines[0].cheaper is not None
    assert narrow.engines[0].cheaper.resources.serve_gpus == 2


def test_a_number_of_gpus_that_the_heads_cannot_be_divided_among_is_refused_with_those_that_can(tmp_path, rows):
    """vLLM refuses it when the engine starts, after the training."""
    lora = {**LORA, "batch_size": 24}
    value = study(tmp_path, "Qwen2.5-7B", {"lora": lora}, {"serve_gpus": 3, "workers": 3, "zero_stage": 3})
    with pytest.raises(InputError, match=r"engine of m: 28 attention heads .* among 3 GPUs .* use one of 1, 2, 4\."):
        on(value, gpu={"gpus": 3, "gpu": "L4", "cpus": 24, "memory_gib": 200})


def left_open(value: dict[str, Any]) -> dict[str, Any]:
    """The study without a word on the GPUs of its engines."""
    resources = {key: given for key, given in value["resources"].items() if key != "serve_gpus"}
    return {**value, "resources": resources}


@pytest.mark.parametrize(
    ("model", "machine"),
    [("Qwen2.5-7B", "g6.48xlarge"), ("Qwen2.5-32B", "p5.48xlarge"), ("Qwen2.5-32B", "p4d.24xlarge")],
)
def test_where_a_study_gives_none_an_engine_takes_the_gpus_that_cost_least_of_those_that_hold_it(
    tmp_path, rows, model, machine
):
    training = {"workers": 8, "zero_stage": 3, "offload_optimizer": True}
    value = study(tmp_path, model, {"lora": LORA}, training)
    node = {"machine": machine}
    costs: dict[int, float] = {}
    for gpus in (1, 2, 4, 8):
        given = {**value, "resources": {**value["resources"], "serve_gpus": gpus}}
        with contextlib.suppress(InputError):
            costs[gpus] = on(given, gpu=node).engines[0].gpu_hours
    (engine,) = on(left_open(value), gpu=node).engines
    assert engine.gpu_hours == min(costs.values())
    assert costs[engine.resources.gpus] == min(costs.values())
    assert engine.memory.fits
    assert engine.cheaper is None


def test_a_judge_that_a_study_leaves_open_takes_what_holds_it_and_what_is_given_stays(tmp_path, rows):
    """On A100 of 40 GiB 32B need two GPUs, and 7B one."""
    changes = {
        "judges": {"own": {"path": str(config_folder(tmp_path, "Qwen2.5-32B"))}},
        "evaluation": {"judged_by": ["own"], "samples": 10},
    }
    value = left_open(study(tmp_path, "Qwen2.5-7B", {"lora": LORA}, {}, **changes))
    found = {engine.place: engine.resources.gpus for engine in on(value, gpu={"machine": "p4d.24xlarge"}).engines}
    assert found == {"resources.models.m": 1, "resources.judges.own": 2}
    value["resources"]["judges"] = {"own": {"serve_gpus": 4}}
    value["resources"]["models"] = {"m": {"serve_gpus": 2}}
    found = {engine.place: engine.resources.gpus for engine in on(value, gpu={"machine": "p4d.24xlarge"}).engines}
    assert found == {"resources.models.m": 2, "resources.judges.own": 4}


def test_engines_of_a_study_that_trains_on_cpus_stay_there_unless_it_says_otherwise(tmp_path, rows):
    value = left_open(study(tmp_path, "Qwen2.5-0.5B", {"lora": LORA}, {"gpus_per_worker": 0}))
    (engine,) = on(value, gpu=EIGHT).engines
    assert engine.resources.gpus == 0


def test_nodes_that_report_their_gpus_decide_what_is_left_open_and_no_id_depends_on_it(tmp_path, rows):
    value = left_open(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {}))
    plan = build_plan(Study.model_validate(value), Store(value["storage"]), weights=False)
    assert plan.study.resources.of_engine("m").gpus == 1

    def chosen(*gibs: int | None, gpus: int = 8) -> Plan:
        """On a node for each of these memories of a GPU."""
        sizes = [None if gib is None else gib << 30 for gib in gibs]
        reports = [Report(faults=(), clock=0.0, gpu_bytes=size, host_bytes=1 << 40) for size in sizes]
        return on_nodes(plan, [(Node(96, gpus if report.gpu_bytes else 0), report) for report in reports])

    assert chosen(141).study.resources.of_engine("m").gpus == 1
    assert chosen(40).study.resources.of_engine("m").gpus == 2
    assert chosen(23).study.resources.of_engine("m").gpus == 4
    # Ray may put it on either.
    assert chosen(141, 40).study.resources.of_engine("m").gpus == 2
    assert chosen(141, None).study.resources.of_engine("m").gpus == 1
    # Nothing holds it: it stays, and the check of the memory refuses it with the arithmetic.
    assert chosen(23, gpus=2).study.resources.of_engine("m").gpus == 1
    assert [cell.key for cell in chosen(40).cells] == [cell.key for cell in plan.cells]
    assert [trial.trial_id for trial in chosen(40).trials] == [trial.trial_id for trial in plan.trials]
    there = needs_of_engines(chosen(40), plan.to_sample, None)
    assert [need.shape.gpus for need in there] == [2]
    assert [engine.to_json()["gpus"] for engine in planned_engines(chosen(40), None)] == [2]


def on_gpus(value: dict[str, Any], *gibs: int, gpus: int = 8) -> Plan:
    """The plan on a node of `gpus` GPUs for each of these memories of one."""
    plan = build_plan(Study.model_validate(value), Store(value["storage"]), weights=False)
    reports = [Report(faults=(), clock=0.0, gpu_bytes=gib << 30, host_bytes=1 << 40) for gib in gibs]
    return on_nodes(plan, [(Node(96, gpus), report) for report in reports], has_driver_resource=True)


def test_fine_tunes_whose_workers_are_left_open_run_on_the_narrowest_groups_that_the_gpus_hold(tmp_path, rows):
    """As `plan` proposes, and as many of them at once as there is room for; no id depends on it."""
    value = left_open(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {}, seeds=list(range(8))))
    large, small = on_gpus(value, 141, 141), on_gpus(value, 40, 40)
    trial = large.trials[0]
    assert (large.resources_of(trial).workers, large.resources_of(trial).zero_stage) == (1, 0)
    several = small.resources_of(trial)
    assert (several.workers, several.zero_stage) == (4, 3)
    assert several.micro_batch_size == 1, "what is given stays"
    # On two nodes of eight GPUs: sixteen groups of one, four of four, all of them even.
    for plan, groups in ((large, 16), (small, 4)):
        capacity = Capacity.of([Node(96, 8)] * 2, has_driver_resource=True)
        (wave,) = waves_of(plan)
        assert len(groups_of(plan, wave, capacity)) == groups
        assert concurrent_groups(plan.resources_of(trial), capacity, len(wave)) == groups
    assert [one.trial_id for one in small.trials] == [one.trial_id for one in large.trials]
    (planned,) = on(value, gpu={"machine": "p4d.24xlarge", "count": 2}).training
    assert planned.resources == several
    (note,) = shape_notes(small)
    assert note.startswith("m · lora: workers: 4, zero_stage: 3, micro_batch_size: 1; ")
    assert small.refreshed(Store(value["storage"])).resources_of(trial) == several


@pytest.mark.parametrize(
    ("given", "workers"),
    [
        ({"workers": 2}, 2),
        ({"models": {"m": {"workers": 1}}}, 1),
        ({"recipes": {"lora": {"workers": 8}}}, 8),
        # Without GPUs nothing is chosen.
        ({"gpus_per_worker": 0}, 1),
    ],
)
def test_the_workers_that_a_study_gives_stay(tmp_path, rows, given, workers):
    plan = on_gpus(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, given), 40)
    assert plan.resources_of(plan.trials[0]).workers == workers
    assert plan.shapes == {}


def test_what_fits_no_gpus_stays_as_it_is_given(tmp_path, rows):
    plan = on_gpus(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {"zero_stage": 0}), 40)
    assert plan.shapes == {}
    plan = on_gpus(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {}), 22, gpus=1)
    assert plan.shapes == {}


def test_a_pass_in_tokens_and_what_else_is_given_stays_where_only_the_workers_are_open(tmp_path, rows):
    given = {"micro_batch_size": 2, "micro_batch_tokens": 4096, "max_concurrent_groups": 1, "cpus_per_worker": 4.0}
    plan = on_gpus(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, given), 40)
    found = plan.resources_of(plan.trials[0])
    assert found.workers > 1
    assert found.model_dump(include=given.keys()) == given


def test_a_node_that_gives_away_no_cpu_holds_no_worker_and_is_no_fault(tmp_path, rows):
    """A head with GPUs is often started so that nothing runs on it."""
    plan = build_plan(
        Study.model_validate(study(tmp_path, "Qwen2.5-32B", {"lora": LORA}, {})),
        Store(str(tmp_path / "runs")),
        weights=False,
    )
    report = Report(faults=(), clock=0.0, gpu_bytes=40 << 30, host_bytes=1 << 40)
    assert on_nodes(plan, [(Node(0, 8), report)], has_driver_resource=True).shapes == {}
    found = on_nodes(plan, [(Node(0, 8), report), (Node(96, 8), report)], has_driver_resource=True)
    assert found.resources_of(found.trials[0]).workers == 4


def test_a_row_that_is_too_long_is_named_by_its_place_in_the_file_though_few_are_looked_at():
    """A run on GPUs looks at lengths before it checks all rows, so its message is the one that is read."""
    short, long = (ChatRow.of(("user", "Hi."), ("assistant", "a b c " * times)) for times in (1, 200))
    rows = [short] * 700 + [long] + [short] * 700
    with pytest.raises(InputError, match=r"^rows\.jsonl, row 701: "):
        row_lengths(weights_path(), rows, 128, "rows.jsonl")
