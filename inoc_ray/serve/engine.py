"""The vLLM engine inside a replica, as `ray.serve.llm` runs it.

Imported only where the engine lives: importing it imports vLLM (11 s of CPU with compiled bytecode, 23 s without).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig, LLMServer

from inoc_ray.endpoint.seeds import SEEDS


class LocalModel(CallbackBase):
    """Skips the download of the model, which is a local folder: Ray would import vLLM on each node to download nothing."""

    async def on_before_node_init(self) -> None:
        """Leave out the initialization of nodes."""
        self.ctx.run_init_node = False


class StudyEngine(VLLMEngine):
    """Ray's vLLM engine with one sampling seed for each prompt of a list, and one process fewer on the CPU."""

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        engine_args, frontend_args, config = super()._prepare_engine_config(callback_ctx)
        if self.llm_config.accelerator_config.kind == "cpu":
            # Ray asks for the multiprocess executor, whose one worker would import vLLM again in a process of its own. vLLM
            # wants that only to bind OpenMP threads to cores; here the number of threads is set and nothing is bound.
            config.parallel_config.distributed_executor_backend = "uni"
        return engine_args, frontend_args, config

    def _start_async_llm_engine(self, *args: Any, **kwargs: Any) -> Any:
        client = super()._start_async_llm_engine(*args, **kwargs)
        generate = client.generate

        def seeded(prompt: Any, sampling_params: Any, request_id: str, **rest: Any) -> AsyncGenerator[Any, None]:
            seeds = (getattr(sampling_params, "extra_args", None) or {}).get(SEEDS)
            if seeds is not None:
                # vLLM names the i-th prompt of a request "<request>-<i>" (entrypoints/openai/completion/serving.py).
                sampling_params.seed = int(seeds[int(request_id.rsplit("-", 1)[1])])
                sampling_params.extra_args = None
            return generate(prompt, sampling_params, request_id, **rest)

        client.generate = seeded
        return client

    @property
    def max_model_len(self) -> int:
        """The window in tokens: prompt and answer."""
        return int(self._engine_client.model_config.max_model_len)

    @property
    def dead(self) -> bool:
        """Whether the engine's process ended."""
        return bool(self._engine_client.errored)

    async def load_adapter(self, model_id: str, folder: Path) -> None:
        """Load the adapter in `folder` as `model_id`; does nothing if it is loaded already."""
        await self.resolve_lora(
            # vLLM assigns its own adapter ids: this one only satisfies the schema.
            DiskMultiplexConfig(
                model_id=model_id, max_total_tokens=None, local_path=str(folder), lora_assigned_int_id=1
            )
        )


class StudyServer(LLMServer):
    """Ray's LLM server without its telemetry, whose actor costs 7 s of CPU at the start."""

    async def _start_engine(self) -> None:
        await self.engine.start()


async def start_server(config: dict[str, Any]) -> LLMServer:
    """Return a started `ray.serve.llm` server from the fields of its LLMConfig."""
    server = StudyServer.sync_init(
        LLMConfig(**config, callback_config={"callback_class": LocalModel}), engine_cls=StudyEngine
    )
    await server.start()
    return server
