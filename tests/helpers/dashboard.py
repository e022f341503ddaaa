"""Grafana's dashboard of the package: its panels, and the metrics and tags that their queries name."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "monitoring" / "grafana.json"
GPUS_ALONE = {"ray_node_gpus_utilization", "ray_node_gram_used"}
"""What a node without GPUs does not export."""
_FUNCTIONS = {"sum", "avg", "max", "min", "by", "rate", "histogram_quantile", "label_values"}


def dashboard() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(FILE.read_text())
    return value


def queries() -> list[str]:
    """The queries of all panels and variables."""
    value = dashboard()
    panels = [target["expr"] for panel in value["panels"] for target in panel.get("targets", ())]
    return [*panels, *(one["query"] for one in value["templating"]["list"] if one["type"] == "query")]


def metrics_of(query: str) -> set[str]:
    """The metrics that a query names: what is left of it without tags, texts and functions."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|, \w+\)$|\"[^\"]*\"", " ", query)
    return set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", bare)) - _FUNCTIONS


def tags_of(query: str) -> set[str]:
    """The tags that a query selects or sums by."""
    selected = re.findall(r"(\w+)\s*=~?", " ".join(re.findall(r"\{([^}]*)\}", query)))
    return {*selected, *re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", query)))}
