"""64 clients at once on two engines with adapters mixed: no error, and tokens a second beside one client's offline run."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from pathlib import Path

import pytest
from clients import Clients, ask_for
from offline import Offline, asked_of_adapters

from inoc_ray.cluster.connect import connected
from inoc_ray.miniature import weights_path
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.serve.app import serving
from inoc_ray.serve.spec import ServeSpec

pytestmark = pytest.mark.bench

CLIENTS, ADAPTERS, REPLICAS = 64, 8, 2
SECONDS = float(os.environ.get("BENCH_SECONDS", "180"))


def test_64_clients_with_adapters_mixed_on_two_engines_beside_one_offline_run(tmp_path: Path):
    base, trials = weights_path(), tmp_path / "trials"
    asked = asked_of_adapters(base, trials, adapters=ADAPTERS, prompts=100)
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(asked))
    # One after the other: together they would share the cores.
    offline = Offline(base, trials, "--grouped")
    try:
        alone = [offline.rate(file) for _ in range(4)][1:]
    finally:
        offline.close()
    served = ServeSpec(
        model=base,
        model_id="miniature",
        adapters=FolderCatalogue(trials),
        max_lora_rank=8,
        max_loras=ADAPTERS,
        dtype="float32",
        replicas=REPLICAS,
    )
    with connected(), serving(served) as endpoint:

        def ask(seconds: float) -> Clients:
            questions = [(f"{endpoint.model_id}:{name}", prompt, seed) for name, prompt, seed in asked]
            return asyncio.run(
                ask_for(endpoint.base_url, endpoint.api_key, questions, clients=CLIENTS, seconds=seconds)
            )

        # Both engines up, adapters loaded.
        ask(min(40.0, SECONDS))
        began = time.monotonic()
        seen = ask(SECONDS)
        seconds = time.monotonic() - began
    assert seen.errors == []
    assert seen.answers > CLIENTS
    rate, rate_alone = seen.tokens / seconds, statistics.median(alone)
    quantiles = statistics.quantiles(seen.seconds, n=20)
    print(
        f"\n{CLIENTS} clients, {seconds:.0f} s: {seen.answers} answers, {len(seen.errors)} errors, {rate:.0f} tokens/s; "
        f"median {statistics.median(seen.seconds):.2f} s, 95 % within {quantiles[-1]:.2f} s"
        f"\noffline: {rate_alone:.0f} tokens/s ({min(alone):.0f} to {max(alone):.0f})"
        f"\nclients / offline: {rate / rate_alone:.3f}"
    )
