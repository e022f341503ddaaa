"""Switches off the telemetry of vLLM, MLflow and others; Ray's is switched off in `cluster/connect.py`."""

import os

_SWITCHES = {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def switch_off() -> None:
    """Set the variables that are not set yet. Call this before importing the libraries, which read them once."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
