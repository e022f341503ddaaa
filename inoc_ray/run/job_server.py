"""The job server of a Ray cluster: the studies that were submitted to it, and one message for whatever its client raises."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inoc_ray.cluster.connect import is_host_and_port, silence_of
from inoc_ray.console import say
from inoc_ray.errors import InputError, TrialError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ACTIVE = ("PENDING", "RUNNING")
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""What Ray's client takes the address from, even if it is given one."""
_SECONDS = (10.0, 60.0)
"""How long the client waits for a connection, and for an answer."""
_RETRY_SECONDS = 600.0
"""How long a log is followed without an answer of the server: a laptop may sleep, a head may restart."""
_SILENT_SECONDS = 60.0
"""After so long without a line the connection is made again: one that a sleeping laptop lost looks like a silent job."""
_POLL_SECONDS = 1.0
_STARTING_SECONDS = 60.0
"""How long a head that was just started may answer before it can start a job: its agent comes after its job server."""


@dataclass(frozen=True, kw_only=True)
class StudyJob:
    """A job that `inoc-ray submit` started."""

    id: str
    study: str
    storage: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """Of its command, once that has ended by itself."""
    message: str
    started: float | None
    """Epoch seconds by the clock of the cluster's head; likewise `ended`."""
    ended: float | None

    @property
    def active(self) -> bool:
        """Whether it runs or is going to."""
        return self.status in ACTIVE

    def to_json(self) -> dict[str, Any]:
        """Return the fields for `--json`."""
        return asdict(self)


class JobServer:
    """The job server at an address; `None` is the one that Ray's environment variables name, or one on this machine.

    Every method raises InputError if the server cannot be reached or refuses the token.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = _address(address)
        with self._errors():
            self._client = _client(self.address)

    def jobs(self, study: str | None = None) -> list[StudyJob]:
        """Return the jobs of a study, or of all studies, the oldest first."""
        with self._errors():
            found = [_study_job(details) for details in self._client.list_jobs()]
        jobs = [job for job in found if job is not None and study in (None, job.study)]
        return sorted(jobs, key=lambda job: (job.started or 0.0, job.id))

    def job(self, job_id: str) -> StudyJob:
        """Return a job by its id."""
        with self._errors():
            found = _study_job(self._client.get_job_info(job_id))
        if found is None:
            raise InputError(f"{job_id}: not a job of `inoc-ray submit`.")
        return found

    def submit(self, job_id: str, command: str, folder: Path, *, metadata: dict[str, str], env: dict[str, str]) -> bool:
        """Start a job with `folder` as its working folder; return False if there is one of that id already."""
        end = time.monotonic() + _STARTING_SECONDS
        with self._errors():
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=command,
                        submission_id=job_id,
                        runtime_env={"working_dir": str(folder), "env_vars": env},
                        metadata=metadata,
                    )
                    return True
                except RuntimeError as error:
                    if "already exists" in str(error):
                        return False
                    if "No available agent" not in str(error) or time.monotonic() > end:
                        raise
                time.sleep(_POLL_SECONDS)

    def stop(self, job_id: str) -> None:
        """Ask a job to end; does not wait for it."""
        with self._errors():
            self._client.stop_job(job_id)

    def log(self, job_id: str) -> str:
        """Return what a job has printed so far."""
        with self._errors():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], object]) -> StudyJob:
        """Write what a job prints until it ends; return it as it ended.

        A connection that breaks is made again for ten minutes. Then TrialError: the job goes on without being followed.
        """
        shown = 0
        lost: float | None = None
        while True:
            try:
                job = self.job(job_id)
                shown = asyncio.run(self._tail(job_id, shown, write))
                job = self.job(job_id)
                lost = None
            except (_Unreachable, _Broken) as error:
                now = time.monotonic()
                if lost is None:
                    lost = now
                    say(f"the connection to {self.address} was lost ({error}); trying again ...")
                if now - lost > _RETRY_SECONDS:
                    raise TrialError(
                        f"{self.address} has not answered for {_RETRY_SECONDS / 60:.0f} minutes; job {job_id} goes on if its "
                        "cluster does. Follow it again with `inoc-ray logs --follow`."
                    ) from error
                shown = error.shown if isinstance(error, _Broken) else shown
                time.sleep(5 * _POLL_SECONDS)
                continue
            if not job.active:
                return job
            time.sleep(_POLL_SECONDS)

    async def _tail(self, job_id: str, shown: int, write: Callable[[str], object]) -> int:
        """Write a log from its character `shown` on, until it ends or is silent for a minute; return how many characters it had."""
        seen = 0
        log = self._client.tail_job_logs(job_id)
        try:
            while True:
                lines = await asyncio.wait_for(anext(log), _SILENT_SECONDS)
                if new := lines[max(0, shown - seen) :]:
                    write(new)
                seen += len(lines)
        except (StopAsyncIteration, TimeoutError):
            return max(shown, seen)
        except _errors_of_a_connection() as error:
            raise _Broken(_reason(error), max(shown, seen)) from error
        finally:
            await log.aclose()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> InputError:
        from ray.exceptions import AuthenticationError

        reason = _reason(error)
        if isinstance(error, AuthenticationError):
            return InputError(
                f"--address {self.address}: the job server refuses the token ({reason}); set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN_PATH to the cluster's."
            )
        if "does not exist" in reason:
            return InputError(f"--address {self.address}: {reason}; `inoc-ray ls` shows the jobs that there are.")
        return _Unreachable(
            f"--address {self.address}: cannot reach a job server ({reason}); start a head with `ray start --head`, or forward its "
            "port 8265 to this machine (`ray dashboard cluster.yaml`), and set RAY_AUTH_TOKEN_PATH to its token."
        )


class _Unreachable(InputError):
    """The job server did not answer, as far as its client says."""


class _Broken(Exception):
    """A log whose connection ended early, after `shown` characters."""

    def __init__(self, reason: str, shown: int) -> None:
        super().__init__(reason)
        self.shown = shown


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300].rstrip(".") if text else type(error).__name__


def _errors_of_a_connection() -> tuple[type[Exception], ...]:
    import aiohttp

    return (RuntimeError, OSError, aiohttp.ClientError)


def _address(given: str | None) -> str:
    """Return the address of a job server; one without a scheme is completed, since Ray would take it for that of a cluster."""
    variable, named = next(
        ((name, os.environ[name]) for name in _VARIABLES if os.environ.get(name)), ("", DEFAULT_ADDRESS)
    )
    where = "--address " if given else f"{variable}="
    named = given or named
    if (given or variable == "RAY_API_SERVER_ADDRESS") and "://" not in named and named != "auto":
        named = f"http://{named}"
    _check(named, where)
    return named


def _check(address: str, where: str) -> None:
    """Raise InputError for what cannot be an address, and for one of a cluster at which nothing listens: Ray would try for 40 s.

    where: what the address was given with, before it in the message.
    """
    scheme, separator, rest = address.partition("://")
    if address == "auto" or (separator and scheme in ("http", "https") and rest.strip("/")):
        return
    if separator and scheme != "ray" and _is_provider(scheme):
        return
    place = rest if scheme == "ray" else address
    if "://" in place or not is_host_and_port(place):
        raise InputError(f"{where}{address}: not the address of a job server; write it as http://HOST:8265.")
    if (error := silence_of(place)) is not None:
        raise _Unreachable(
            f"{where}{address}: nothing answers there ({error}); write the address of the job server, http://HOST:8265."
        )


def _is_provider(scheme: str) -> bool:
    """Return whether a scheme is a module that tells Ray where its clusters are, as companies that offer Ray have one."""
    try:
        return hasattr(importlib.import_module(scheme), "get_job_submission_client_cluster_info")
    except (ImportError, TypeError, ValueError):
        return False


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's client, which waits for ever for a server that does not answer."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": _SECONDS, **options})

    before = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        return Client(address)
    finally:
        os.environ.update(before)


def _study_job(details: Any) -> StudyJob | None:
    """Return a job of `inoc-ray submit`; None for any other."""
    about = details.metadata or {}
    if not details.submission_id or "study" not in about or "storage" not in about:
        return None
    return StudyJob(
        id=details.submission_id,
        study=about["study"],
        storage=about["storage"],
        status=str(details.status.value),
        exit_code=details.driver_exit_code,
        message=details.message or "",
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if not details.end_time else details.end_time / 1000,
    )
