"""Import DeepSpeed and transformers without what no fine-tune uses: 4 s and 150 MB of each rank, and 79 s on a CPU."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")


def load(*, cuda: bool) -> None:
    """Import the libraries, and let DeepSpeed say only what is wrong; may be called any number of times."""
    with _as_if_missing("mlflow"):  # for DeepSpeed's autotuning
        import deepspeed  # noqa: F401
    with _as_if_missing("sklearn"):  # for transformers' assisted generation
        import transformers.generation.candidate_generator  # noqa: F401

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19.8 calls names that torch 2.13 has renamed, at every step.
    warnings.filterwarnings("ignore", message=r".*_tensor` is deprecated", category=FutureWarning)
    if not cuda:
        _skip_shared_memory_op()
    _skip_compiler()


@contextlib.contextmanager
def _as_if_missing(name: str) -> Iterator[None]:
    """While the block runs, let libraries do without a module that they would use for what no fine-tune asks of them.

    Of a rank's imports, MLflow and scikit-learn (with SciPy) are 1.6 of 7.5 seconds of CPU, and 150 of 640 MB of memory.
    """
    if name in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules[name] = None  # Python's own mark of a module that cannot be imported
    try:
        yield
    finally:
        del modules[name]


def _skip_shared_memory_op() -> None:
    """Avoid a 79 s compilation (measured on 2 cores) of an op that training never calls.

    On a CPU, DeepSpeed's `comm.torch.build_shm_op` compiles a shared-memory all-reduce that serves
    `inference_all_reduce` alone (deepspeed/comm/torch.py of 0.19.8); every collective of training goes through gloo.
    It is built only if it is among the compatible ops, a dictionary that DeepSpeed keeps open to edits.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}


def _skip_compiler() -> None:
    """Avoid 2 s of imports for the kernels of an optimizer that is not used.

    DeepSpeed 0.19.8 asks whether the optimizer is its Muon, and the import of Muon decorates its kernels with `torch.compile`,
    which imports the whole compiler (deepspeed/runtime/zero/muon/original_muon.py). Here they are decorated with nothing.
    """
    from deepspeed.runtime import compiler

    if not hasattr(compiler, "compile"):
        return

    def nothing(**_options: Any) -> Callable[[_T], _T]:
        return lambda function: function

    decorator, compiler.compile = compiler.compile, nothing
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    except ImportError:
        pass  # a version without Muon
    finally:
        compiler.compile = decorator
