"""An SQLite database for MLflow that is whole from its first moment.

MLflow makes its tables by some fifty migrations, over seconds. A process that is killed meanwhile leaves a database that no later
one can open ("table … already exists"). So a new one is made beside its place, and moved there when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def database_uri(path: Path) -> str:
    """Return the URI of an SQLite file; a URI unquotes `%20`, and takes what follows `?` for options, as part of no path."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def make_database(tracking_uri: str) -> None:
    """Make the database of an SQLite URI, unless there is one; do nothing for any other URI. Raises `OSError`."""
    if not tracking_uri.startswith("sqlite:///"):
        return
    from sqlalchemy.engine import make_url

    path = Path(make_url(tracking_uri).database or "")
    if not path.name or path.exists():
        return
    from mlflow.tracking import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new = Path(scratch) / path.name
        MlflowClient(database_uri(new)).search_experiments(max_results=1)
        # Another process may have been faster, and has perhaps written into its own by now.
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
