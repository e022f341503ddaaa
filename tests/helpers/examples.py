"""How many examples hypothesis draws: all, or a quarter under `make test-fast`, which names the profile `fast`."""

import os

FAST = os.environ.get("HYPOTHESIS_PROFILE") == "fast"


def examples(count: int) -> int:
    """`count`, or a quarter of it and at least 10 under the profile `fast`."""
    return max(10, count // 4) if FAST else count
