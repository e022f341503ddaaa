"""`inoc-ray serve`: the models of one or several studies behind one endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from inoc_ray import stopping
from inoc_ray.cluster import nodes
from inoc_ray.cluster.connect import connected
from inoc_ray.cluster.fit import check_serving_together
from inoc_ray.console import align
from inoc_ray.errors import InputError
from inoc_ray.models.resolve import fetch_models
from inoc_ray.plan.build import build_plan
from inoc_ray.run.open_resources import on_this_machine
from inoc_ray.store.store import Store
from inoc_ray.study.resources import EngineResources
from inoc_ray.study.study import Study, models_of

if TYPE_CHECKING:
    from inoc_ray.serve.listing import ServedModel


@dataclass(frozen=True)
class ServedEndpoint:
    """A running endpoint: its address, and the models that are there."""

    base_url: str
    models: tuple[ServedModel, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the value for `--json`."""
        models = {model.name: {"id": model.model_id, **model.about} for model in self.models}
        return {"base_url": self.base_url, "page": self.page, "models": models}

    @property
    def page(self) -> str:
        """The address of the page to chat with two models."""
        return self.base_url.removesuffix("v1")

    def to_text(self) -> str:
        """Return the addresses, and each model's name and id."""
        lines = align([(f"  {model.name}", model.model_id) for model in self.models])
        head = [f"Serving at {self.base_url} (press Ctrl-C to stop)", f"Chat with two models at {self.page}"]
        return "\n".join([*head, *lines])


def serve_studies(
    studies: Sequence[tuple[Study, Store]],
    *,
    host: str,
    port: int,
    arms: Sequence[str] = (),
    models: Sequence[str] = (),
) -> Generator[ServedEndpoint, None, None]:
    """Start the engines of the studies' models, yield once, and serve until stopped.

    arms, models: names in the studies, to serve those alone. Raise InputError for an unusable key or host, for names that no study
    has, and if the engines do not fit the cluster.
    """
    import threading

    from inoc_ray.serve.app import check_key_for_running_serve, serving
    from inoc_ray.serve.listing import OWN
    from inoc_ray.serve.names import engines_of
    from inoc_ray.serve.spec import APP

    key = _key(host)
    for study, _ in studies:
        fetch_models(models_of(study))
    engines = engines_of(
        [(on_this_machine(build_plan(study, store), trains=False), store) for study, store in studies],
        arms=arms,
        models=models,
    )
    stopping.keep_in_words("nothing is served any more")
    with connected() as capacity, contextlib.ExitStack() as stack:
        taken = [
            EngineResources(serve_cpus=spec.cpus, serve_gpus=spec.gpus)
            for spec in engines.specs
            for _ in range(spec.replicas)
        ]
        check_serving_together(taken, capacity)
        if key is None and not nodes.on_head():
            raise InputError(
                "the endpoint listens on the head of the cluster, which this is not, and would be open to the network without a "
                "key; set INOC_RAY_API_KEY, or run the command on the head."
            )
        check_key_for_running_serve(key)
        first, *others = (replace(spec, host=host, port=port, api_key=key) for spec in engines.specs)
        applications = {first.name: OWN}
        for spec in others:
            applications[spec.name] = stack.enter_context(serving(spec)).name
        listing = engines.listing.at(applications)
        endpoint = stack.enter_context(serving(replace(first, name=APP, listing=listing)))
        yield ServedEndpoint(endpoint.base_url, tuple(model for model in listing.models if model.name in engines.done))
        threading.Event().wait()


def _key(host: str) -> str | None:
    """Return the key that requests must carry. Raises InputError if it is empty, or missing where others could connect."""
    import os

    from inoc_ray.serve.spec import LOOPBACK

    key = os.environ.get("INOC_RAY_API_KEY")
    if key is not None and not key.strip():
        raise InputError("INOC_RAY_API_KEY is empty; set it to a key, or unset it.")
    if key is None and host not in LOOPBACK:
        raise InputError(
            f"--host {host}: would open the endpoint to the network without a key; set INOC_RAY_API_KEY first."
        )
    return key
