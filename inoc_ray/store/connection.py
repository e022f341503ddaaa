"""The connection of this process to a bucket: what is retried for how long, and one message for each way to fail.

Endpoint, region and credentials come from the environment alone (AWS_…, GOOGLE_…, AZURE_…), as the client `obstore` reads them;
they are never part of an address, a message or anything that is sent to another process.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from inoc_ray.console import say
from inoc_ray.errors import StorageError, StorageRefusal

T = TypeVar("T")

CONNECT_SECONDS, SILENT_SECONDS = 5, 20
"""How long a connection may take, and how long the storage may be silent."""
SENDING_SECONDS = 180
"""The same while it takes more than SMALL_BYTES: the client counts the sending of a request as silence."""
SMALL_BYTES = 256 << 10
QUICK_SECONDS = 10
"""For how long the client repeats a request by itself."""
WAIT_SECONDS = 120.0
"""For how long a storage that has answered before may be away: a run waits, a command that just begins does not."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_AZURE = "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"


@dataclass(frozen=True)
class _Fault:
    """A way to fail: what the client's text has, what to say about it, and whether it may pass by waiting."""

    pattern: str
    message: str
    passes: bool = False


_NO_BUCKET = _Fault(
    r"NoSuchBucket|ContainerNotFound|specified bucket does not exist",
    "there is no such bucket; create it or correct the address",
)
_NOT_ALLOWED = _Fault(
    r"PermissionDenied|AccessDenied|403 Forbidden|AllAccessDisabled",
    "these credentials may not {doing}; allow them to list, read, write and delete there",
)
_FAULTS = (
    _Fault(
        r"Missing(AccessKeyId|SecretAccessKey|Account)|instance credentials|"
        r"169\.254\.169\.254|/latest/(api/token|meta-data)|metadata\.google|CredentialProvider"
        r"|Account must be specified|could not load.*credential",
        "no credentials were found; set {credentials} in the environment of this command and of every node",
    ),
    _NO_BUCKET,
    _Fault(
        r"RequestTimeTooSkewed|difference between the request time",
        "this machine's clock differs too much from the storage's; set it, for instance by NTP",
    ),
    _Fault(r"ExpiredToken|TokenRefreshRequired|token.*expired", "the credentials have expired; renew {credentials}"),
    _Fault(
        r"InvalidAccessKeyId|SignatureDoesNotMatch|AuthenticationFailed|Unauthenticated|401 Unauthorized",
        "the credentials are not accepted; check {credentials}",
    ),
    _Fault(
        r"NotImplemented|NotSupported|501 Not Implemented",
        "the storage does not support what inoc-ray needs (writes on the condition If-Match or If-None-Match); use another one",
    ),
    _NOT_ALLOWED,
    _Fault(
        r"redirect|PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint",
        "the bucket is in another region; set AWS_REGION to it",
    ),
    _Fault(
        r"dns error|failed to lookup|NameResolution", "{host} is unknown here; check the address and the endpoint", True
    ),
    _Fault(r"TimedOut|kind: Timeout|operation timed out", "{host} does not answer in time", True),
    _Fault(
        r"kind: (Connect|Request|Interrupted|Decode|Body)|ConnectionError|connection (closed|error|reset)|IncompleteMessage",
        "{host} does not answer; check the endpoint and the network",
        True,
    ),
    _Fault(r"SlowDown|503 Service|429 Too Many|TooManyRequests|ServerBusy", "{host} asks for fewer requests", True),
    _Fault(r"50[0234] |InternalError|OperationAborted|409 Conflict", "{host} fails ({said})", True),
)


def _said(text: str) -> str:
    """Return the client's own words for a message: one line, without what an address may carry after its path."""
    line = re.sub(r"(https?://)[^/\s@]*@", r"\1", re.sub(r"\?\S*", "", text.split("\n\nDebug source", 1)[0]))
    return " ".join(line.split())[:200]


def _host(text: str) -> str:
    """Return the host that the client asked, by its own text."""
    match = re.search(r"https?://(?:[^/\s@]*@)?([^/\s,]+)", text)
    return match[1] if match else "its host"


class Connection:
    """A bucket below a prefix, as `obstore` sees it; shared by the threads of this process."""

    def __init__(self, address: str) -> None:
        import obstore.store

        self.address = address
        self.scheme = address.partition("://")[0]
        self._reached = False
        self._quiet_until = 0.0
        plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
        # What is read may take as long as its bytes flow: the time of silence begins anew with each, and the whole has no limit,
        # since an object may have gigabytes. What is sent has only that time, from its first byte to the answer.
        client = {
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "read_timeout": f"{SILENT_SECONDS}s",
            "timeout": "1d",
            "allow_http": plain,
        }
        # Its types know no scheme that is not in the text of the program.
        from_url: Any = obstore.store.from_url
        retry = {"max_retries": 2, "retry_timeout": timedelta(seconds=QUICK_SECONDS)}
        try:
            self.store: Any = from_url(address, client_options=client, retry_config=retry)
            client["read_timeout"] = f"{SENDING_SECONDS}s"
            self._patient: Any = from_url(address, client_options=client, retry_config=retry)
        except (ValueError, obstore.exceptions.BaseError) as error:
            raise self._explained(error, "be used").with_traceback(None) from None

    def store_for(self, size: int) -> Any:
        """Return the store by which to send so many bytes in one request."""
        return self.store if size <= SMALL_BYTES else self._patient

    def call(self, doing: str, request: Callable[[], T]) -> T:
        """Return what a request returns, and repeat it while the storage is away for a while.

        doing: what the request does, as in "may not write". Raises `FileNotFoundError`, obstore's `AlreadyExistsError` and
        `PreconditionError` as they are, `StorageError` for the rest, and of these `StorageRefusal` for what is not allowed.
        """
        from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError

        deadline, pause = 0.0, 0.5
        while True:
            try:
                found = _interruptibly(request)
            except (AlreadyExistsError, PreconditionError, NotModifiedError):
                self._reached = True
                raise
            except (BaseError, OSError) as error:
                missing = isinstance(error, FileNotFoundError)
                if missing and self._fault(error) is not _NO_BUCKET:
                    self._reached = True
                    raise
                now = time.monotonic()
                deadline = deadline or now + WAIT_SECONDS
                explained = self._explained(error, doing)
                if not self._fault(error).passes or not self._reached or now + pause > deadline:
                    raise explained from None
                if now > self._quiet_until:
                    # Once for all threads.
                    self._quiet_until = deadline
                    say(f"{explained} Waiting up to {WAIT_SECONDS:.0f} s for it.")
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
            else:
                self._reached = True
                return found

    def _fault(self, error: Exception) -> _Fault:
        text = f"{type(error).__name__} {error}"
        return next((one for one in _FAULTS if re.search(one.pattern, text)), _Fault("", "{said}"))

    def _explained(self, error: Exception, doing: str) -> StorageError:
        fault = self._fault(error)
        text = str(error)
        credentials = _CREDENTIALS.get(self.scheme, _AZURE)
        message = fault.message.format(credentials=credentials, doing=doing, said=_said(text), host=_host(text))
        kind = StorageRefusal if fault is _NOT_ALLOWED else StorageError
        return kind(f"storage: {self.address}: {message}.")


def _interruptibly(request: Callable[[], T]) -> T:
    """Return what a request returns, in the main thread so that Ctrl-C ends the wait: the client itself takes no notice of it."""
    if threading.current_thread() is not threading.main_thread():
        return request()
    found: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            found.append(request())
        except Exception as error:  # noqa: BLE001 - raised below, in the other thread
            failed.append(error)

    # A daemon, since a request that hangs must not hold up the end of the process either.
    thread = threading.Thread(target=run, daemon=True, name="storage-request")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


@functools.lru_cache(maxsize=64)
def _connected(address: str, process: int, endpoints: tuple[str | None, ...]) -> Connection:
    return Connection(address)


def connection(address: str) -> Connection:
    """Return this process's connection to an address such as s3://bucket/prefix. Raises `StorageError`."""
    # A forked process needs its own: the threads of the client are not there.
    return _connected(address, os.getpid(), tuple(os.environ.get(name) for name in _ENDPOINTS))
