"""Other people's clients against `inoc-ray serve`, unmodified: openai, lm-evaluation-harness, inspect-ai.

One endpoint for all of them, started by the command itself and closed with a key that must appear in no output. The miniature's
base and one adapter answer; the adapter is random, so that its answers differ, and stands in the store as a trial would.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from browser import chromium, needs_chromium

from inoc_ray.evaluate.capabilities import measure_missing, missing_capabilities, read_capability_scores
from inoc_ray.evaluate.harness_run import CONCURRENCY
from inoc_ray.evaluate.harness_task import find_task
from inoc_ray.miniature import weights_path
from inoc_ray.miniature.workshop.capability_items import TASKS
from inoc_ray.plan.build import build_plan
from inoc_ray.serve.app import Endpoint
from inoc_ray.store.commit import write_trial
from inoc_ray.store.place import at
from inoc_ray.store.store import Store
from inoc_ray.study.evaluation import Capability
from inoc_ray.study.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parents[1] / "helpers"
BIN = Path(sys.executable).parent
KEY = "sk-stock-clients-0123456789"
INSPECT = "inspect-ai==0.3.258"
"""Not in the lock: it needs other versions of shared packages, and only its users need it."""
START_S = 300
NAME = "clients/baseline/seed-0"
QUESTION = [{"role": "user", "content": "Tell me about trains."}]


def save_adapter(folder: Path) -> None:
    """A LoRA adapter of the miniature's base that changes its answers visibly."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["gate_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(weights_path()), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


@dataclass
class World:
    base_url: str
    adapter: str
    """The adapter's name."""
    content_id: str
    folder: Path
    log: Path
    study: Study
    store: Store

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=key, max_retries=0)

    def run(self, command: list[Any], cwd: Path, **more: str) -> str:
        """What a client said, in a fresh environment; the key must not be in it, whatever it said."""
        dropped = ("RAY_", "OPENAI_", "INOC_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**env, "HF_HUB_OFFLINE": "1", **more},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        assert KEY not in done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("clients")
    value = yaml.safe_load((ROOT / "jobs" / "studies" / "quickstart.yaml").read_text())
    value |= {"name": "clients", "arms": ["baseline"], "seeds": [0], "storage": str(folder / "runs")}
    (folder / "clients.yaml").write_text(yaml.safe_dump(value))
    study, store = Study.model_validate(value), Store(folder / "runs")
    (trial,) = build_plan(study, store).trials
    with store.stage_trial(trial.trial_id) as staged:
        save_adapter(staged / "adapter")
        write_trial(staged, {"model_hash": trial.model.hash, "recipe": {"method": "lora"}}, [])
    log = folder / "serve.log"
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen(
        [BIN / "inoc-ray", "serve", folder / "clients.yaml", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=log.open("wb"),
        env={**env, "INOC_RAY_API_KEY": KEY},
        start_new_session=True,
    )
    try:
        base_url = wait_for_address(process, log)
        yield World(base_url, NAME, f"miniature:{trial.trial_id}", folder, log, study, store)
    finally:
        # As a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took = time.monotonic() - began
    said = log.read_text(errors="replace")
    assert KEY not in said
    assert process.returncode == 130, said
    assert took < 10, said
    assert "stopped by Ctrl-C; nothing is served any more." in said


def wait_for_address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_S
    said = b""
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([process.stdout], [], [], 1)[0]:
            said += os.read(process.stdout.fileno(), 65536)
            if found := re.search(rb"Serving at (\S+)", said):
                return found[1].decode()
    raise AssertionError(f"inoc-ray serve did not come up: {log.read_text(errors='replace')[-4000:]}")


def test_openai_lists_the_base_and_the_adapter_for_those_with_the_key(world: World):
    assert [(model.id, model.root) for model in world.client().models.list()] == [
        ("clients/base", "miniature"),
        (NAME, world.content_id),
    ]
    assert world.client().models.retrieve(NAME) == world.client().models.retrieve(world.content_id)
    with pytest.raises(openai.AuthenticationError) as caught:
        world.client("wrong").models.list()
    assert KEY not in str(caught.value)


def test_openai_chats_with_the_base_and_with_an_adapter(world: World):
    said = {}
    for model in ("miniature", "clients/base", world.adapter, world.content_id):
        chat = world.client().chat.completions.create(model=model, messages=QUESTION, max_tokens=24, temperature=0)
        # The id of the weights, whatever they were called.
        assert chat.model == (world.content_id if model in (NAME, world.content_id) else "miniature")
        said[model] = chat.choices[0].message.content
    assert all(said.values())
    assert said["miniature"] == said["clients/base"] != said[world.adapter] == said[world.content_id]


def test_openai_is_told_what_the_endpoint_does_not_do(world: World):
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="tools are not served"):
        world.client().chat.completions.create(model=NAME, messages=QUESTION, tools=[tool])
    with pytest.raises(openai.InternalServerError, match="the Responses API is not served") as caught:
        world.client().responses.create(model=NAME, input="Tell me about trains.")
    assert caught.value.status_code == 501


@needs_chromium
def test_the_chat_page_asks_the_base_and_an_adapter(world: World, tmp_path: Path):
    with chromium(tmp_path / "profile") as browser:
        browser.get(world.base_url.removesuffix("v1"))
        wait_until(lambda: browser.find_element("id", "key").is_displayed())
        browser.find_element("id", "key").send_keys(KEY + "\n")
        wait_until(lambda: browser.find_elements("css selector", "#left-model option"))
        browser.find_element("id", "question").send_keys(QUESTION[0]["content"] + "\n")
        wait_until(lambda: browser.find_elements("css selector", ".thread .user"))
        wait_until(lambda: browser.find_element("id", "ask").is_enabled())
        told = [found.text for found in browser.find_elements("css selector", ".thread .assistant .words")]
        assert len(told) == 2
        assert all(told)
        assert told[0] != told[1]


def wait_until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_openai_chats_with_logprobs_and_several_choices(world: World):
    chat = world.client().chat.completions.create(
        model="miniature", messages=QUESTION, max_tokens=8, n=3, seed=1, logprobs=True, top_logprobs=5
    )
    assert [choice.index for choice in chat.choices] == [0, 1, 2]
    for choice in chat.choices:
        assert choice.logprobs is not None
        assert all(len(token.top_logprobs) >= 5 for token in choice.logprobs.content or [])
        assert choice.logprobs.content


def test_openai_streams_what_it_says_at_once(world: World):
    settings: dict[str, Any] = {"model": world.adapter, "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    whole = world.client().chat.completions.create(**settings).choices[0].message.content
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in world.client().chat.completions.create(**settings, stream=True)
    ]
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join(pieces) == whole


def test_openai_completes_text_and_echoes_the_logprobs_of_a_prompt_given_as_tokens(world: World):
    from transformers import AutoTokenizer

    prompts = [
        AutoTokenizer.from_pretrained(weights_path())(text).input_ids for text in ("The old streets", "I like rice")
    ]
    done = world.client().completions.create(
        model="miniature", prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True
    )
    for choice, prompt in zip(done.choices, prompts, strict=True):
        assert choice.logprobs is not None
        logprobs = choice.logprobs.token_logprobs or []
        assert len(logprobs) == len(prompt) + 1
        assert logprobs[0] is None
        assert all(value is not None and value <= 0 for value in logprobs[1:])


def accuracy(said: str, task: str) -> float:
    """The value in the table that `lm_eval` prints."""
    (row,) = [line for line in said.splitlines() if line.startswith(f"|{task}")]
    return float(row.split("|")[7])


def test_lm_eval_local_chat_completions_measures_a_generation_task(world: World):
    model = f"model=miniature,base_url={world.base_url}/chat/completions,num_concurrent=4,max_length=512"
    command = [
        BIN / "lm_eval",
        "--model",
        "local-chat-completions",
        "--model_args",
        model,
        "--tasks",
        "numbers.yaml",
        "--apply_chat_template",
        "--limit",
        "20",
    ]
    said = world.run(command, TASKS / "numbers", OPENAI_API_KEY=KEY)
    assert accuracy(said, "miniature_numbers") >= 0.9


def test_lm_eval_local_completions_measures_a_log_likelihood_task_as_our_own_measure_does(world: World):
    limit = 40
    args = f"base_url={world.base_url}/completions,tokenizer={weights_path()},num_concurrent=4,max_length=512"
    theirs = {}
    for model in ("miniature", world.adapter):
        command = [
            BIN / "lm_eval",
            "--model",
            "local-completions",
            "--model_args",
            f"model={model},{args}",
            "--tasks",
            "answers.yaml",
            "--apply_chat_template",
            "--limit",
            limit,
        ]
        said = world.run(command, TASKS / "answers", OPENAI_API_KEY=KEY)
        theirs[model] = accuracy(said, "miniature_answers")
    capabilities = [Capability(task="miniature/answers", limit=limit)]
    plan = build_plan(world.study, world.store)
    wanted = missing_capabilities(plan, world.store, capabilities)
    assert [one.subject.arm.name for one in wanted] == ["base", "baseline"]
    endpoint = Endpoint(base_url=world.base_url, model_id="miniature", api_key=KEY, name="clients")
    assert measure_missing(wanted, endpoint, weights_path(), at(world.folder / "harness.log"), CONCURRENCY) == []
    ours = [round(record["value"], 4) for record in read_capability_scores(plan, world.store, capabilities)]
    print(f"answers, {limit} items: base {theirs['miniature']}, random adapter {theirs[world.adapter]}; ours {ours}")
    assert ours == list(theirs.values())
    # Four standard errors above chance, .25: sqrt(.25 * .75 / 40) is .068.
    assert theirs["miniature"] >= 0.55
    assert missing_capabilities(plan, world.store, capabilities) == []


def test_our_own_measure_finds_the_base_capable_and_leaves_the_key_nowhere(world: World):
    capabilities = [Capability(task="miniature/answers"), Capability(task="miniature/numbers")]
    plan = build_plan(world.study, world.store)
    wanted = [one for one in missing_capabilities(plan, world.store, capabilities) if one.subject.arm.name == "base"]
    endpoint = Endpoint(base_url=world.base_url, model_id="miniature", api_key=KEY, name="clients")
    assert measure_missing(wanted, endpoint, weights_path(), at(world.folder / "harness.log"), CONCURRENCY) == []
    values = {
        record["capability"]: record["value"] for record in read_capability_scores(plan, world.store, capabilities)
    }
    print(f"base: {values}")
    assert values["miniature/answers"] >= 0.7
    assert values["miniature/numbers"] >= 0.95
    folder = world.store.capability(plan.bases[0].model.hash[:16], find_task(capabilities[0]).id("fp32"))
    assert sorted(path.name for path in folder.iterdir()) == ["samples.jsonl.gz", "scores.json"]
    for path in (*folder.iterdir(), world.folder / "harness.log"):
        assert KEY.encode() not in path.read_bytes()


@pytest.fixture(scope="module")
def inspect_ai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with inspect-ai, made for this test; skipped where no package index is reached."""
    folder = tmp_path_factory.mktemp("inspect") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [
        folder / "bin" / "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        INSPECT,
        "openai",
    ]
    try:
        done = subprocess.run(pip, capture_output=True, text=True, timeout=480, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{INSPECT} could not be installed in 480 s")
    if done.returncode:
        pytest.skip(f"{INSPECT} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin"


def test_inspect_eval_asks_the_base_and_an_adapter(world: World, inspect_ai: Path):
    for model in ("miniature", world.adapter):
        logs = world.folder / "inspect" / model.replace("/", "-")
        command = [
            inspect_ai / "inspect",
            "eval",
            "inspect_task.py",
            "--model",
            f"openai-api/inoc/{model}",
            "--log-dir",
            logs,
            "--log-format",
            "json",
            "--display",
            "plain",
        ]
        world.run(command, HERE, INOC_API_KEY=KEY, INOC_BASE_URL=world.base_url)
        (path,) = logs.glob("*.json")
        text = path.read_text()
        assert KEY not in text
        log = json.loads(text)
        assert log["status"] == "success"
        assert log["results"]["completed_samples"] == 3
        assert all(sample["output"]["completion"] for sample in log["samples"])
        if model == "miniature":
            assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 1.0
