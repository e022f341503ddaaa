"""The check of a large file stays in bounded memory; the whole gigabyte is in tests/benchmarks/test_bench_check.py."""

import pytest
from large_rows import check_in_a_process, write_rows

pytestmark = pytest.mark.slow


def test_four_times_the_rows_take_hardly_more_memory_and_show_progress(tmp_path):
    """20 bytes a row are kept: 15 MB more are 20,000 rows and 0.4 MB. Reading either file whole would show at once."""
    small, _, quiet = check_in_a_process(write_rows(tmp_path / "small.jsonl", 8))
    large, _, progress = check_in_a_process(write_rows(tmp_path / "large.jsonl", 32))
    assert large - small < 12
    assert large < 250
    assert "checking" not in quiet
    assert "checking 32/32 MB" in progress
