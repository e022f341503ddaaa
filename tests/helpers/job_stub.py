"""A stand-in for the job server of a cluster: answers Ray's own client with jobs that are made up, and keeps what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ray


@dataclass
class Jobs:
    """The jobs of a server by id, with what each has printed."""

    address: str = ""
    by_id: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    refuses: list[str] = field(default_factory=list)
    """What is answered to the next submissions, with status 500."""

    def add(self, study: str, storage: str, status: str = "RUNNING", *, log: str = "") -> str:
        """Add a job of a study that started after all others; return its id."""
        number = len(self.by_id) + 1
        job = f"inoc-ray-{study}-{number:016x}-1"
        self.by_id[job] = {
            "type": "SUBMISSION",
            "submission_id": job,
            "status": status,
            "entrypoint": "run",
            "start_time": 1_700_000_000_000 + number,
            "metadata": {"study": study, "storage": storage},
        }
        self.logs[job] = log
        return job

    def answer(self, method: str, path: str) -> Any:
        """Return the answer to a request; None for one that is not known."""
        match [part for part in path.split("/") if part][1:]:
            case ["version"]:
                return {"ray_version": ray.__version__, "version": "4", "ray_commit": "", "session_name": ""}
            case ["packages", *_] if method == "PUT":
                return {}
            case ["jobs"] if method == "POST":
                return self.refuses.pop(0) if self.refuses else {"job_id": "new", "submission_id": "new"}
            case ["jobs"]:
                return list(self.by_id.values())
            case ["jobs", job, "logs"]:
                return {"logs": self.logs[job]}
            case ["jobs", job, "stop"] if method == "POST":
                self.stopped.append(job)
                self.by_id[job]["status"] = "STOPPED"
                return {"stopped": True}
            case ["jobs", job]:
                return self.by_id.get(job)
        return None


@contextmanager
def job_server() -> Iterator[Jobs]:
    """A job server on the loopback address."""
    jobs = Jobs()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer = jobs.answer(self.command, self.path)
            body = (
                answer.encode()
                if isinstance(answer, str)
                else json.dumps(answer).encode()
                if answer is not None
                else b"does not exist"
            )
            self.send_response(404 if answer is None else 500 if isinstance(answer, str) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    jobs.address = f"http://127.0.0.1:{running.server_port}"
    try:
        yield jobs
    finally:
        running.shutdown()
        running.server_close()
