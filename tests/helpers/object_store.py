"""A real S3 server (moto's) in a process of its own, and a wire to it that can break.

`python object_store.py SECONDS` prints its address; its clock is SECONDS ahead. moto looks at a condition and writes in two steps,
between which another request may come; S3 does both at once. So the program takes one writing request at a time.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

KEY, SECRET = "AKIAEXAMPLE", "not-to-be-seen-in-any-message"


@dataclass(frozen=True)
class ObjectStore:
    """An S3 server that runs."""

    url: str

    def environment(self, url: str = "") -> dict[str, str]:
        """What a process needs to reach it, maybe by way of another address."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        """Make a bucket; return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=30).close()
        return name


@contextlib.contextmanager
def object_store(clock_ahead: float = 0.0) -> Iterator[ObjectStore]:
    """Runs a server; yields it."""
    process = subprocess.Popen([sys.executable, __file__, str(clock_ahead)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), f"the S3 server did not start: {url!r}"
        yield ObjectStore(url)
    finally:
        process.kill()
        process.wait()


@dataclass
class Wire:
    """A TCP proxy before a server: what it does with the next connections can be changed at any moment.

    One connection is one request, since moto's server closes after each.
    """

    target: tuple[str, int]
    url: str = ""
    refuse_writes: bool = False
    """Answer PUT, POST and DELETE with 403, as for credentials that may only read."""
    gone: bool = False
    """Close every connection at once."""
    silent: bool = False
    """Take connections, and never answer."""
    lose_answers: int = 0
    """Of so many next writing requests, hand over the request and close the connection before the answer."""
    cut_after: int = 0
    """Of the next reading request whose answer is longer, close the connection after so many bytes."""
    answer: tuple[int, str] | None = None
    """Answer everything with this status and this code of an error."""
    ignore_conditions: bool = False
    """Hide If-Match and If-None-Match from the server, as one that does not know them."""
    slow: float = 0.0
    """Seconds before each answer."""
    upload: int = 0
    """Take so many bytes of a request's body in a second; 0: as they come."""
    requests: list[str] = field(default_factory=list)
    """The first line of each."""

    def serve(self, listener: socket.socket) -> None:
        """Accept until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError):
            if self.gone:
                return
            request = _read_request(client, self.upload)
            if not request:
                return
            line = request.partition(b"\r\n")[0].decode()
            self.requests.append(line)
            writes = line.split(" ")[0] in ("PUT", "POST", "DELETE")
            if self.silent:
                time.sleep(600)
            if self.slow:
                time.sleep(self.slow)
            said = (403, "AccessDenied") if writes and self.refuse_writes else self.answer
            if said is not None:
                client.sendall(_error(*said))
                return
            if self.ignore_conditions:
                request = re.sub(rb"(?i)\r\nif-(none-)?match:[^\r]*", b"", request)
            answer = self._ask(request)
            if writes and self.lose_answers > 0:
                self.lose_answers -= 1
                return
            if not writes and self.cut_after and len(answer) > self.cut_after:
                answer, self.cut_after = answer[: self.cut_after], 0
            client.sendall(answer)

    def _ask(self, request: bytes) -> bytes:
        with socket.create_connection(self.target, timeout=60) as server:
            server.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            parts = []
            while part := server.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)


def _error(status: int, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return f"HTTP/1.1 {status} {code}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _read_request(client: socket.socket, upload: int = 0) -> bytes:
    """A request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(1 << 16)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < sum(lengths):
        body += client.recv(1 << 16)
        if upload:
            time.sleep((1 << 16) / upload)
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def wire(server: ObjectStore) -> Iterator[Wire]:
    """Runs a proxy before the server; yields it."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Wire((host, int(port)), f"http://127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=found.serve, args=(listener,), daemon=True).start()
        try:
            yield found
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def main() -> None:
    import datetime

    import moto.s3.models
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    ahead = datetime.timedelta(seconds=float(sys.argv[1]))
    right = moto.s3.models.utcnow
    moto.s3.models.utcnow = lambda: right() + ahead  # type: ignore[attr-defined]
    moto_app = DomainDispatcherApplication(create_backend_app)
    writing = threading.Lock()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        with contextlib.nullcontext() if environ["REQUEST_METHOD"] in ("GET", "HEAD") else writing:
            return moto_app(environ, start_response)

    class Quiet(MotoRequestHandler):
        def log(self, *arguments: object) -> None:
            pass

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    parent = os.getppid()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
