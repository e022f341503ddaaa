"""A gigabyte of rows is checked in less than 500 MB.

`python -m pytest -s -m bench --timeout 3600 tests/benchmarks/test_bench_check.py`
"""

import pytest
from large_rows import check_in_a_process, write_rows

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


def test_a_gigabyte_is_checked_in_less_than_500_megabytes(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 1000)
    try:
        peak, seconds, _ = check_in_a_process(path)
    finally:
        path.unlink()
    print(f"\n1000 MB: peak {peak:.0f} MB, {seconds:.0f} s, {1000 / seconds:.2f} MB/s")
    assert peak < 500
