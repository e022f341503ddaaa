"""Tokenizers are loaded by several threads at once, in a process that has not imported transformers yet."""

import subprocess
import sys

PROGRAM = """
import sys, threading
from inoc_ray.miniature import weights_path
from inoc_ray.models.tokenizer import load_tokenizer

assert "transformers" not in sys.modules
sys.setswitchinterval(1e-5)
loaded, start = [], threading.Barrier(4)

def load():
    start.wait()
    loaded.append(load_tokenizer(str(weights_path()))("a b")["input_ids"])

threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(loaded) == 4 and loaded == loaded[:1] * 4
"""


def test_several_threads_load_a_tokenizer_first():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
