"""The table of prices in docs/cluster.md is that of the catalogue, and has the machines of cluster.yaml."""

import re
from pathlib import Path

import pytest
import yaml

from inoc_ray.cluster.hardware import GPUS, MACHINES, PRICES, Machine

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "cluster.md"
HEAD = "| machine | GPUs | $ an hour | $ a GPU-hour |\n|---|---|---|---|\n"


def line(machine: Machine) -> str:
    price = machine.dollars_per_hour
    assert price is not None
    if machine.gpu is None:
        return f"| `{machine.name}` | – | {price:.2f} | – |\n"
    gpus = f"{machine.gpus} × {machine.gpu}, {GPUS[machine.gpu].memory_gib:g} GiB"
    return f"| `{machine.name}` | {gpus} | {price:.2f} | {price / machine.gpus:.2f} |\n"


def shown() -> str:
    found = re.search(r"<!-- prices: begin -->\n(.*?)<!-- prices: end -->", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_prices_are_those_of_the_catalogue():
    names = re.findall(r"^\| `(\S+)` \|", shown(), re.M)
    assert len(names) >= 6
    assert shown() == HEAD + "".join(line(MACHINES[name]) for name in names)


def test_the_machines_of_the_cluster_are_in_the_table():
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    for kind in types.values():
        assert f"`{kind['node_config']['InstanceType']}`" in shown()


def test_what_the_page_says_of_prices_in_words():
    text = " ".join(PAGE.read_text().split())
    assert PRICES.partition(" for ")[2] in text
    daily = MACHINES["m7i.2xlarge"].dollars_per_hour
    assert daily is not None
    assert f"about ${24 * daily:.2f} a day" in text
    one, eight = (MACHINES[name].dollars_per_hour for name in ("p5.4xlarge", "p5.48xlarge"))
    assert one is not None
    assert 8 * one == pytest.approx(eight)
