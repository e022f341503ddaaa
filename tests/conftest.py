"""Ray as the product starts it: token authentication and the loopback address, said before anything imports ray."""

import os
import tempfile
from pathlib import Path

from hypothesis import settings

_TOKEN = Path(tempfile.mkdtemp(prefix="inoc-ray-test-")) / "token"
_TOKEN.write_text("0123456789abcdef" * 4)
_TOKEN.chmod(0o600)
# Ray reads these once, when it is imported; several modules of one test run start a cluster each.
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN_PATH=str(_TOKEN),
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_USAGE_STATS_ENABLED="0",
)
os.environ.pop("RAY_ADDRESS", None)
# A wall-clock limit per example fails on a busy machine, and says nothing about the promise.
settings.register_profile("inoc_ray", deadline=None)
settings.load_profile("inoc_ray")
