"""Promises about the names of an endpoint, over one engine or several; vLLM alone is a stand-in, which says who was asked."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_study import write_study
from safetensors.numpy import save_file

from inoc_ray.errors import InputError
from inoc_ray.miniature import weights_path
from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_study
from inoc_ray.serve.asgi import Refused, messages_of
from inoc_ray.serve.front import Front
from inoc_ray.serve.gate import Gate
from inoc_ray.serve.listing import OWN
from inoc_ray.serve.names import Engines, engines_of
from inoc_ray.store.store import Store

KEY = {"authorization": "Bearer secret"}
FULL = {"full": {"method": "full", "learning_rate": 1e-3, "steps": 10}}
LORA = {"lora": {"learning_rate": 1e-3, "steps": 10}}
WIDE = {"learning_rate": 1e-3, "steps": 10, "lora": {"rank": 32}}


def plan(folder: Path, *, done: Callable[[Any], bool] = lambda trial: True, **changes: Any) -> Any:
    """The plan of a study, with committed weights for some of its trials; and its store."""
    folder.mkdir(exist_ok=True)
    study = load_study(write_study(folder, **changes))
    store = Store(study.storage)
    for trial in build_plan(study, store).trials:
        if not done(trial) or store.trial_done(trial.trial_id):
            continue
        with store.stage_trial(trial.trial_id) as staged:
            for weights in ("adapter", "checkpoints/00000005"):
                write_adapter(staged / weights)
            record = {"model_hash": trial.model.hash, "recipe": {"method": trial.recipe.method}}
            (staged / "trial.json").write_text(json.dumps(record))
    return build_plan(study, store), store


def write_adapter(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    save_file({"a": np.zeros((2, 2), np.float32)}, folder / "adapter_model.safetensors")


class Endpoint:
    """The front of these engines: real gates around stand-ins of vLLM."""

    def __init__(self, engines: Engines, key: str | None = "secret") -> None:
        self.loaded: list[str] = []
        own, *others = engines.specs
        gates = {OWN: self.gate(own, key), **{spec.name: self.gate(spec, key) for spec in others}}
        listing = engines.listing.at({own.name: OWN, **{spec.name: spec.name for spec in others}})
        self.front = Front(listing, gates, api_key=key)

    def gate(self, spec: Any, key: str | None) -> Gate:
        async def vllm(scope: Any, receive: Any, send: Any) -> None:
            body = (await receive())["body"]
            assert int(dict(scope["headers"]).get(b"content-length", len(body))) == len(body)
            asked = {"engine": spec.name, "path": scope["path"], **(json.loads(body) if body else {})}
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps(asked).encode()})

        async def load(model_id: str, folder: Path) -> None:
            self.loaded.append(model_id)

        return Gate(
            vllm,
            base=spec.model_id,
            catalogue=spec.adapters,
            max_rank=spec.max_lora_rank,
            load=load,
            api_key=key,
            max_model_len=512,
        )

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        named = [(k.encode(), v.encode()) for k, v in (KEY if headers is None else headers).items()]

        async def run() -> tuple[int, bytes]:
            data = b"" if body is None else json.dumps(body).encode()
            found = [m async for m in messages_of(self.front, method, path, named, data)]
            return found[0]["status"], b"".join(m.get("body", b"") for m in found[1:])

        status, text = asyncio.run(run())
        return status, json.loads(text) if text.startswith(b"{") else text.decode()

    def names(self) -> list[str]:
        return [card["id"] for card in self.ask("GET", "/v1/models")[1]["data"]]

    def chat(self, model: Any, **more: Any) -> tuple[int, Any]:
        return self.ask("POST", "/v1/chat/completions", {"model": model, "messages": [], **more})


def test_names_read_as_study_arm_and_seed_and_content_ids_are_their_aliases(tmp_path: Path):
    built = plan(tmp_path)
    endpoint = Endpoint(engines_of([built]))
    assert endpoint.names() == [
        "finished/base",
        *(f"finished/{arm}/seed-{seed}" for arm in ("baseline", "specific_spanish") for seed in (0, 1)),
    ]
    for trial in built[0].trials:
        content_id = f"miniature:{trial.trial_id}"
        name = f"finished/{trial.arm.name}/seed-{trial.seed}"
        for asked in (name, content_id):
            assert endpoint.chat(asked) == (
                200,
                {"engine": "serve-0", "path": "/v1/chat/completions", "model": content_id, "messages": []},
            )
        _, card = endpoint.ask("GET", f"/v1/models/{name}")
        assert card == endpoint.ask("GET", f"/v1/models/{content_id}")[1]
        assert (card["id"], card["root"], card["parent"], card["max_model_len"]) == (name, content_id, "miniature", 512)
        assert (card["arm"], card["seed"], card["prompt"]) == (trial.arm.name, trial.seed, trial.arm.prompt)
    assert endpoint.chat("finished/base")[1]["model"] == endpoint.chat("miniature")[1]["model"] == "miniature"


def test_a_name_says_what_differs_within_its_study_and_no_more(tmp_path: Path):
    settings = ["miniature/spanish_caps", "miniature/mixed_languages"]
    recipes = {**LORA, "long": {"learning_rate": 1e-3, "steps": 20}}
    names = Endpoint(
        engines_of([plan(tmp_path, settings=settings, arms=["baseline"], seeds=[0], recipes=recipes)])
    ).names()
    assert names == [
        "finished/base",
        *(f"finished/{setting}/{recipe}/baseline/seed-0" for setting in settings for recipe in sorted(recipes)),
    ]


def test_full_fine_tunes_have_engines_of_their_own_beside_that_of_the_base_and_its_adapters(tmp_path: Path):
    built = plan(tmp_path, arms=["baseline"], recipes={**LORA, **FULL}, done=lambda trial: trial.seed == 0)
    engines = engines_of([built])
    (full,) = [trial for trial in built[0].trials if trial.is_own_model and trial.seed == 0]
    content_id = f"miniature:{full.trial_id}"
    assert [spec.model_id for spec in engines.specs] == ["miniature", content_id]
    assert [spec.full and spec.full.trial_id for spec in engines.specs] == [None, full.trial_id]
    endpoint = Endpoint(engines)
    assert endpoint.names() == ["finished/base", "finished/full/baseline/seed-0", "finished/lora/baseline/seed-0"]
    for asked in ("finished/full/baseline/seed-0", content_id):
        answer = endpoint.chat(asked)[1]
        assert (answer["engine"], answer["model"]) == ("serve-1", content_id)
    assert endpoint.ask("GET", f"/v1/models/{content_id}")[1]["id"] == "finished/full/baseline/seed-0"


def test_several_studies_share_the_engine_of_their_base_whatever_their_storages(tmp_path: Path):
    first = plan(tmp_path / "1", name="first", arms=["baseline"], seeds=[0])
    second = plan(
        tmp_path / "2",
        name="second",
        arms=["specific_spanish"],
        seeds=[0, 3],
        recipes={"wide": WIDE},
    )
    engines = engines_of([first, second])
    assert [spec.max_lora_rank for spec in engines.specs] == [32]
    endpoint = Endpoint(engines)
    assert endpoint.names() == [
        "first/base",
        "first/baseline/seed-0",
        "second/base",
        "second/specific_spanish/seed-0",
        "second/specific_spanish/seed-3",
    ]
    assert endpoint.chat("first/baseline/seed-0")[0] == endpoint.chat("second/specific_spanish/seed-3")[0] == 200
    assert len(endpoint.loaded) == 2
    with pytest.raises(InputError, match="two of the studies are called 'first'"):
        engines_of([first, first])


def test_models_on_one_engine_are_found_whatever_studies_call_their_base(tmp_path: Path):
    first = plan(tmp_path / "1", name="first", arms=["baseline"], seeds=[0], recipes={**LORA, **FULL})
    small, again = ({"name": name, "path": str(weights_path())} for name in ("small", "again"))
    second = plan(tmp_path / "2", name="second", models=[small, again], arms=["specific_spanish"])
    third = plan(tmp_path / "1", name="third", models=[small], arms=["baseline"], seeds=[0], recipes=FULL)
    engines = engines_of([first, second, third])
    assert [spec.model_id.partition(":")[0] for spec in engines.specs] == ["miniature", "miniature"]
    endpoint = Endpoint(engines)
    assert set(endpoint.names()) == engines.done
    assert len([name for name in engines.done if name.startswith(("second/small/", "second/again/"))]) == 6
    assert {name: endpoint.chat(name)[0] for name in engines.done} == dict.fromkeys(engines.done, 200)


def test_a_trial_that_is_done_later_is_there_then(tmp_path: Path):
    engines = engines_of([plan(tmp_path, done=lambda trial: trial.seed == 0)])
    assert engines.done == {"finished/base", "finished/baseline/seed-0", "finished/specific_spanish/seed-0"}
    endpoint = Endpoint(engines)
    late = "finished/baseline/seed-1"
    assert late not in endpoint.names()
    status, answer = endpoint.chat(late)
    assert status == 404
    assert f"The model `{late}` does not exist: there are no weights of miniature:" in answer["error"]["message"]
    plan(tmp_path)
    assert late in endpoint.names()
    assert endpoint.chat(late)[0] == 200


def test_weights_that_a_trial_kept_go_by_name_and_step(tmp_path: Path):
    built = plan(tmp_path)
    endpoint = Endpoint(engines_of([built]))
    trial = built[0].trials[0]
    assert endpoint.chat("finished/baseline/seed-0@5")[1]["model"] == f"miniature:{trial.trial_id}@5"
    assert endpoint.chat("finished/baseline/seed-0@6")[0] == 404


def test_other_trials_of_the_storage_are_not_listed_and_go_by_their_content_ids(tmp_path: Path):
    other, _ = plan(tmp_path, name="other", arms=["baseline"], seeds=[7])
    endpoint = Endpoint(engines_of([plan(tmp_path)]))
    content_id = f"miniature:{other.trials[0].trial_id}"
    assert content_id not in [card["root"] for card in endpoint.ask("GET", "/v1/models")[1]["data"]]
    assert endpoint.chat(content_id)[1]["model"] == content_id


def test_only_arms_and_models_that_are_named_are_served(tmp_path: Path):
    built = plan(tmp_path, seeds=[0], recipes={**LORA, **FULL})
    engines = engines_of([built], arms=["baseline"], models=["miniature"])
    assert Endpoint(engines).names() == [
        "finished/base",
        "finished/full/baseline/seed-0",
        "finished/lora/baseline/seed-0",
    ]
    assert len(engines_of([built], arms=["base"]).specs) == 1
    assert [spec.full for spec in engines_of([built], arms=["base"]).specs] == [None]
    with pytest.raises(InputError, match=r"--arm basline: none of the studies has that \(did you mean 'baseline'\?\)"):
        engines_of([built], arms=["basline"])
    with pytest.raises(InputError, match=r"--model x: none of the studies has that"):
        engines_of([built], models=["x"])


def test_nothing_that_is_named_and_trained_is_refused(tmp_path: Path):
    built = plan(tmp_path, done=lambda trial: trial.arm.name == "baseline")
    with pytest.raises(InputError, match="nothing of --arm specific_spanish is trained yet"):
        engines_of([built], arms=["specific_spanish"])


@pytest.mark.parametrize("name", ["finished/baselin/seed-0", "finished", "", "x" * 100_000, "../finished/base", "@1"])
def test_an_unknown_name_is_404_with_a_hint(tmp_path: Path, name: str):
    status, answer = Endpoint(engines_of([plan(tmp_path)])).chat(name)
    assert status == 404
    assert "does not exist (" in answer["error"]["message"]


async def restarting(scope: Any, receive: Any, send: Any) -> None:
    """An engine whose replica is not up: a request waits for it."""
    await asyncio.Event().wait()


async def lost(scope: Any, receive: Any, send: Any) -> None:
    raise Refused(503, "ServiceUnavailableError", "the model's engine does not answer: it died")


@pytest.mark.parametrize(("away", "why"), [(restarting, "it may be restarting"), (lost, "it died")])
def test_while_an_engine_is_away_the_models_of_the_others_are_listed_and_its_own_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: Any, why: str
):
    monkeypatch.setattr("inoc_ray.serve.front.LIST_SECONDS", 0.2)
    endpoint = Endpoint(engines_of([plan(tmp_path, seeds=[0], recipes={**LORA, **FULL})]))
    every = endpoint.names()
    engine = next(name for name in endpoint.front._engines if name != OWN)
    there = dict(endpoint.front._engines)
    endpoint.front._engines = {**there, engine: away}
    status, answer = endpoint.ask("GET", "/v1/models")
    assert status == 200
    missing = [model["id"] for model in answer["missing"]]
    assert missing == [model.name for model in endpoint.front._listing.models if model.engine == engine]
    assert sorted([*endpoint.names(), *missing]) == sorted(every)
    assert all(why in model["error"] for model in answer["missing"])
    assert endpoint.chat("finished/base")[0] == 200
    endpoint.front._engines = dict.fromkeys(there, away)
    status, answer = endpoint.ask("GET", "/v1/models")
    assert status == 503
    assert why in answer["error"]["message"]
    endpoint.front._engines = there
    assert "missing" not in endpoint.ask("GET", "/v1/models")[1]


def test_without_the_key_there_is_a_page_and_nothing_else(tmp_path: Path):
    endpoint = Endpoint(engines_of([plan(tmp_path)]))
    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert endpoint.ask("GET", "/", headers=headers)[0] == 200
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/v1/models/finished/base"),
            ("GET", "/v1/models/nobody"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/v1/responses"),
            ("GET", "/metrics"),
        ):
            assert endpoint.ask(method, path, {"model": "finished/base"}, headers)[0] == 401, path


def test_what_is_not_served_says_so(tmp_path: Path):
    endpoint = Endpoint(engines_of([plan(tmp_path)]))
    status, answer = endpoint.ask("POST", "/v1/responses", {"model": "finished/base", "input": "Hi"})
    assert (status, answer["error"]["type"]) == (501, "NotImplementedError")
    assert "use POST /v1/chat/completions" in answer["error"]["message"]
    assert endpoint.ask("GET", "/v1/responses/resp_1")[0] == 501
    tools = [{"type": "function", "function": {"name": "f"}}]
    for field in ("tools", "functions"):
        status, answer = endpoint.chat("finished/base", **{field: tools})
        assert (status, answer["error"]["param"]) == (400, field)
        assert "tools are not served" in answer["error"]["message"]
    assert endpoint.chat("finished/base", tools=[], tool_choice="none")[0] == 200
    assert endpoint.ask("POST", "/v1/embeddings", {"model": "finished/base"})[0] == 404


@pytest.mark.parametrize("body", [[], "x", {"model": 3}, {"messages": []}, {"model": None}])
def test_what_names_no_model_is_for_the_engine_to_refuse(tmp_path: Path, body: Any):
    endpoint = Endpoint(engines_of([plan(tmp_path)]))
    seen: list[bytes] = []

    async def engine(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["body"])
        raise Refused(400, "BadRequestError", "no model")

    endpoint.front._engines = {OWN: engine}
    assert endpoint.ask("POST", "/v1/chat/completions", body)[0] == 400
    assert seen == [json.dumps(body).encode()]


def test_a_client_that_goes_breaks_its_answer_off():
    ended: list[str] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            ended.append("over")

    async def run() -> None:
        messages = messages_of(endless, "POST", "/v1/chat/completions", [])
        assert (await anext(messages))["status"] == 200
        await messages.aclose()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(run())
    assert ended == ["over"]
