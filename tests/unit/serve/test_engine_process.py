"""A process of an engine ends with its replica's process, however that ends."""

import os
import subprocess
import sys

from inoc_ray.serve import engine_process

ENGINE = f"""
import time
import {engine_process.__name__}
print("there", flush=True)
time.sleep(60)
"""


def test_the_engine_is_killed_soon_after_its_replica_and_not_before():
    replica = subprocess.Popen(["sleep", "60"])
    env = os.environ | {engine_process.REPLICA: str(replica.pid)}
    engine = subprocess.Popen([sys.executable, "-c", ENGINE], stdout=subprocess.PIPE, env=env)
    try:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"there\n"
        try:
            engine.wait(2 * engine_process.LOOK_SECONDS)
            raise AssertionError("it ended while its replica lived")
        except subprocess.TimeoutExpired:
            pass
        replica.kill()
        # Until then it is a zombie, which still has its number.
        replica.wait()
        assert engine.wait(10) == -9
    finally:
        engine.kill()
        replica.kill()
