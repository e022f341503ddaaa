"""The address and key of somebody else's OpenAI-compatible API, kept out of messages, and a check that it answers."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass, field

from inoc_ray.config.base import check_variable
from inoc_ray.errors import InputError, hide_password

CHECK_SECONDS = 10.0


@dataclass(frozen=True)
class Api:
    """The address of an API and its key, which `repr` leaves out."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)


def is_address(endpoint: str) -> bool:
    """Return whether the text can be the address of an API: http or https, with a host."""
    import httpx

    try:
        parts = urllib.parse.urlsplit(endpoint)
        # Reading the port checks it; a socket would only complain later that the number is too large.
        _ = parts.port
        # The client's own check also rejects impossible host names.
        httpx.URL(endpoint)
    except (ValueError, httpx.InvalidURL):
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def read_key(variable: str | None, where: str) -> str | None:
    """Return the key in an environment variable, None when no variable is named. Raises InputError when it is not set."""
    if variable is None:
        return None
    try:
        check_variable(variable)
    except ValueError as error:
        raise InputError(f"{where}: {error}.") from None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"{where} {variable}: there is no such environment variable, or it is empty; export it.")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{where} {variable}: its value is not a key: it contains characters that HTTP cannot carry.")
    return key


def redact(secret: str | None, text: str) -> str:
    """Return the text with "…" in place of the secret: a server may quote the key that it refuses."""
    return text.replace(secret, "…") if secret else text


def check_reachable(api: Api, where: str) -> None:
    """Raise InputError when nothing answers at the address or the key is refused. Send no prompt.

    An API without a list of models (404) counts as reachable.
    """
    import httpx

    headers = {"Authorization": f"Bearer {api.api_key}"} if api.api_key else {}
    try:
        answer = httpx.get(f"{api.base_url.rstrip('/')}/models", headers=headers, timeout=CHECK_SECONDS)
    except httpx.HTTPError as error:
        reason = redact(api.api_key, str(error) or type(error).__name__)
        raise InputError(
            f"{where}: nothing answers at {hide_password(api.base_url)} ({reason}); check the address, or start the server."
        ) from None
    if answer.status_code in (401, 403):
        raise InputError(
            f"{where}: {hide_password(api.base_url)} refuses the key ({answer.status_code}); check the variable that holds it."
        )
