"""The samples of a run as files for MLflow: a table that its pages show, question and response first, and all of an arm's."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inoc_ray.results.records import Artifact
from inoc_ray.store.place import Place

if TYPE_CHECKING:
    import pandas as pd

TABLE = "samples.json"
ARM_SAMPLES = "samples.parquet"
TABLE_ROWS = 1000
"""A page shows the whole table at once."""
_FIRST = ("question", "response")
"""MLflow groups a table by its first column and compares the second between runs: answers to the same question, side by side."""
_LAST = ("prompt",)


def table_of_samples(samples: Place) -> Artifact:
    """Return the first samples of a trial or base as MLflow's table (pandas' "split")."""
    return Artifact(path=TABLE, of=(samples,), make=lambda: _table_json(samples), table=True)


def arm_samples(samples: Sequence[Place]) -> Artifact:
    """Return all samples of an arm's seeds as one parquet file, from which every rate can be computed again."""
    return Artifact(path=ARM_SAMPLES, of=tuple(samples), make=lambda: _together(samples))


def _table_json(samples: Place) -> bytes:
    import pandas as pd

    frame = pd.read_parquet(io.BytesIO(samples.read_bytes())).head(TABLE_ROWS)
    return str(readable(frame).to_json(orient="split", index=False)).encode()


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return samples with question and response first, then what judges say of them, and the whole prompt last."""
    frame = frame.rename(columns={"text": "response"})
    judged = [name for name in frame.columns if name.startswith(("shown.", "outcome."))]
    first = [name for name in (*_FIRST, "evaluation", "context", *judged) if name in frame.columns]
    last = [name for name in _LAST if name in frame.columns]
    return frame[[*first, *(name for name in frame.columns if name not in {*first, *last}), *last]]


def _together(samples: Sequence[Place]) -> bytes:
    import pandas as pd

    frames = [pd.read_parquet(io.BytesIO(place.read_bytes())) for place in samples]
    buffer = io.BytesIO()
    readable(pd.concat(frames, ignore_index=True)).to_parquet(buffer, index=False)
    return buffer.getvalue()
