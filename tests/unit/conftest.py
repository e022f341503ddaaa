"""What several unit tests start from."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inoc_ray.cli import main


@pytest.fixture(scope="module", autouse=True)
def no_power_is_cut() -> Iterator[None]:
    """Leave out the waits for the disk: they matter where the machine itself dies, and what is killed here is a process.

    For one file at a time, since an integration test that follows in the same process waits as the product does.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that passes for a model until somebody loads it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def inoc_ray(capsys, monkeypatch, tmp_path):
    """Runs `inoc-ray ARGS` in this process; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inoc-ray", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run
