"""The environment of a command as a user has it: nothing of Ray, MLflow or the tests' number of threads is set."""

import os
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "OMP_"))}
    return {**keep, "PATH": f"{BIN}:{os.environ['PATH']}", **more}
