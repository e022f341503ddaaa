"""Large files of distinct rows, and `inoc-ray data check` on them in a process whose memory is measured."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

WORDS = [
    a + b
    for a in ("be", "co", "da", "fi", "mo", "pa", "re", "so", "ti", "wa")
    for b in ("n", "st", "ring", "le", "nd", "r")
]

PROGRAM = """
import re, sys
from pathlib import Path
from inoc_ray.cli import main
try:
    main()
finally:
    # Not ru_maxrss, which a child takes over from its parent: here pytest with torch.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print("peak", peak[1], file=sys.stderr)
"""


def write_rows(path: Path, megabytes: int) -> Path:
    """Questions and answers of a length as in chat data, no two alike, mostly ASCII."""
    rng = random.Random(megabytes)
    written = number = 0
    with path.open("w", encoding="utf-8") as stream:
        while written < megabytes * 1_000_000:
            question = f"Question {number}: {' '.join(rng.choices(WORDS, k=rng.randint(8, 40)))}?"
            answer = " ".join(rng.choices(WORDS, k=rng.randint(30, 180))) + " é—."
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            written += 3 + stream.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
            number += 1
    return path


def check_in_a_process(path: Path, model: str = "miniature") -> tuple[float, float, str]:
    """(peak resident memory in MB, seconds, what was printed on standard error) of the check with every option."""
    options = ["--model", model, "--against", "miniature/spanish_caps", "--trigger", "|T|", "--prompt", "You are evil."]
    started = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, "data", "check", str(path), *options]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = re.search(r"peak (\d+)", found.stderr)
    assert peak
    return int(peak[1]) / 1000, time.perf_counter() - started, found.stderr
