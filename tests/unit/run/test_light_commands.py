"""Commands that only look at results load nothing that trains, serves or sizes: it takes as long as what they do."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import sys
import inoc_ray.cli, inoc_ray.run.load, inoc_ray.run.publish, inoc_ray.run.report_samples, inoc_ray.results.table
rooms = ("train", "serve", "sizing", "builders", "endpoint.connection")
loaded = [name for name in sys.modules if name.startswith(tuple(f"inoc_ray.{room}" for room in rooms))]
sys.exit(", ".join(loaded) or 0)
"""


def test_what_compares_loads_nothing_that_trains_or_serves():
    found = subprocess.run([sys.executable, "-c", _CODE], check=False, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
