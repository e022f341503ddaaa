"""Whether an engine answers is asked without a look at the storage, which may hold hundreds of trials."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from inoc_ray.serve import app
from inoc_ray.serve.adapters import FolderCatalogue
from inoc_ray.serve.gate import Gate
from inoc_ray.serve.spec import ServeSpec


class Away(FolderCatalogue):
    """A storage of which every question fails."""

    def ids(self) -> list[str]:
        raise AssertionError("the storage was asked")

    def find(self, name: str) -> None:
        raise AssertionError("the storage was asked")


async def nothing(*arguments: Any) -> None:
    raise AssertionError


def gate(base: str) -> Gate:
    return Gate(
        nothing, base=base, catalogue=Away(Path("x")), max_rank=8, load=nothing, api_key="key", max_model_len=321
    )


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An HTTP server whose answers are the gate's."""
    served = gate(request.param)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            from urllib.parse import unquote

            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
            scope = {"type": "http", "method": "GET", "path": unquote(self.path), "headers": headers}
            asyncio.run(served(scope, nothing, send))
            self.send_response(sent[0]["status"])
            self.end_headers()
            self.wfile.write(sent[1]["body"])

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "base"), [(name, name) for name in ("base", "org/model 7B", "a?b#c%d")], indirect=["url"]
)
def test_the_start_of_an_engine_is_seen_whatever_the_storage_holds(url: str, base: str):
    spec = ServeSpec(model=Path("model"), model_id=base, api_key="key")
    assert app._window(url, spec) == 321
    assert app._window(url, ServeSpec(model=Path("model"), model_id=base, api_key="wrong")) == 0
