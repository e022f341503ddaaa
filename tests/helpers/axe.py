"""axe-core, which finds what a page keeps from people who use a screen reader or a keyboard."""

import base64
import functools
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

VERSION = "4.14.1"
SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="


@functools.cache
def source() -> str:
    """The library's text, from the npm registry; the test is skipped where that cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core comes from the npm registry, and npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", f"axe-core@{VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"axe-core {VERSION} cannot be fetched: {done.stderr.strip()[-200:]}")
        [archive] = Path(folder).glob("*.tgz")
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        assert found == SHA512, "the registry gave another axe-core than the one that was looked at"
        with tarfile.open(archive) as files:
            member = files.extractfile("package/axe.min.js")
            assert member is not None
            return member.read().decode()


_RUN = """
const done = arguments[0];
const named = (found) => `${found.id}: ${found.help}: ${found.nodes.map((one) => one.html.slice(0, 200)).join(" | ")}`;
axe.run(document, {resultTypes: ["violations"]}).then((all) => done(all.violations.map(named)), (error) => done([String(error)]));
"""


def violations(browser: Any) -> list[str]:
    """What is wrong with the page as it is shown now: rule, and the elements. Best practices count, too."""
    browser.execute_script(source() + "; window.axe = axe")
    return list(browser.execute_async_script(_RUN))
