"""One engine behind an OpenAI-compatible endpoint: what to serve, starting it, taking it down.

One Ray Serve deployment, whose replica holds the `ray.serve.llm` server and answers HTTP with vLLM's own application
(behind `gate.Gate`). There is no separate ingress deployment: it would be one more process that imports vLLM at the start
and one more hop on each request. The driver never imports vLLM.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from inoc_ray.console import Status, say
from inoc_ray.errors import InputError, TrialError
from inoc_ray.serve.adapters import FolderCatalogue, engine_rank
from inoc_ray.serve.cause import marked_cause

APP = "inoc-ray"
WHAT_FITS = -1
"""A window as long as the model's own, or as the cache has room for (vLLM fits it when it knows its memory)."""
START_TIMEOUT_S = 1800.0
_POLL_S = 0.25
_REPORT_EVERY_S = 5.0
_PROXY_TRIES = 4
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
MAX_ONGOING_REQUESTS = 512
MAX_SEQUENCES = 256


@dataclass(frozen=True)
class ServeSpec:
    """What one engine serves and with what.

    `model` is a local folder (weights, tokenizer, chat template); a full fine-tune is served as a model of its own, without
    `adapters`, and then LoRA is off. `gpus` 0 means the CPU backend; above 1 the model is split over that many GPUs.
    `cpus` is what the replica asks of Ray and, on the CPU backend, the number of threads it computes with. `port` 0 is
    any free port; where Serve runs on the cluster already, its host and port stand. `name` tells apart engines that run
    at once; all but the first are found below `/<name>`. `stop_token_ids` and `stop` end answers, beside the model's own
    end-of-text tokens; `start` adds the chat template's end of turn. `max_model_len` is the window in tokens, prompt and answer.
    """

    model: Path
    model_id: str
    adapters: FolderCatalogue | None = None
    max_lora_rank: int = 16
    max_loras: int = 4
    max_model_len: int = WHAT_FITS
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gpus: int = 0
    cpus: float = 1.0
    kv_cache_gib: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None
    name: str = APP
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A running endpoint: `base_url` ends in /v1, as the `openai` client wants it."""

    base_url: str
    model_id: str
    api_key: str | None
    name: str
    owns_serve: bool
    window: int | None = None
    """Tokens of the longest prompt with its answer."""


class Replica:
    """The deployment: an engine and the HTTP application around it."""

    def __init__(self, spec: ServeSpec, config: dict[str, Any]) -> None:
        self._spec, self._config = spec, config
        self._server: Any = None

    async def __serve_build_asgi_app__(self) -> Any:
        """Start the engine (Ray Serve calls this once, before the replica takes requests) and give its application."""
        from inoc_ray.serve.cause import MARK, cause_of, own_log
        from inoc_ray.serve.engine import start_server
        from inoc_ray.serve.gate import Gate

        try:
            self._server = await start_server(self._config)
        except Exception as error:
            raise RuntimeError(MARK + cause_of(error, own_log())) from error
        engine = self._server.engine
        return Gate(
            await engine.build_asgi_app(),
            base=self._spec.model_id,
            catalogue=self._spec.adapters,
            max_rank=engine_rank(self._spec.max_lora_rank),
            load=engine.load_adapter,
            api_key=self._spec.api_key,
            max_model_len=engine.max_model_len,
            stop_token_ids=self._spec.stop_token_ids,
            stop=self._spec.stop,
        )

    async def check_health(self) -> None:
        """Raise when the engine is dead: Ray Serve then starts the replica again."""
        if self._server is not None:
            await self._server.check_health()


def llm_config(spec: ServeSpec) -> dict[str, Any]:
    """Return the fields of `ray.serve.llm.LLMConfig` for `spec`."""
    engine: dict[str, Any] = {
        "dtype": spec.dtype,
        "max_num_seqs": MAX_SEQUENCES,
        "disable_log_stats": True,
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "max_model_len": spec.max_model_len,
    }
    if spec.gpus:
        engine["tensor_parallel_size"] = spec.gpus
    else:
        engine["enforce_eager"] = True
        # A seeded request whose prompt is prefilled in two steps ends vLLM's CPU engine: "CPU Generator does not use
        # offset" (vllm 0.29, gpu_model_runner.py). Whole prompts only, then.
        engine["enable_chunked_prefill"] = False
    if spec.adapters is not None:
        engine |= {
            "enable_lora": True,
            "max_lora_rank": engine_rank(spec.max_lora_rank),
            "max_loras": spec.max_loras,
            "max_cpu_loras": max(32, spec.max_loras),
        }
        if not spec.gpus:
            engine["worker_cls"] = "inoc_ray.serve.cpu_lora.StudyWorker"
    return {
        "model_loading_config": {"model_id": spec.model_id, "model_source": str(spec.model)},
        "accelerator_config": {"kind": "gpu" if spec.gpus else "cpu"},
        "engine_kwargs": engine,
        "log_engine_metrics": False,
    }


def bundles(spec: ServeSpec) -> list[dict[str, float]]:
    """Return what the replica asks of Ray: its CPUs and the first GPU together, then one bundle for each further GPU."""
    if not spec.gpus:
        return [{"CPU": spec.cpus}]
    return [{"CPU": spec.cpus, "GPU": 1.0}] + [{"GPU": 1.0}] * (spec.gpus - 1)


def _environment(spec: ServeSpec) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if not spec.gpus:
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": str(spec.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, int(spec.cpus))),
            # vLLM's CPU platform turns the executor of `engine.StudyEngine` back without this. The engine core keeps its
            # own process all the same.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return env


def _application(spec: ServeSpec) -> Any:
    from ray import serve

    return serve.deployment(
        serve.ingress()(Replica),
        name="engine",
        num_replicas=1,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": spec.cpus, "runtime_env": {"env_vars": _environment(spec)}},
        placement_group_bundles=bundles(spec),
        placement_group_strategy="PACK",
        health_check_period_s=10,
        health_check_timeout_s=60,
        # An engine that fails to start fails the same way again.
        max_constructor_retry_count=1,
    ).bind(spec, llm_config(spec))


def check_spec(spec: ServeSpec) -> None:
    """Raise InputError for what can be seen to be wrong before anything starts."""
    if ":" in spec.model_id or not spec.model_id:
        raise InputError(f"model id {spec.model_id!r} cannot be served: it must not be empty or contain ':'")
    if not (spec.model / "config.json").is_file():
        raise InputError(f"{spec.model} is not a model folder: it has no config.json")
    if not list(spec.model.glob("*.safetensors")):
        raise InputError(f"{spec.model} has no weights in safetensors")
    if spec.adapters is not None:
        engine_rank(spec.max_lora_rank)


def _check_resources(spec: ServeSpec) -> None:
    import ray

    total = ray.cluster_resources()
    asked: dict[str, float] = {}
    for bundle in bundles(spec):
        for key, amount in bundle.items():
            asked[key] = asked.get(key, 0.0) + amount
    for key, amount in asked.items():
        if amount > total.get(key, 0.0):
            raise InputError(f"the engine asks for {amount:g} {key} and the cluster has {total.get(key, 0.0):g}")


def start(spec: ServeSpec, note: Callable[[str], None] = say, timeout_s: float = START_TIMEOUT_S) -> Endpoint:
    """Start the engine on the Ray cluster this process is connected to, and wait until it answers.

    `note` gets a line every few seconds that says what is waited for and how long. Raises InputError for a spec
    that cannot work, and TrialError with the engine's own message when it does not come up; then nothing is left running.
    """
    check_spec(spec)
    spec = _ending_turns(spec)
    import ray
    from ray import serve

    if not ray.is_initialized():
        raise RuntimeError("start() needs a Ray cluster: call ray.init() first")
    _check_resources(spec)
    began = time.monotonic()
    # Its notes on connecting to itself would stand between the lines of progress.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    owns_serve = not _serve_runs()
    if not owns_serve and spec.name in serve.status().applications:
        raise InputError(
            f"an engine named {spec.name!r} runs on this cluster already: stop it, or give this one another name"
        )
    prefix = "" if spec.name == APP else f"/{spec.name}"
    try:
        if owns_serve:
            note("serve: starting Ray Serve")
            _start_serve(spec)
        target = serve.RunTarget(
            target=_application(spec), name=spec.name, route_prefix=prefix or "/", logging_config=_QUIET
        )
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        http = _client().http_config
        host = "127.0.0.1" if http.host in (None, "0.0.0.0") else http.host
        base_url = f"http://{host}:{http.port}{prefix}/v1"
        window = _wait(spec, base_url, began, timeout_s, note)
    except BaseException:
        _take_down(spec.name, owns_serve)
        raise
    seconds = time.monotonic() - began
    endpoint = Endpoint(
        base_url=base_url,
        model_id=spec.model_id,
        api_key=spec.api_key,
        name=spec.name,
        owns_serve=owns_serve,
        window=window,
    )
    note(
        f"serve: {spec.model_id} answers at {endpoint.base_url} after {seconds:.0f} s, with a window of {window} tokens"
    )
    return endpoint


def _ending_turns(spec: ServeSpec) -> ServeSpec:
    """Return the spec with what ends the model's turn, where vLLM would not stop at it.

    Base models often have a chat template whose end of turn is none of their end-of-text tokens, and every answer would run
    into its limit.
    """
    from inoc_ray.models.encoding import stops_of, template_of
    from inoc_ray.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(spec.model))
    ids, texts = stops_of(spec.model, tokenizer)
    if not ids and not texts:
        return spec
    say(
        f"serve: {spec.model_id} ends a turn with {template_of(tokenizer).end_of_turn!r}, which its configuration does not name "
        "as an end (eos_token_id); answers stop there"
    )
    return replace(spec, stop_token_ids=(*spec.stop_token_ids, *ids), stop=(*spec.stop, *texts))


def stop(endpoint: Endpoint) -> None:
    """Take the endpoint down; Ray Serve too, if it was started for it. Nothing happens if it is gone already."""
    _take_down(endpoint.name, endpoint.owns_serve)


@contextlib.contextmanager
def serving(spec: ServeSpec) -> Iterator[Endpoint]:
    """Serve `spec` for the length of a `with` block, and show how its start goes."""
    with Status() as waiting:
        endpoint = start(spec, waiting.note)
    try:
        yield endpoint
    finally:
        stop(endpoint)


def _client() -> Any:
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


def _serve_runs() -> bool:
    return _client() is not None


def _take_down(name: str, owns_serve: bool) -> None:
    from ray import serve

    if not _serve_runs():
        return
    if owns_serve:
        serve.shutdown()
    else:
        serve.delete(name)


def _start_serve(spec: ServeSpec) -> None:
    """Start Serve's controller and its proxy on the head node.

    Serve kills a proxy that is not ready in 5 s, as one may be on a busy machine, and makes another: try that often.
    """
    import ray
    from ray import serve

    http = {"host": spec.host, "port": spec.port or _free_port(spec.host)}
    for tries_left in reversed(range(_PROXY_TRIES)):
        try:
            serve.start(proxy_location="HeadOnly", http_options=http, logging_config=_QUIET)
            return
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            if not tries_left:
                raise


def _wait(spec: ServeSpec, base_url: str, began: float, timeout_s: float, note: Callable[[str], None]) -> int:
    """Wait until the endpoint answers; return its window in tokens."""
    from ray import serve

    reported = began
    while True:
        application = serve.status().applications.get(spec.name)
        if application is not None and application.status == "RUNNING" and (window := _window(base_url, spec.api_key)):
            return window
        if application is not None and application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            reasons = [application.message, *(d.message for d in application.deployments.values())]
            said = "\n".join(filter(None, reasons))
            # The first line is for people; the whole is kept in the log of whoever wanted the engine.
            raise TrialError(
                f"the engine of {spec.model_id} did not start: {marked_cause(said) or said}"
            ) from RuntimeError(said)
        now = time.monotonic()
        if now - began > timeout_s:
            raise TrialError(f"the engine of {spec.model_id} was not ready after {timeout_s:.0f} s")
        if now - reported >= _REPORT_EVERY_S:
            reported = now
            note(f"serve: waiting for {_waiting_for(spec)} ({now - began:.0f} s)")
        time.sleep(_POLL_S)


def _window(base_url: str, api_key: str | None) -> int:
    """Return the window of the models that the endpoint lists; 0 until it answers.

    The proxy hears of an application a moment after it runs.
    """
    request = urllib.request.Request(f"{base_url}/models", headers={"Authorization": f"Bearer {api_key}"})
    # No proxy of the environment stands between this process and its own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return int(json.load(answer)["data"][0]["max_model_len"])
    except (OSError, ValueError):
        return 0


def _waiting_for(spec: ServeSpec) -> str:
    """Return what the start is at: a replica's placement group stays pending until Ray has the resources free."""
    import ray

    groups = [group for group in ray.util.placement_group_table().values() if spec.name in (group.get("name") or "")]
    if any(group["state"] == "PENDING" for group in groups):
        asked = " + ".join(f"{amount:g} {key}" for bundle in bundles(spec) for key, amount in bundle.items())
        free = ray.available_resources()
        return f"{asked} to come free on the cluster (free now: {free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU)"
    return f"vLLM to import and to load {spec.model_id}"


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
