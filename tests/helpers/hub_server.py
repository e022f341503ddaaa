"""A hub on this machine: the endpoints that huggingface_hub uses to download a repository at one commit."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def hub(folder: Path, repo: str, commit: str) -> Iterator[tuple[str, list[str]]]:
    """Serves `folder` as the model `repo` at `commit`; yields the endpoint, and a list of what is asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append(f"{self.command} {path}")
            files = f"/{repo}/resolve/{commit}/"
            if path == f"/api/models/{repo}/tree/{commit}":
                self._send(
                    json.dumps([_entry(p, folder) for p in sorted(folder.rglob("*")) if p.is_file()]).encode(), body
                )
            elif path.startswith(files) and (folder / path.removeprefix(files)).is_file():
                self._send((folder / path.removeprefix(files)).read_bytes(), body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound" if repo in path else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _send(self, data: bytes, body: bool) -> None:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entry(path: Path, folder: Path) -> dict[str, object]:
    data = path.read_bytes()
    inner = path.relative_to(folder).as_posix()
    return {"type": "file", "path": inner, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
