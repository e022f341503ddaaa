"""`inoc-ray serve`: the first base model with every finished adapter behind one endpoint."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from inoc_ray import stopping
from inoc_ray.cluster.connect import connected
from inoc_ray.cluster.fit import check_serving
from inoc_ray.errors import InputError
from inoc_ray.models.resolve import fetch_models
from inoc_ray.plan.build import build_plan
from inoc_ray.store.store import Store
from inoc_ray.study.study import Study, models_of


@dataclass(frozen=True)
class ServedEndpoint:
    """A running endpoint: its address and the ids of its models."""

    base_url: str
    models: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the value for `--json`."""
        return {"base_url": self.base_url, "models": list(self.models)}

    def to_text(self) -> str:
        """Return the address and every model id."""
        return "\n".join(
            [f"Serving at {self.base_url} (press Ctrl-C to stop)", *(f"  {model}" for model in self.models)]
        )


def serve_study(study: Study, store: Store, host: str, port: int) -> Generator[ServedEndpoint, None, None]:
    """Start the engine of the study's first model with every finished adapter, yield once, and serve until stopped.

    Raise InputError for an unusable key or host, or if the engine does not fit this machine.
    """
    import os
    import threading

    from inoc_ray.serve.app import serving
    from inoc_ray.serve.models import serve_spec, served_name

    key = os.environ.get("INOC_RAY_API_KEY")
    if key is not None and not key.strip():
        raise InputError("INOC_RAY_API_KEY is empty; set it to a key, or unset it.")
    if key is None and host not in ("127.0.0.1", "localhost", "::1"):
        raise InputError(
            f"--host {host}: would open the endpoint to the network without a key; set INOC_RAY_API_KEY first."
        )
    fetch_models(models_of(study))
    plan = build_plan(study, store)
    base = plan.bases[0]
    stopping.keep_in_words("nothing is served any more")
    with connected() as capacity:
        check_serving(plan.study.resources.of_engine(base.model.name), capacity)
        with serving(serve_spec(plan, store, base, host=host, port=port, api_key=key)) as endpoint:
            lora = [t for t in plan.fine_tunes if not t.is_own_model]
            mine = [t for t in lora if t.trial_id in plan.done_trials and t.model.hash == base.model.hash]
            done = [served_name(t, endpoint.model_id) for t in mine]
            yield ServedEndpoint(endpoint.base_url, (base.model.name, *dict.fromkeys(done)))
            threading.Event().wait()
