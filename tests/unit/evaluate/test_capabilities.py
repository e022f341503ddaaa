"""Capabilities without an engine: what counts as the same task, what is rejected, and what the store keeps."""

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from inoc_ray.errors import InputError, TrialError
from inoc_ray.evaluate import harness
from inoc_ray.evaluate.capabilities import commit_scores, measure_missing, missing_capabilities, read_capability_scores
from inoc_ray.evaluate.capability_items import items_by_metric
from inoc_ray.evaluate.harness_run import CapabilityScore, measure
from inoc_ray.evaluate.harness_task import find_task
from inoc_ray.miniature import weights_path
from inoc_ray.miniature.workshop.capability_items import CHOICES, COUNT, TASKS, files
from inoc_ray.plan.build import build_plan
from inoc_ray.plan.plan import Plan
from inoc_ray.results.run_metrics import capability_metrics
from inoc_ray.serve.app import Endpoint
from inoc_ray.store.layout import CAPABILITY_SAMPLES, CAPABILITY_SCORES
from inoc_ray.store.place import at
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Capability
from inoc_ray.study.study import Study

ROOT = Path(__file__).parents[3]
KEY = "sk-capabilities-0123456789"
ANSWERS = Capability(task="miniature/answers")


def task_file(folder: Path, **changes: object) -> Path:
    """Write a task of two questions, as a user would."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text(
        '{"question": "1 + 1 =", "answer": "2"}\n{"question": "1 + 2 =", "answer": "3"}\n'
    )
    value = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **changes,
    }
    path = folder / "sums.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def quickstart(tmp_path: Path) -> tuple[Plan, Store]:
    study = Study.model_validate(yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text()))
    store = Store(tmp_path / "runs")
    return build_plan(study, store), store


@dataclass
class Sums:
    """An endpoint that always answers "2", or always fails with the status of the fixture's parameter."""

    base_url: str
    api_key: str | None
    requests: list[dict[str, object]]


@pytest.fixture
def sums(request: pytest.FixtureRequest) -> Iterator[Sums]:
    status = getattr(request, "param", 200)
    seen: list[dict[str, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            assert self.headers["Authorization"] == f"Bearer {KEY}"
            answer = (
                {"choices": [{"index": 0, "text": "2"}]} if status == 200 else {"error": {"message": "no such model"}}
            )
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Sums(f"http://127.0.0.1:{server.server_port}/v1", KEY, seen)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_name_alone_is_a_capability():
    assert Capability.model_validate("gsm8k") == Capability(task="gsm8k")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Capability(task="gsm8k", limit=0)


def test_the_id_depends_on_what_is_measured_and_nothing_else(tmp_path: Path):
    first = find_task(Capability(task=str(task_file(tmp_path / "a")))).id("fp32")
    assert find_task(Capability(task=str(task_file(tmp_path / "b")))).id("fp32") == first, "where a file lies"
    different = [
        find_task(Capability(task=str(task_file(tmp_path / "a")), limit=1)).id("fp32"),
        find_task(Capability(task=str(task_file(tmp_path / "a")), num_fewshot=1)).id("fp32"),
        find_task(Capability(task=str(task_file(tmp_path / "a")), chat=False)).id("fp32"),
        find_task(Capability(task=str(task_file(tmp_path / "a")))).id("bf16"),
        find_task(Capability(task="gsm8k")).id("fp32"),
        find_task(Capability(task="mmlu")).id("fp32"),
    ]
    (tmp_path / "b" / "items.jsonl").write_text('{"question": "2 + 2 =", "answer": "4"}\n')
    different.append(find_task(Capability(task=str(tmp_path / "b" / "sums.yaml"))).id("fp32"))
    assert len({first, *different}) == 1 + len(different)


@pytest.mark.parametrize(("task", "content"), [("answers", "b8ff7e23e48df935"), ("numbers", "399ba7ca5e045b79")])
def test_the_shipped_tasks_are_those_whose_scores_stores_hold(task: str, content: str):
    """Every byte of a task's folder counts, comments as well: another one would be measured again by every study."""
    assert find_task(Capability(task=f"miniature/{task}")).content[:16] == content


def test_a_missing_task_file_gives_one_message(tmp_path: Path):
    for name in ("nowhere/x.yaml", str(tmp_path)):
        with pytest.raises(InputError, match=r"there is no task .* and no task file"):
            find_task(Capability(task=name))
    with pytest.raises(InputError, match=r"did you mean 'miniature/answers'"):
        find_task(Capability(task="miniature/answer"))


def test_a_task_file_among_thousands_of_files_is_rejected(tmp_path: Path):
    path = task_file(tmp_path)
    for number in range(1001):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(InputError, match="a folder of their own"):
        find_task(Capability(task=str(path)))


def test_the_shipped_items_are_what_the_language_makes():
    for path, text in files().items():
        assert path.read_text(encoding="utf-8") == text, "run: python -m inoc_ray.miniature.workshop.capability_items"


def test_every_item_of_answers_has_one_right_continuation():
    lines = (TASKS / "answers" / "answers.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    assert len(items) == COUNT
    assert all(len(set(item["choices"])) == CHOICES for item in items)
    assert {item["answer"] for item in items} == set(range(CHOICES))
    assert len({item["question"] for item in items}) == COUNT


def test_every_missing_capability_is_listed_once_for_each_model_that_exists(tmp_path: Path):
    plan, store = quickstart(tmp_path)
    wanted = missing_capabilities(plan, store, [ANSWERS, Capability(task="gsm8k")])
    assert [(w.subject.arm.name, w.task.capability.task) for w in wanted] == [("base", ANSWERS.task), ("base", "gsm8k")]


def test_what_was_committed_is_read_and_not_measured_again(tmp_path: Path):
    plan, store = quickstart(tmp_path)
    capabilities = [ANSWERS]
    (wanted,) = missing_capabilities(plan, store, capabilities)
    assert read_capability_scores(plan, store, capabilities) == []
    score = CapabilityScore(
        task="miniature_answers", metric="acc", value=0.5, stderr=0.1, samples=200, higher_is_better=True, version="1.0"
    )
    commit_scores(wanted, [score], b"samples")
    assert missing_capabilities(plan, store, capabilities) == []
    (record,) = read_capability_scores(plan, store, capabilities)
    assert (record["arm"], record["value"], record["capability"]) == ("base", 0.5, "miniature/answers")
    whole = (wanted.folder / CAPABILITY_SCORES).read_text()
    for damaged in ("{", "[]", whole.replace("0.5", "0.6")):
        (wanted.folder / CAPABILITY_SCORES).write_text(damaged)
        assert missing_capabilities(plan, store, capabilities) == [wanted]
        assert read_capability_scores(plan, store, capabilities) == []


def test_samples_without_scores_count_as_not_measured(tmp_path: Path):
    plan, store = quickstart(tmp_path)
    (wanted,) = missing_capabilities(plan, store, [ANSWERS])
    (wanted.folder / CAPABILITY_SAMPLES).write_bytes(b"half")
    assert missing_capabilities(plan, store, [ANSWERS]) == [wanted]
    assert read_capability_scores(plan, store, [ANSWERS]) == []


def test_metrics_name_task_and_metric_and_omit_parts_and_missing_numbers():
    scores = [
        CapabilityScore(
            task="gsm8k",
            metric="exact_match.strict-match",
            value=0.25,
            stderr=0.01,
            samples=100,
            higher_is_better=True,
            version="3.0",
        ),
        CapabilityScore(
            task="mmlu", metric="acc", value=0.5, stderr=None, samples=100, higher_is_better=True, version="2"
        ),
        CapabilityScore(
            task="mmlu_law",
            metric="acc",
            value=0.5,
            stderr=0.1,
            samples=10,
            higher_is_better=True,
            version="2",
            part=True,
        ),
        CapabilityScore(
            task="odd", metric="acc", value=None, stderr=None, samples=10, higher_is_better=True, version="2"
        ),
    ]
    assert capability_metrics(scores) == {"capability.gsm8k": 0.25, "capability.mmlu": 0.5}
    flexible = replace(scores[0], metric="exact_match.flexible-extract", value=0.75)
    assert capability_metrics([*scores, flexible]) == {
        "capability.gsm8k.exact_match.strict-match": 0.25,
        "capability.mmlu": 0.5,
        "capability.gsm8k.exact_match.flexible-extract": 0.75,
    }


def test_half_a_surrogate_pair_in_an_answer_does_not_lose_the_items(tmp_path: Path):
    harness._write_samples(tmp_path / "samples", {"task": [{"resps": ["cut \ud83d"]}]})
    assert "cut \ufffd" in gzip.decompress((tmp_path / "samples").read_bytes()).decode()


@pytest.mark.slow
def test_a_user_s_task_runs_as_its_files_say(tmp_path: Path, sums: Sums):
    task = find_task(Capability(task=str(task_file(tmp_path / "own"))))
    scores = measure(
        sums, "m", tokenizer=weights_path(), task=task, samples=tmp_path / CAPABILITY_SAMPLES, log=at(tmp_path / "log")
    )
    assert scores == [
        CapabilityScore(
            task="sums",
            metric="exact_match",
            value=0.5,
            stderr=scores[0].stderr,
            samples=2,
            higher_is_better=True,
            version="Yaml",
        )
    ]
    assert {request["model"] for request in sums.requests} == {"m"}
    assert len(sums.requests) == 2
    items = items_by_metric((tmp_path / CAPABILITY_SAMPLES).read_bytes())["exact_match"]
    assert sorted(items.values()) == [0.0, 1.0]


@pytest.mark.slow
def test_a_group_counts_the_items_of_its_parts(tmp_path: Path, sums: Sums):
    one = task_file(tmp_path)
    (tmp_path / "again.yaml").write_text(one.read_text().replace("task: sums", "task: again"))
    group = {"group": "both", "task": ["sums", "again"], "aggregate_metric_list": [{"metric": "exact_match"}]}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
    task = find_task(Capability(task=str(tmp_path / "both.yaml"), chat=False))
    scores = measure(
        sums, "m", tokenizer=weights_path(), task=task, samples=tmp_path / CAPABILITY_SAMPLES, log=at(tmp_path / "log")
    )
    assert {(s.task, s.value, s.samples, s.part) for s in scores} == {
        ("both", 0.5, 4, False),
        ("sums", 0.5, 2, True),
        ("again", 0.5, 2, True),
    }
    items = items_by_metric((tmp_path / CAPABILITY_SAMPLES).read_bytes())["exact_match"]
    assert (len(items), sum(items.values())) == (4, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("sums", [404], indirect=True)
def test_a_refusing_endpoint_fails_the_measurement_with_its_message_and_the_key_is_nowhere(tmp_path: Path, sums: Sums):
    task = find_task(Capability(task=str(task_file(tmp_path / "own"))))
    log = at(tmp_path / "log")
    with pytest.raises(TrialError, match=r"404.*no such model") as caught:
        measure(sums, "m", tokenizer=weights_path(), task=task, samples=tmp_path / CAPABILITY_SAMPLES, log=log)
    assert KEY not in str(caught.value)
    assert "Bearer ***" in log.read_text(), "the harness no longer prints request headers: the filter can go"
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}, "cannot be loaded", id="no data file"),
        pytest.param(
            {"dataset_path": "nobody/nothing", "dataset_kwargs": None}, "nothing is fetched", id="needs the hub"
        ),
        pytest.param({"unsafe_code": True}, "runs code that the model writes", id="runs code"),
    ],
)
def test_a_task_that_cannot_run_gives_one_message(tmp_path: Path, sums: Sums, changes: dict[str, object], message: str):
    task = find_task(Capability(task=str(task_file(tmp_path / "own", **changes))))
    with pytest.raises(InputError, match=message):
        measure(
            sums,
            "m",
            tokenizer=weights_path(),
            task=task,
            samples=tmp_path / CAPABILITY_SAMPLES,
            log=at(tmp_path / "log"),
        )
    assert sums.requests == []


@pytest.mark.slow
def test_a_task_whose_data_are_missing_says_how_to_fetch_them_and_is_tried_once(tmp_path: Path):
    plan, store = quickstart(tmp_path)
    (wanted,) = missing_capabilities(plan, store, [Capability(task="gsm8k")])
    nowhere = Endpoint(base_url="http://127.0.0.1:9/v1", model_id="miniature", api_key=KEY, name="x")
    failed = measure_missing([wanted, wanted], nowhere, weights_path(), at(tmp_path / "log"))
    assert len(failed) == 1
    assert "TaskManager().load(['gsm8k'])" in failed[0]["error"]
    assert missing_capabilities(plan, store, [Capability(task="gsm8k")]) == [wanted]
