"""The environment of a command as a user has it: nothing of Ray, MLflow or the tests' number of threads is set.

But for one thing: Ray runs its workers at the lowest priority. A user's machine has nothing else to do; here two tests run at a
time, and the other one would have the workers wait for minutes.
"""

import os
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "OMP_"))}
    return {**keep, "RAY_worker_niceness": "0", "PATH": f"{BIN}:{os.environ['PATH']}", **more}
