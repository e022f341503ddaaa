"""The surroundings in which MLflow's client is quiet and gives up in bounded time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from inoc_ray.variables import environment

# By default MLflow retries 7 times with 120 s each, so that a broken server costs minutes at the end of a run. Variables that the
# user has set are kept. A healthy server answers the first call at once; a later one may carry gigabytes.
FIRST_CALL = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
LATER_CALLS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
_QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress MLflow's progress bars, printed links, telemetry and reports of migrations while a `with` block runs."""
    with environment(_QUIET, over=True):
        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
        levels = [logger.level for logger in loggers]
        # MLflow sets its log level on import, so import it before changing the level.
        import mlflow  # noqa: F401

        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
