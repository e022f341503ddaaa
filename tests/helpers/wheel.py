"""The package as somebody installs it: a wheel of what git tracks, alone in a virtual environment of its own.

The environment sees the packages of the running one through a .pth file, whose own .pth files do not count: an editable
install of this checkout is not among them.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tracked(*paths: str) -> list[str]:
    """Files under `paths` that git tracks and that are there, relative to the repository's root."""
    command = ["git", "ls-files", "-z", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def build_wheel(folder: Path) -> Path:
    """Build the wheel into `folder` from a copy of the tracked files, so that nothing else can be in it."""
    source = folder / "source"
    for name in tracked("inoc_ray", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Install `wheel` and nothing else into a new environment; return its programs' folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    bin_folder = folder / "bin"
    pip("--python", bin_folder / "python", "install", "--no-deps", "--no-index", wheel)
    command = [bin_folder / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(packages) / "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
    return bin_folder


def pip(*args: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
