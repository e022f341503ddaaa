"""The paper's claims on its settings, which paper_claims.yaml holds."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from inoc_ray.config.reading import load_yaml
from inoc_ray.study.claims import Claim

_FILE = "paper_claims.yaml"


@functools.cache
def paper_claims() -> tuple[Claim, ...]:
    """Return the paper's claims in the order of the paper. Their `settings` are names without the family's prefix."""
    text = resources.files("inoc_ray.settings").joinpath(_FILE).read_text(encoding="utf-8")
    return tuple(Claim.model_validate(entry) for entry in load_yaml(text, Path(_FILE)))
