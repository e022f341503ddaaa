"""The Ray Serve deployment of one engine: its replica, its vLLM arguments and the resources it takes.

The replica holds the `ray.serve.llm` server and answers HTTP with vLLM's own application (behind `gate.Gate`). There is no
separate ingress deployment: it would be one more process that imports vLLM at the start and one more hop on each request. The
driver never imports vLLM.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from inoc_ray.serve.adapters import engine_rank
from inoc_ray.serve.asgi import App, Message, messages_of
from inoc_ray.serve.engine_process import REPLICA, EndsWithReplica
from inoc_ray.serve.listing import OWN
from inoc_ray.serve.spec import ServeSpec

MAX_ONGOING_REQUESTS = 512
MAX_SEQUENCES = 256
_YIELDS = 4
"""By how much an engine without GPUs is nicer than Ray's other workers, whose niceness is 15."""
LOOK_SECONDS = 0.1
"""How often a replica looks whether its engine lives."""


class Replica:
    """What runs in the deployment: an engine, and the HTTP application around it."""

    def __init__(self, spec: ServeSpec, config: dict[str, Any]) -> None:
        self._spec, self._config = spec, config
        self._server: Any = None
        self._watch: asyncio.Task[None] | None = None
        self._app: App | None = None

    async def __serve_build_asgi_app__(self) -> Any:
        """Start the engine and return its application; Ray Serve calls this once, before the replica takes requests."""
        from inoc_ray.models.resolve import on_this_node

        if not self._spec.gpus:
            # Beside a training it takes what that leaves: the fine-tunes are what is waited for.
            os.nice(_YIELDS)
        source = self._config["model_loading_config"]
        full = self._spec.full
        source["model_source"] = str(on_this_node(self._spec.model) if full is None else full.fetch())
        os.environ[REPLICA] = str(os.getpid())
        # From here on nothing is fetched; the libraries read this when they are imported.
        os.environ["HF_HUB_OFFLINE"] = "1"
        # vLLM's sockets and the file over which its processes meet, which a killed engine leaves: they lie with Ray's, and go
        # with them. Torch's cache stays where it is, for the next engine.
        os.environ.setdefault("VLLM_RPC_BASE_PATH", _folder_of_ray())
        cache = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
        os.environ["TMPDIR"] = tempfile.tempdir = _folder_of_ray()
        from inoc_ray.serve.engine import start_server
        from inoc_ray.serve.forward import Forward
        from inoc_ray.serve.front import Front
        from inoc_ray.serve.gate import Gate
        from inoc_ray.serve.start_failure import MARK, cause_of, own_log

        try:
            self._server = await start_server(self._config)
        except Exception as error:
            raise RuntimeError(MARK + cause_of(error, own_log())) from error
        engine = self._server.engine
        self._watch = asyncio.create_task(self._leave_with_the_engine())
        gate = Gate(
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
        self._app = gate
        listing = self._spec.listing
        if listing is not None:
            others = {name: Forward(name) for name in listing.engines if name != OWN}
            self._app = Front(listing, {OWN: gate, **others}, api_key=self._spec.api_key)
        return self._app

    async def answer(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> AsyncGenerator[Message, None]:
        """Yield what the HTTP application answers to a request that another engine's replica passes on."""
        assert self._app is not None
        async with aclosing(messages_of(self._app, method, path, headers, body)) as messages:
            async for message in messages:
                yield message

    async def _leave_with_the_engine(self) -> None:
        """End this process as soon as its engine died, which runs in a process of its own.

        Until Ray Serve finds out by its health checks, it would send most requests here: they fail fastest.
        """
        while not self._server.engine.dead:
            await asyncio.sleep(LOOK_SECONDS)
        os._exit(1)

    async def check_health(self) -> None:
        """Raise if the engine is dead, so that Ray Serve restarts the replica."""
        if self._server is not None:
            await self._server.check_health()


def _folder_of_ray() -> str:
    """Return the folder of Ray's files on this node, whose path is short enough for sockets."""
    from ray._private import worker

    return str(worker._global_node.get_temp_dir_path())


def llm_config(spec: ServeSpec) -> dict[str, Any]:
    """Return the fields of `ray.serve.llm.LLMConfig` for `spec`."""
    engine: dict[str, Any] = {
        "dtype": spec.dtype,
        "max_num_seqs": MAX_SEQUENCES,
        "disable_log_stats": not spec.metrics,
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "max_model_len": spec.max_model_len,
        "worker_extension_cls": f"{EndsWithReplica.__module__}.{EndsWithReplica.__qualname__}",
    }
    if spec.gpus:
        engine |= {"tensor_parallel_size": spec.gpus, "gpu_memory_utilization": spec.gpu_share}
    else:
        engine["enforce_eager"] = True
        # vLLM's CPU engine dies of a seeded request whose prompt is prefilled in two steps: "CPU Generator does not use offset"
        # (vllm 0.29, gpu_model_runner.py).
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
        "log_engine_metrics": spec.metrics,
    }


def bundles(spec: ServeSpec) -> list[dict[str, float]]:
    """Return what the replica requests from Ray: its CPUs with the first GPU, then one bundle for each further GPU."""
    if not spec.gpus:
        return [{"CPU": spec.cpus}]
    return [{"CPU": spec.cpus, "GPU": 1.0}] + [{"GPU": 1.0}] * (spec.gpus - 1)


def _environment(spec: ServeSpec) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if not spec.gpus:
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": str(spec.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, int(spec.cpus))),
            # Without this, vLLM's CPU platform undoes the executor of `engine.StudyEngine`. The engine core keeps its own process
            # anyway.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return env


def application(spec: ServeSpec) -> Any:
    """Return the Ray Serve application of `spec`: one deployment, with a replica for each engine."""
    from ray import serve

    return serve.deployment(
        serve.ingress()(Replica),
        name="engine",
        num_replicas=spec.replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": spec.cpus, "runtime_env": {"env_vars": _environment(spec)}},
        placement_group_bundles=bundles(spec),
        # Tensor parallel over the network would be slower than fewer GPUs.
        placement_group_strategy="STRICT_PACK",
        health_check_period_s=10,
        health_check_timeout_s=60,
        # Nobody waits for an answer when an engine is taken down.
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=4,
        # An engine that failed to start would fail again.
        max_constructor_retry_count=1,
    ).bind(spec, llm_config(spec))
