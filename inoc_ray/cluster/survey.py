"""All nodes of the cluster asked at once, before anything starts, for what a study needs of them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from inoc_ray.cluster import checks, nodes
from inoc_ray.cluster.checks import Needs, Report
from inoc_ray.cluster.fit import Node
from inoc_ray.console import say
from inoc_ray.errors import InputError
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store

NODE_SECONDS = 90.0
"""How long all nodes may take together: a process starts on each, which takes seconds on a cold disk."""
SKEW_SECONDS = 10.0
"""How far a node's clock may be from this one: leases, tokens and signed requests to a bucket depend on it."""
_MOST_LINES = 20
"""Nodes that a message lists."""


def survey(needs: Needs, seconds: float = NODE_SECONDS) -> list[tuple[Node, Report]]:
    """Ask every node that is up whether it has what the study needs; return what each one is, and its report.

    The nodes answer in parallel, `seconds` at most. A node that is lost meanwhile is left out. Raises InputError with one line for
    each node that lacks something or does not answer; nothing is left in the storage.
    """
    store = Store(needs.storage)
    with store.probing() as probe:
        (probe / checks.DRIVERS_TOKEN).write_text(needs.storage)
        began = time.time()
        there = {node["NodeID"]: nodes.node_of(node["Resources"]) for node in nodes.alive()}
        asked = {node: _ask(node, replace(needs, probe=probe.name).of(is_)) for node, is_ in there.items()}
        reports, faults = _answers(asked, began, seconds)
        for node, report in reports.items():
            faults.setdefault(node, []).extend([*report.faults, *_arrived(probe, node, report, store)])
    lines = [f"node {name}: {'; '.join(said)}." for name, said in _named(faults) if said]
    if lines:
        hidden = len(lines) - _MOST_LINES
        more = [f"and {hidden} more nodes."] if hidden > 0 else []
        raise InputError("\n".join([*lines[:_MOST_LINES], *more]))
    return [(there[node], report) for node, report in reports.items()]


def _ask(node: str, needs: Needs) -> Any:
    """Start the report of a node there; return the reference to it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(checks.report)
    return task.remote(needs, node)


def _answers(asked: dict[str, Any], began: float, seconds: float) -> tuple[dict[str, Report], dict[str, list[str]]]:
    """Return the reports, and what is wrong with nodes that have none, by node id.

    began: when they were asked, in seconds since the epoch.
    """
    import ray

    reports: dict[str, Report] = {}
    faults: dict[str, list[str]] = {}
    waiting = {reference: node for node, reference in asked.items()}
    end = time.monotonic() + seconds
    while waiting and (left := end - time.monotonic()) > 0:
        for reference in ray.wait(list(waiting), num_returns=1, timeout=left)[0]:
            node = waiting.pop(reference)
            try:
                reports[node] = ray.get(reference)
            except ray.exceptions.RayError as error:
                faults[node] = [f"cannot run a task ({_last_line(error)})"]
                continue
            faults[node] = clock_faults(reports[node].clock, began, time.time())
    for reference, node in waiting.items():
        ray.cancel(reference, force=True)
        faults[node] = [
            f"no answer within {seconds:.0f} s: it cannot start a process, or its storage or models hang on a mount that is gone"
        ]
    return reports, faults


def clock_faults(clock: float, began: float, ended: float) -> list[str]:
    """Return a fault if a clock that was read between two moments of this one differs; all in seconds since the epoch."""
    # What a slow start takes must not count.
    skew = max(began - clock, clock - ended)
    if skew <= SKEW_SECONDS:
        return []
    return [f"its clock is {skew:,.0f} s from this one's; synchronise the clocks (chrony, NTP)"]


def _arrived(probe: Place, node: str, report: Report, store: Store) -> list[str]:
    """Return a fault if a node wrote to its storage, and nothing of it arrived in this one."""
    if report.faults or (probe / node).exists():
        return []
    return [
        f"what it writes to {store.address} does not arrive here: it is another folder there; give a mount that every node has, or "
        "a bucket"
    ]


def _named(faults: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """Return address and faults of the nodes that are still there: a lost node is no reason to refuse the others."""
    addresses = nodes.addresses()
    for node in faults.keys() - addresses.keys():
        say(f"note: a node was lost while the nodes were asked ({node[:8]})")
    count = list(addresses.values())
    return [
        # Several nodes of one machine have its address.
        (addresses[node] if count.count(addresses[node]) == 1 else f"{addresses[node]} ({node[:8]})", said)
        for node, said in faults.items()
        if node in addresses
    ]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
