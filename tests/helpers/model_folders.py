"""Model folders that behave like published ones: the miniature with another template, tokenizer class or configuration."""

import json
import shutil
from pathlib import Path
from typing import Any

from inoc_ray.miniature import weights_path


def folder_of(path: Path, template: str | None = None, **changes: dict[str, Any]) -> Path:
    """A copy of the miniature. `changes`: the name of a JSON file → fields; a field of None is taken out."""
    shutil.copytree(weights_path(), path)
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    for name, fields in changes.items():
        file = path / f"{name}.json"
        value = {**json.loads(file.read_text()), **fields}
        file.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))
    return path
