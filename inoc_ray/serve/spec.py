"""What one engine serves, and with what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inoc_ray.errors import InputError
from inoc_ray.serve.adapters import Catalogue, FullModel, engine_rank
from inoc_ray.serve.listing import Listing

APP = "inoc-ray"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
WHAT_FITS = -1
"""The model's own window, or as much of it as the cache has room for (vLLM decides once it knows its memory)."""


@dataclass(frozen=True, kw_only=True)
class ServeSpec:
    """What one engine serves and with what.

    `model` is a local folder (weights, tokenizer, chat template), which the engine's node has too. `full` is the full fine-tune
    of that model to be served in its place, without `adapters`, and then LoRA is off; the engine's node fetches it. `gpus` 0
    means the CPU backend; above 1 the model is split over that many GPUs. `cpus` is what the replica requests from Ray and, on
    the CPU backend, its number of threads. `replicas` engines answer behind the address, each with its own `gpus` and `cpus`;
    fewer start if the cluster holds fewer. `gpu_share` is what an engine takes of a GPU's memory. `port` 0 means any free port.
    The proxy listens on the head; a `host` that is the loopback address becomes the head's own, with a key, if the command runs
    on another node. If Serve already runs on the cluster, its host and port are used. `name` says what the engine is for; one
    with a name other than the default is served below `/<name>-<Ray job>`. `stop_token_ids` and `stop` end answers, in addition
    to the model's own end-of-text tokens; `start` adds the chat template's end of turn. `max_model_len` is the window in tokens:
    prompt and answer. With a `listing`, models go by its names, those of the other engines in it too, and there is a page to
    chat with them. `metrics`: whether vLLM counts what it does, for Ray's exporter; `start` sets it on a cluster that outlives the
    command.
    """

    model: Path
    model_id: str
    full: FullModel | None = None
    adapters: Catalogue | None = None
    max_lora_rank: int = 16
    max_loras: int = 4
    max_model_len: int = WHAT_FITS
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gpus: int = 0
    cpus: float = 1.0
    replicas: int = 1
    gpu_share: float = 0.92
    kv_cache_gib: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None
    name: str = APP
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    listing: Listing | None = None
    metrics: bool = False


def check_spec(spec: ServeSpec) -> None:
    """Check a spec before anything starts. Raises `InputError` if it cannot work."""
    if not spec.model_id or (":" in spec.model_id and spec.full is None):
        raise InputError(f"model id {spec.model_id!r} cannot be served: it must not be empty or contain ':'")
    if not (spec.model / "config.json").is_file():
        raise InputError(f"{spec.model} is not a model folder: it has no config.json")
    if not list(spec.model.glob("*.safetensors")):
        raise InputError(f"{spec.model} has no weights in safetensors")
    if spec.adapters is not None:
        engine_rank(spec.max_lora_rank)
