"""A wheel of the repository has every file that the package needs, and its command works where no checkout is.

That it also runs a whole study is in test_end_to_end.py, whose first run is the wheel's.
"""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from environment import environment
from wheel import ROOT, build_wheel, install_wheel, tracked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_wheel(wheel, tmp_path_factory.mktemp("installed") / "venv")


def outside(command: list[object], folder: Path) -> str:
    """Standard output of a command that knows nothing of the checkout."""
    env = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_every_tracked_file_of_the_package_and_no_other(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(tracked("inoc_ray"))


def test_the_installed_package_is_that_of_the_wheel_file_by_file(programs: Path, tmp_path: Path) -> None:
    code = "import inoc_ray; print(inoc_ray.__path__[0])"
    folder = Path(outside([programs / "python", "-c", code], tmp_path).strip())
    assert folder.is_relative_to(programs.parent)
    for name in tracked("inoc_ray"):
        assert (folder.parent / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_it_plans_and_describes_the_quickstart_outside_the_repository(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_bytes((ROOT / "jobs" / "studies" / "quickstart.yaml").read_bytes())
    planned = outside([programs / "inoc-ray", "plan", "quickstart.yaml"], tmp_path)
    assert "specific_spanish" in planned
    assert "8 " in planned
    assert "miniature/spanish_caps" in outside([programs / "inoc-ray", "settings"], tmp_path)
    assert os.listdir(tmp_path) == ["quickstart.yaml"]
