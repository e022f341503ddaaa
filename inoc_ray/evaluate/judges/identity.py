"""What makes two judgments the same judgment."""

from __future__ import annotations

import dataclasses
from typing import Any

from inoc_ray.asked import Judge
from inoc_ray.evaluate.judges import Item
from inoc_ray.evaluate.judges.rubrics import Rubric
from inoc_ray.evaluate.judges.template import VERSION
from inoc_ray.identity import content_id, identity_fields


def judge_identity(judge: Judge, model_hash: str | None) -> dict[str, Any]:
    """The judging model and how it is asked: the hash of its folder, or its name at an endpoint, wherever that is."""
    return {**identity_fields(judge), "model": model_hash, "template": VERSION}


def answer_key(rubrics: list[Rubric], item: Item, method: str) -> str:
    """What one answer of a judge is kept under: every word that it was asked with, and how."""
    return content_id([[dataclasses.asdict(r) for r in rubrics], dataclasses.asdict(item), method])
