"""A proxy that the environment names does not come between a command and the engine on its cluster."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from inoc_ray.serve.app import past_proxies

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("before", [None, "example.org"])
def test_the_endpoint_is_reached_here_and_in_processes_that_are_started(
    url: str, before: str | None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    with past_proxies(url):
        assert httpx.get(url).status_code == 200
        program = f"import httpx; print(httpx.get({url!r}).status_code)"
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "200\n"
    assert os.environ.get("NO_PROXY") == os.environ.get("no_proxy") == before
