"""Which weights an engine serves, and under which names."""

from __future__ import annotations

from typing import Any

from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject
from inoc_ray.serve.adapters import FolderCatalogue, FullModel, model_id_of
from inoc_ray.serve.memory import cache_gib
from inoc_ray.serve.spec import WHAT_FITS, ServeSpec
from inoc_ray.store.store import Store


def serve_spec(
    plan: Plan, store: Store, subject: Subject, window: int = WHAT_FITS, *, replicas: int = 1, **where: Any
) -> ServeSpec:
    """Return the engine that serves `subject`.

    window: in tokens; by default as much of the model's own as fits. replicas: engines side by side, if the study does not say.

    A base folder and all LoRA trials on it share one engine, whatever the models are called and whether the trials had a prior
    stage; a full fine-tune is a model of its own.
    """
    resources = plan.study.resources.of_engine(subject.model.name)
    recipes = list(plan.study.recipes.values())
    full = subject.is_own_model
    ranks = [r.lora.rank for r in recipes if r.method == "lora"]
    needed = cache_gib(subject.model.path, None if window == WHAT_FITS else window, subject.precision)
    return ServeSpec(
        model=subject.model.path,
        model_id=subject.model.name,
        full=FullModel(store.trials(), subject.trial_id) if full else None,
        adapters=None if full or not ranks else FolderCatalogue(store.trials(), model_hash=subject.model.hash),
        max_lora_rank=max(ranks, default=8),
        max_model_len=window,
        dtype="float32" if subject.precision == "fp32" else "bfloat16",
        gpus=resources.gpus,
        cpus=resources.serve_cpus,
        kv_cache_gib=max(resources.serve_kv_cache_gib, needed),
        gpu_share=resources.serve_gpu_share,
        replicas=resources.serve_replicas or replicas,
        max_loras=resources.serve_loras,
        **where,
    )


def served_name(subject: Subject, base: str) -> str:
    """Return the model id of the subject on its engine, which serves the model folder itself as `base`."""
    return base if subject.is_own_model or subject.adapter_of is None else model_id_of(base, subject.adapter_of)
