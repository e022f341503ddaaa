"""What an endpoint can answer instead of a response, and which requests that concerns."""

from __future__ import annotations

from inoc_ray.errors import InputError, TrialError

OF_ONE_REQUEST = (400, 413, 422)
"""HTTP statuses that concern one request (too long, against the rules); others may still be answered."""


class UnusableAnswer(Exception):
    """The answer cannot be used, but another try may bring one that can."""


class NoReadableAnswer(TrialError):
    """The tries are used up, and the last answer could not be read: a failure of this request, not of the endpoint."""


class RequestRefused(InputError):
    """The endpoint says that a request is wrong, so it is not sent again; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
