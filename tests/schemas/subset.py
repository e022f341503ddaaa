"""Writes kubernetes.json: from the package kubernetes-validate, what the schema of KubeRay refers to, without descriptions.

pip download --no-deps kubernetes-validate==1.37.0 && python tests/schemas/subset.py kubernetes_validate-1.37.0-*.whl
"""

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RELEASE = "v1.37.0"
"""Of Kubernetes; strict: an unknown field is refused, as `kubectl` refuses it by default."""


def plain(value: Any, *, names: bool = False) -> Any:
    """The value without what validates nothing: descriptions, formats of Go, notes for servers. names: keys are fields."""
    if isinstance(value, dict):
        left = {
            key: plain(part, names=not names and key in ("properties", "$defs"))
            for key, part in value.items()
            if names or not (key in ("description", "default", "format") or key.startswith("x-kubernetes"))
        }
        return {k: v.replace("_definitions.json", "") if k == "$ref" and not names else v for k, v in left.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def references(text: str) -> set[str]:
    return set(re.findall(r"#/\$defs/([\w.]+)", text))


if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        path = f"kubernetes_validate/kubernetes-json-schema/{RELEASE}-local-strict/_definitions.json"
        everything = plain(json.loads(wheel.read(path)))["$defs"]
    wanted, found = references((FOLDER / "kuberay.yaml").read_text()), {}
    while wanted:
        name = wanted.pop()
        found[name] = everything[name]
        wanted |= references(json.dumps(found[name])) - found.keys()
    lines = ",\n".join(f'"{name}": {json.dumps(found[name])}' for name in sorted(found))
    (FOLDER / "kubernetes.json").write_text('{"$defs": {\n' + lines + "\n}}\n")
