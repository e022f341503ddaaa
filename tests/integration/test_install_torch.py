"""`make setup` takes torch from where pip finds it, and from the index of CPU builds only if that is nowhere."""

import base64
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VERSION = next(
    line.removeprefix("torch==")
    for line in (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    if line.startswith("torch==")
)
NOWHERE = "http://127.0.0.1:9/simple"


def make_wheel(folder: Path, version: str) -> Path:
    """A package named torch that holds nothing but its version."""
    info = f"torch-{version}.dist-info"
    files = {
        "torch/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for name, text in files.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return path


@dataclass
class Index:
    """A package index on the loopback address; `asked` are the paths that were asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def index(tmp_path) -> Iterator[Index]:
    """It has the wheel of torch's CPU build, as PyTorch's own index does."""
    folder = tmp_path / "index" / "torch"
    wheel = make_wheel(folder, VERSION)
    (folder / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>')
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Index(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an empty virtual environment."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


@pytest.fixture
def empty(python) -> Path:
    """The same without torch."""
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "torch"], check=True, capture_output=True)
    return python


def install(python: Path, index: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """The script as the Makefile calls it, on a machine whose pip knows an ordinary index without torch, and no proxy."""
    ordinary = python.parent.parent / "ordinary"
    ordinary.mkdir(exist_ok=True)
    own = {k: v for k, v in os.environ.items() if not k.startswith("PIP_") and not k.lower().endswith("_proxy")}
    return subprocess.run(
        [ROOT / "requirements" / "install_torch.sh", python, ROOT / "requirements" / "cpu.txt", index],
        env={**own, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": ordinary.as_uri(), "PIP_RETRIES": "0", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def installed(python: Path) -> str:
    return subprocess.run(
        [python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_folder_of_wheels_that_pip_knows_is_enough_and_nobody_else_is_asked(empty, index, tmp_path):
    make_wheel(tmp_path / "wheels", VERSION)
    done = install(empty, index.url, PIP_FIND_LINKS=str(tmp_path / "wheels"))
    assert (done.returncode, done.stderr) == (0, "")
    assert installed(empty) == VERSION
    assert index.asked == []


def test_without_one_it_comes_from_the_index_of_cpu_builds(empty, index):
    done = install(empty, index.url)
    assert done.returncode == 0, done.stderr
    assert installed(empty) == VERSION
    assert f"taking it from {index.url}" in done.stderr
    assert "ERROR" not in done.stderr


def test_what_is_installed_already_is_left_alone(empty, index):
    install(empty, index.url)
    index.asked.clear()
    done = install(empty, NOWHERE)
    assert (done.returncode, done.stderr, index.asked) == (0, "", [])


def test_another_build_of_the_same_version_does_not_pass_for_it(empty, index, tmp_path):
    make_wheel(tmp_path / "wheels", VERSION.partition("+")[0])
    done = install(empty, index.url, PIP_FIND_LINKS=str(tmp_path / "wheels"))
    assert done.returncode == 0, done.stderr
    assert installed(empty) == VERSION


def test_where_it_is_nowhere_the_message_says_what_to_set(empty):
    done = install(empty, NOWHERE)
    assert done.returncode == 1
    assert f"torch=={VERSION} can be installed neither from where pip looks nor from {NOWHERE}" in done.stderr
    assert "make TORCH_INDEX=URL" in done.stderr


@pytest.mark.parametrize(("lock", "script"), [("cpu", True), ("gpu", False)])
def test_setup_does_this_before_it_installs_the_lock(tmp_path, lock, script):
    done = subprocess.run(
        [
            "make",
            "--dry-run",
            "setup",
            f"LOCK={lock}",
            f"VENV={tmp_path / 'none'}",
            "TORCH_INDEX=http://index.example/cpu",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = [line for line in done.stdout.splitlines() if "install_torch.sh" in line or "-r requirements/" in line]
    assert ["install_torch.sh" in step for step in steps] == ([True, False] if script else [False])
    assert not script or '"http://index.example/cpu"' in steps[0]


def test_an_environment_of_the_other_lock_is_not_installed_over(tmp_path):
    (tmp_path / ".installed-cpu").touch()
    done = subprocess.run(
        ["make", "setup", "LOCK=gpu", f"VENV={tmp_path}", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "has another lock's packages" in done.stderr
    assert not (tmp_path / "bin").exists()
