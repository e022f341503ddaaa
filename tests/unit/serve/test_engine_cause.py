"""An engine that does not start is reported with its cause, not with where it would have been found."""

from inoc_ray.serve.start_failure import MARK, cause_in, cause_of, marked_cause

# What vLLM 0.29 writes, shortened.
LOG = """\
(EngineCore pid=7) WARNING 11-25 20:31:22 [vllm.py:663] Model Runner V2 requires Triton; using the V1 model runner instead.
(EngineCore pid=7) ERROR 11-25 20:31:26 [core.py:1374] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-25 20:31:26 [core.py:1374] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-25 20:31:26 [core.py:1374]     raise ValueError(
(EngineCore pid=7) ERROR 11-25 20:31:26 [core.py:1374] ValueError: To serve at least one request, 2.0 GiB are needed.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
OUTER = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")


def test_the_cause_is_the_error_of_the_engine_s_own_process():
    assert cause_of(OUTER, LOG) == "ValueError: To serve at least one request, 2.0 GiB are needed."


def test_an_error_that_says_its_cause_is_taken_as_it_is():
    assert cause_of(OSError("no file named model.safetensors"), LOG) == "OSError: no file named model.safetensors"


def test_without_a_cause_in_the_log_the_error_itself_is_named():
    assert cause_in("nothing here\n") is None
    assert cause_of(OUTER, "").startswith("RuntimeError: Engine core initialization failed")


def test_the_class_of_an_error_may_stand_in_a_module():
    assert cause_in("x] torch.OutOfMemoryError: CUDA out of memory.") == "torch.OutOfMemoryError: CUDA out of memory."


def test_the_cause_is_found_among_the_words_of_a_replica_s_traceback():
    told = f"The deployment failed.\n  File x\nRuntimeError: {MARK}ValueError: too small\n\nmore words"
    assert marked_cause(told) == "ValueError: too small"
    assert marked_cause("The deployment failed.") is None
