"""The set-up commands of cluster.yaml for real, in an empty home folder: a quarter of an hour, and 20 GB of disk while they run."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from machines import ROOT, why_not

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "there are namespaces"),
]
KEPT = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
)
"""How this machine reaches the package index. No folder of wheels: pip would take torch's CPU build from it."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder with a checkout and the files that `ray up` brings along, and nothing else."""
    folder = tmp_path / "ubuntu"
    (folder / ".ray").mkdir(parents=True)
    (folder / ".ray" / "auth_token").write_text("a-token-of-this-test-alone-0123456789")
    (folder / ".inoc_ray.env").touch()
    (folder / ".bashrc").touch()
    subprocess.run(["git", "clone", "-q", ROOT, folder / "inoc_ray"], check=True)
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


def test_a_node_is_set_up_from_nothing(home):
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    python = Path(os.path.realpath(sys.executable)).parent
    environment = {key: value for key, value in os.environ.items() if key in KEPT}
    environment |= {
        "HOME": "/home/ubuntu",
        "PATH": f"{python}:/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": str(home.parent),
    }
    for command in (*config["setup_commands"], *config["head_setup_commands"]):
        if command.startswith("sudo "):
            print(f"\nleft out: {command}")
            continue
        inside = f'mount --bind "{home.parent}" /home && cd /home/ubuntu && exec bash --login -c "$0"'
        began = time.monotonic()
        subprocess.run(["unshare", "--mount", "bash", "-c", inside, command], env=environment, check=True)
        print(f"\n{time.monotonic() - began:6.1f} s  {command}")
    assert any((home / "inoc_ray_venv").glob(".installed-*"))
