"""`python evaluating_program.py STUDY STORAGE URL`: asks and judges what a study misses, its engines being a stub at URL.

What `inoc-ray evaluate` does but for Ray and vLLM, so that it can be killed ten times in a few seconds.
"""

import contextlib
import sys
from pathlib import Path

from inoc_ray.evaluate.grading import judge_missing
from inoc_ray.evaluate.sampling import ask_missing
from inoc_ray.plan.build import build_plan
from inoc_ray.run.load import load_study
from inoc_ray.serve.app import Endpoint
from inoc_ray.store.store import Store


@contextlib.contextmanager
def stub(spec):
    yield Endpoint(sys.argv[3], spec.model_id, None, spec.name, False, 0.0)


def main() -> None:
    study, store = load_study(Path(sys.argv[1])), Store(sys.argv[2])
    failed = ask_missing(build_plan(study, store), store, stub)
    judged = judge_missing(build_plan(study, store), store)
    print(f"failed {failed + judged.failed} calls {judged.calls}")
    sys.exit(bool(failed or judged.failed))


if __name__ == "__main__":
    main()
