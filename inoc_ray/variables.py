"""Environment variables that hold while a block runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(values: Mapping[str, str], *, over: bool = False) -> Iterator[None]:
    """Set environment variables while a `with` block runs; variables that are already set are kept unless `over`.

    What they were before comes back at the end, also where the block itself set them to something else.
    """
    changed = {name: value for name, value in values.items() if over or name not in os.environ}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
