"""One real engine behind Ray Serve (vLLM on the CPU), asked through the stock `openai` client.

The model is random and tiny: what is tested is that the endpoint answers with the right weights, not what they say.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from tiny_adapter import save_adapter, train_adapter

from inoc_ray.cluster.connect import connected
from inoc_ray.endpoint.completions import SampleRequest, SampleResult, sample
from inoc_ray.errors import InputError
from inoc_ray.serve.adapters import FolderCatalogue, FullModel
from inoc_ray.serve.app import Endpoint, serving, start
from inoc_ray.serve.listing import Listing, ServedModel
from inoc_ray.serve.spec import ServeSpec
from inoc_ray.store.commit import write_commit
from inoc_ray.store.place import at
from inoc_ray.store.store import Store

pytestmark = pytest.mark.slow

BASE = "tiny"
MAX_LEN = 256
LONG = 1 << 20
KEY = "secret"
PROMPTS = ["the cat sat on", "a question about the weather", "asked in the city"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_base(folder: Path) -> None:
    """A random Qwen2 of 4 heads of 32, with a tokenizer made on the spot and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(PROMPTS * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=400,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LEN,
        tie_word_embeddings=True,
        eos_token_id=1,
        initializer_range=0.1,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


@dataclass
class World:
    base: Path
    trials: Path
    endpoint: Endpoint

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.endpoint.base_url, api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("serve")
    base, trials = folder / "base", folder / "trials"
    # First of all: Ray reads its authentication mode when it is imported, and other libraries import it too.
    with connected():
        save_base(base)
        save_adapter(base, trials / "aaaa", seed=1)
        save_adapter(base, trials / "bbbb", seed=2)
        save_adapter(base, trials / "wide", seed=3, rank=32)
        train_adapter(base, Store(folder), "kept", steps=4, checkpoints=(1, 2))
        # As many slots as adapters in a step: with all of them in use, vLLM's own CPU arithmetic gives the last adapter to
        # the base model's tokens too.
        spec = ServeSpec(
            model=base,
            model_id=BASE,
            adapters=FolderCatalogue(trials),
            max_lora_rank=8,
            max_loras=2,
            dtype="float32",
            api_key=KEY,
        )
        with serving(spec) as endpoint:
            yield World(base, trials, endpoint)


def complete(world: World, model: str, prompt: Any = PROMPTS[0], **settings: Any) -> Any:
    return world.client().completions.create(
        model=model, prompt=prompt, **{"max_tokens": 12, "temperature": 0, **settings}
    )


def test_the_base_and_every_committed_adapter_are_listed(world: World):
    listed = {card.id for card in world.client().models.list().data}
    assert {BASE, f"{BASE}:aaaa", f"{BASE}:bbbb"} <= listed
    assert world.client().models.retrieve(f"{BASE}:aaaa").id == f"{BASE}:aaaa"


def test_two_adapters_and_the_base_on_one_engine_answer_differently(world: World):
    texts = {complete(world, model).choices[0].text for model in (BASE, f"{BASE}:aaaa", f"{BASE}:bbbb")}
    assert len(texts) == 3


def test_weights_that_a_trial_kept_on_the_way_answer_by_their_step(world: World):
    """That each answers with its own weights is in the test of logprobs."""
    texts = {step: complete(world, f"{BASE}:kept{step}").choices[0].text for step in ("", "@2", "@1")}
    assert len(set(texts.values())) == 3
    together = draw(
        world,
        [
            SampleRequest(
                key=step,
                model=f"{BASE}:kept{step}",
                prompt=PROMPTS[0],
                max_tokens=12,
                temperature=0.0,
                top_p=1.0,
                seed=1,
            )
            for step in texts
        ],
        list_size=1,
        concurrency=3,
    )
    assert {step: result.text for step, result in together.items()} == texts


@pytest.mark.parametrize("adapter", [None, "aaaa", "bbbb", "kept", "kept@1", "kept@2"])
def test_logprobs_are_those_of_plain_peft(world: World, adapter: str | None):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(world.base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, FolderCatalogue(world.trials).fetch(adapter))
    tokenizer = AutoTokenizer.from_pretrained(world.base)
    worst = 0.0
    for prompt in PROMPTS:
        answer = complete(
            world,
            BASE if adapter is None else f"{BASE}:{adapter}",
            prompt,
            logprobs=5,
            extra_body={"return_token_ids": True},
        ).choices[0]
        ids = tokenizer(prompt).input_ids
        assert answer.model_extra["prompt_token_ids"] == ids
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer.model_extra["token_ids"]])).logits[0]
        expected = logits.log_softmax(-1)
        for step, (token, logprob) in enumerate(
            zip(answer.model_extra["token_ids"], answer.logprobs.token_logprobs, strict=True)
        ):
            worst = max(worst, abs(float(expected[len(ids) - 1 + step, token]) - logprob))
    print(f"largest difference of a logprob, adapter {adapter}: {worst:.1e}")
    assert worst <= 1e-3


def test_chat_uses_the_template_of_the_model_folder(world: World):
    chat = world.client().chat.completions.create(
        model=f"{BASE}:aaaa", messages=[{"role": "user", "content": PROMPTS[0]}], max_tokens=8, temperature=0
    )
    rendered = f"<|im_start|>user\n{PROMPTS[0]}<|im_end|>\n<|im_start|>assistant\n"
    assert chat.choices[0].message.content == complete(world, f"{BASE}:aaaa", rendered, max_tokens=8).choices[0].text
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens


def test_chat_with_several_choices_and_logprobs(world: World):
    chat = world.client().chat.completions.create(
        model=f"{BASE}:bbbb",
        messages=[{"role": "user", "content": "the weather"}],
        max_tokens=6,
        temperature=1,
        n=4,
        seed=3,
        logprobs=True,
        top_logprobs=5,
    )
    assert len({choice.message.content for choice in chat.choices}) > 1
    tokens = chat.choices[0].logprobs.content
    assert all(len(token.top_logprobs) == 5 for token in tokens)
    assert all(token.logprob <= 0 for token in tokens)


def test_stop_and_max_tokens_end_an_answer(world: World):
    whole = complete(world, BASE, max_tokens=12)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    stop = whole.choices[0].text[4]
    cut = complete(world, BASE, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.text == whole.choices[0].text.split(stop)[0]


def test_the_same_seed_gives_the_same_text(world: World):
    def text(seed: int) -> str:
        return str(complete(world, f"{BASE}:aaaa", temperature=1, seed=seed, max_tokens=24).choices[0].text)

    assert text(7) == text(7)
    assert text(7) != text(8)


def test_a_list_of_prompts_is_answered_in_its_order(world: World):
    together = complete(world, f"{BASE}:aaaa", PROMPTS)
    alone = [complete(world, f"{BASE}:aaaa", prompt).choices[0].text for prompt in PROMPTS]
    assert [choice.text for choice in sorted(together.choices, key=lambda c: c.index)] == alone


def test_a_seeded_prompt_longer_than_one_step_of_the_engine_is_answered(world: World):
    long = [f"{i} " + "the cat sat " * 30 for i in range(64)]
    answer = complete(world, f"{BASE}:aaaa", long, temperature=1, seed=1, max_tokens=4)
    assert len(answer.choices) == 64


def draw(world: World, requests: list[SampleRequest], **settings: Any) -> dict[str, SampleResult]:
    async def run() -> dict[str, SampleResult]:
        return {r.key: r async for batch in sample(world.endpoint, requests, **settings) for r in batch}

    return asyncio.run(run())


def test_a_sample_does_not_depend_on_how_prompts_were_batched(world: World):
    requests = [
        SampleRequest(
            key=f"{model}/{i}",
            model=model,
            prompt=PROMPTS[i % 3],
            max_tokens=16,
            temperature=1.0,
            top_p=1.0,
            seed=1000 + i,
        )
        for model in (BASE, f"{BASE}:aaaa", f"{BASE}:bbbb")
        for i in range(24)
    ]
    in_lists = draw(world, requests, list_size=64, concurrency=4)
    shuffled = draw(world, requests[::-1], list_size=5, concurrency=8)
    alone = draw(world, requests, list_size=1, concurrency=1)
    same = [in_lists[r.key] == shuffled[r.key] == alone[r.key] for r in requests]
    print(f"identical in every batching: {sum(same)} of {len(same)}")
    assert all(same)
    first = [in_lists[f"{BASE}/{i}"].text for i in range(0, 24, 3)]
    assert len(set(first)) > 1, "one prompt, several seeds: the texts must differ"


def test_an_adapter_that_appears_after_the_start_is_found(world: World):
    assert f"{BASE}:cccc" not in {card.id for card in world.client().models.list().data}
    with pytest.raises(openai.NotFoundError):
        complete(world, f"{BASE}:cccc")
    save_adapter(world.base, world.trials / "cccc", seed=4)
    assert f"{BASE}:cccc" in {card.id for card in world.client().models.list().data}
    assert complete(world, f"{BASE}:cccc").choices[0].text != complete(world, BASE).choices[0].text


@pytest.mark.parametrize(
    "model", ["other", f"{BASE}:nobody", f"{BASE}:../aaaa", f"{BASE}:", "other:aaaa", f"{BASE}:kept@3"]
)
def test_an_unknown_model_is_404_in_openai_form(world: World, model: str):
    for ask in (
        lambda: complete(world, model),
        lambda: world.client().chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}]),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert caught.value.body["code"] == 404
        assert "does not exist" in caught.value.body["message"]


def test_an_adapter_above_the_engines_rank_is_400_and_says_so(world: World):
    with pytest.raises(openai.BadRequestError, match="rank 32, above the engine's max_lora_rank 8"):
        complete(world, f"{BASE}:wide")


def test_an_over_long_prompt_is_400(world: World):
    with pytest.raises(openai.BadRequestError, match="context length"):
        complete(world, BASE, "the cat " * MAX_LEN)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("{", id="not JSON"),
        pytest.param("[]", id="not an object"),
        pytest.param('{"model": "tiny"}', id="no prompt"),
        pytest.param('{"model": "tiny", "prompt": "a", "max_tokens": "many"}', id="wrong type"),
        pytest.param('{"model": "tiny", "prompt": "a", "temperature": -1}', id="out of range"),
        pytest.param('{"model": "tiny", "prompt": ["a", "b"], "vllm_xargs": {"seeds": [1]}}', id="one seed short"),
        pytest.param('{"model": "tiny", "prompt": ["a"], "vllm_xargs": {"seeds": ["x"]}}', id="seed not an integer"),
    ],
)
def test_a_malformed_request_is_the_callers_fault(world: World, body: str):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    answer = httpx.post(f"{world.endpoint.base_url}/completions", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


def test_a_wrong_key_is_401_and_vllms_other_routes_are_closed(world: World):
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=world.endpoint.base_url, api_key="wrong").models.list()
    root = world.endpoint.base_url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {KEY}"}
    for path in ("/metrics", "/docs", "/openapi.json", "/tokenize", "/v1/load_lora_adapter"):
        assert httpx.post(root + path, json={}, headers=headers).status_code == 404
        assert httpx.get(root + path, headers=headers).status_code == 404
    with pytest.raises(openai.InternalServerError, match="the Responses API is not served") as caught:
        world.client().responses.create(model=BASE, input="x")
    assert caught.value.status_code == 501


def test_a_second_engine_that_cannot_fit_is_refused_at_once(world: World):
    with pytest.raises(InputError, match=r"needs 64 CPU and 0 GPU.*, and the cluster has"):
        start(ServeSpec(model=world.base, model_id="big", cpus=64, name="big"))
    with pytest.raises(InputError, match=r"no config\.json"):
        start(ServeSpec(model=world.trials, model_id="big", name="big"))
    with pytest.raises(InputError, match="runs on this cluster already"):
        start(ServeSpec(model=world.base, model_id=BASE))
    with pytest.raises(InputError, match="':'"):
        start(ServeSpec(model=world.base, model_id="a:b", name="big"))


def test_a_full_fine_tune_has_an_engine_of_its_own_and_answers_with_the_first_under_one_address(
    world: World, tmp_path: Path
):
    full = tmp_path / "t" / "adapter"
    save_base(full)
    # One request of the whole window would take 2 GiB of cache, of which there is 1.
    path = full / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": LONG}))
    # As the exports of models with such a file have it: transformers would not write it.
    (full / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "top_p": 0.9}')
    (tmp_path / "t" / "trial.json").write_text("{}")
    write_commit(tmp_path / "t")
    spec = ServeSpec(
        model=world.base,
        model_id=f"{BASE}:t",
        full=FullModel(at(tmp_path), "t"),
        dtype="float32",
        name="full",
        api_key=KEY,
        listing=Listing(
            (
                ServedModel(name="s/full/seed-0", model_id=f"{BASE}:t", about={"study": "s"}),
                ServedModel(name="s/a/seed-0", model_id=f"{BASE}:aaaa", engine=world.endpoint.name, about={}),
                ServedModel(name="s/late/seed-0", model_id=f"{BASE}:late", engine=world.endpoint.name, about={}),
            ),
            ((BASE, world.endpoint.name),),
        ),
    )
    with serving(spec) as endpoint:
        client = openai.OpenAI(base_url=endpoint.base_url, api_key=KEY)
        cards = client.models.list().data
        assert [(card.id, card.root) for card in cards] == [
            ("s/full/seed-0", f"{BASE}:t"),
            ("s/a/seed-0", f"{BASE}:aaaa"),
        ]
        assert cards[1].max_model_len == MAX_LEN
        assert endpoint.window is not None
        assert LONG / 4 < endpoint.window < LONG
        for names, told in (
            (("s/full/seed-0", f"{BASE}:t"), complete(world, BASE)),
            (("s/a/seed-0", f"{BASE}:aaaa"), complete(world, f"{BASE}:aaaa")),
            ((f"{BASE}:bbbb",), complete(world, f"{BASE}:bbbb")),
            ((BASE,), complete(world, BASE)),
        ):
            for name in names:
                settings: dict[str, Any] = {"model": name, "prompt": PROMPTS[0], "max_tokens": 12, "temperature": 0}
                assert client.completions.create(**settings).choices[0].text == told.choices[0].text
                pieces = [chunk.choices[0].text for chunk in client.completions.create(**settings, stream=True)]
                assert len(pieces) > 2
                assert "".join(pieces) == told.choices[0].text
        for name in ("s/late/seed-0", f"{BASE}:nobody", "s/full/seed-1"):
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                client.completions.create(model=name, prompt="x")
        with pytest.raises(openai.BadRequestError, match="context length"):
            client.completions.create(model="s/a/seed-0", prompt="the cat " * MAX_LEN)
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=endpoint.base_url, api_key="wrong").models.list()
        page = httpx.get(endpoint.base_url.removesuffix("v1"))
        assert page.status_code == 200
        assert "Two models, one question" in page.text
        stream = client.completions.create(model="s/a/seed-0", prompt="x", max_tokens=200, temperature=1, stream=True)
        next(iter(stream))
        # A client that goes takes its request with it: the engine is free for the next one.
        stream.close()
        assert client.completions.create(model="s/a/seed-0", prompt="x", max_tokens=1).choices
    assert complete(world, BASE).choices
