"""What an endpoint can answer instead of a response, and whom it concerns."""

from __future__ import annotations

from inoc_ray.errors import InputError, TrialError

OF_ONE_REQUEST = (400, 413, 422)
"""What an endpoint answers where a request is wrong (too long, against its rules), and others may be right."""


class UnusableAnswer(Exception):
    """The answer cannot be used, and another try may bring one that can."""


class NoReadableAnswer(TrialError):
    """The tries are used up, and the last answer was one that cannot be read: of this request alone, not of the endpoint."""


class RequestRefused(InputError):
    """The endpoint says that a request is wrong, so that it is not sent again; `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
