"""The environment of a command as a user has it: nothing of MLflow or the tests' number of threads is set, and nothing of Ray but
the priority of its workers, which have a machine of their own there and are not to wait for other tests here."""

import os
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "OMP_"))}
    return {**keep, "RAY_worker_niceness": "0", "PATH": f"{BIN}:{os.environ['PATH']}", **more}
