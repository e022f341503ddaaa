"""The files of the team's tracking server agree with the schemas, the lock, each other and the settings that MLflow reads."""

import configparser
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
MLFLOW = ROOT / "mlflow"
BIN = Path(sys.executable).parent
SCHEMA = ROOT / "tests" / "schemas" / "compose-spec.json"
"""Of the Compose Specification (Apache 2.0), as the package check-jsonschema 0.39.0 carries it."""
COMPOSE = yaml.safe_load((MLFLOW / "compose.yaml").read_text())


def errors(compose: object) -> list[str]:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    return [error.message for error in validator.iter_errors(compose)]


def test_the_compose_file_keeps_to_the_specification():
    assert errors(COMPOSE) == []
    assert errors({"services": {"server": {"imagine": "x"}}}), "the schema accepts anything"


def test_services_depend_on_services_and_mount_volumes_and_files_that_are_there():
    services = COMPOSE["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            there = (MLFLOW / source).exists() or source == "./backups"
            assert there if source.startswith(".") else source in COMPOSE["volumes"]
    image = services["server"]["build"]
    assert (MLFLOW / image["context"] / image["dockerfile"]).is_file()
    # A service of a profile that is off must not be waited for.
    assert services["server"]["depends_on"]["bucket"]["required"] is False


def test_other_machines_reach_the_proxy_alone():
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert ports.keys() == {"server", "proxy"}
    assert all(port.startswith("127.0.0.1:") for port in ports["server"])


def test_every_secret_comes_from_the_file_that_is_written_for_it_once_and_for_its_owner(tmp_path):
    shutil.copy(MLFLOW / "make_env.sh", tmp_path)
    command = [tmp_path / "make_env.sh", "mlflow.example.org"]
    subprocess.run(command, check=True, capture_output=True)
    file = tmp_path / ".env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = dict(line.split("=", 1) for line in file.read_text().splitlines())
    secrets = {value for name, value in written.items() if re.search("PASSWORD|SECRET", name)}
    assert len(secrets) == 4
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets)
    asked = set(re.findall(r"\$\{(\w+):\?", (MLFLOW / "compose.yaml").read_text()))
    assert asked <= written.keys()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert ".env" in (ROOT / ".gitignore").read_text()


def test_the_requirements_are_the_locks_and_the_lock_has_all_that_they_need():
    lines = (MLFLOW / "requirements.txt").read_text().splitlines()
    pinned = {
        canonicalize_name(name): version
        for lock in ("cpu", "dev")
        for name, version in re.findall(
            r"^([\w.-]+)==(\S+)$", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.M
        )
    }
    ours = dict(line.split("==") for line in lines if "==" in line)
    assert len(ours) == 4
    assert {name: pinned[canonicalize_name(name)] for name in ours} == ours
    assert {line.split()[1] for line in lines if line.startswith("-c")} == {
        "../requirements/cpu.txt",
        "../requirements/dev.txt",
    }
    waiting, seen = list(ours), set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        assert name in pinned, f"{name} is not pinned"
        needed = map(Requirement, requires(name) or ())
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert len(seen) > 30


def test_mlflow_knows_every_setting_that_is_named():
    from mlflow import environment_variables as known
    from mlflow.cli import server

    options = {option.envvar for option in server.params if getattr(option, "envvar", None)}
    texts = {path: path.read_text() for path in MLFLOW.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    for path, text in texts.items():
        for name in set(re.findall(r"\bMLFLOW_[A-Z][A-Z0-9_]+", text)):
            assert name in options or hasattr(known, name), f"{path.name}: {name}"
    config = configparser.ConfigParser()
    config.read(MLFLOW / "basic_auth.ini")
    # MLflow ships a file with all of them, some in comments.
    shipped = (Path(known.__file__).parent / "server" / "auth" / "basic_auth.ini").read_text()
    assert [name for name in config["mlflow"] if not re.search(rf"^(# )?{name} = ", shipped, re.M)] == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path):
    """Their programs are not installed here, so another one stands in their place."""
    for unit in (MLFLOW / "systemd").iterdir():
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.M)
        (tmp_path / unit.name).write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.M))
    command = ["systemd-analyze", "verify", "--man=no", *sorted(str(path) for path in tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "mlflow.service").write_text("[Service]\nExecStart=relative\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_linters_of_shell_and_of_dockerfiles_are_content():
    scripts = sorted(map(str, MLFLOW.glob("*.sh")))
    assert len(scripts) == 2
    assert all(os.access(script, os.X_OK) for script in scripts)
    subprocess.run([BIN / "shellcheck", *scripts], check=True)
    # DL3042 and the like of apt do not apply; a failure names the rule.
    subprocess.run([BIN / "hadolint", MLFLOW / "Dockerfile"], check=True)
