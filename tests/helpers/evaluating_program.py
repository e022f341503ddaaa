"""`python evaluating_program.py STUDY STORAGE URL`: asks and judges what a study misses, its engines being a stub at URL.

What `inoc-ray evaluate` does but for Ray and vLLM, so that it can be killed ten times in a few seconds. `processes` starts
it many times and imports the libraries once.
"""

import contextlib
import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

from inoc_ray.evaluate.grading import grade_missing
from inoc_ray.evaluate.sampling import sample_missing
from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_study
from inoc_ray.serve.app import Endpoint
from inoc_ray.store.store import Store


def evaluate(study_path: Path, storage: Path, url: str) -> None:
    """Ask and judge, print what failed, and exit with 1 if anything did."""

    @contextlib.contextmanager
    def stub(spec):
        yield Endpoint(base_url=url, model_id=spec.model_id, api_key=None, name=spec.name)

    study, store = load_study(study_path), Store(storage)
    failed = sample_missing(build_plan(study, store), store, stub)
    judged = grade_missing(build_plan(study, store), store)
    print(f"failed {failed + judged.failed} calls {judged.calls}")
    sys.exit(bool(failed or judged.failed))


def processes() -> ForkServerContext:
    """A context whose processes are forked from one that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["evaluating_program", "openai", "pandas", "pyarrow.parquet", "transformers"])
    from multiprocessing import forkserver

    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()
    return context


if __name__ == "__main__":
    evaluate(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
