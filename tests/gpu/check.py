"""Show on this machine's GPU that fine-tunes of 7B and 32B models run, how fast, in how much memory: `make gpu-check`.

Needs torch 2.11, transformers 5.16, peft and deepspeed, and nothing else: no Ray, no vLLM, no network. Models have the
published configurations and random weights. Without a GPU small models stand in for them, so that the same path is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cases import CASES, CURVES, REFERENCES, SCALED, Case, Curve
from run_cases import GIB, host_memory

HERE = Path(__file__).resolve().parent
FLAGS = ["-S"] if sys.flags.no_site else []
"""Of this interpreter, for its children."""
PACKAGES = ("torch", "transformers", "peft", "deepspeed")


def child(asked: dict[str, Any], *, cpu: bool = False) -> list[dict[str, Any]]:
    """Run run_cases.py in a process of its own and return its lines; an unexpected end is a last line with `error`."""
    # DeepSpeed's launcher sets these where it is used; alone the process is a group of one.
    env = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    if cpu:
        env |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, *FLAGS, str(HERE / "run_cases.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        lines.append({"error": f"the process ended with {done.returncode}; its last words are above"})
    return lines


def has_gpu() -> bool:
    """Whether torch sees a GPU, asked in another process: this one holds none of its memory."""
    code = "import torch; print(torch.cuda.is_available())"
    return (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "True"
    )


def run_cases(cases: Sequence[Case], small: bool) -> list[dict[str, Any]]:
    """Run the fine-tunes, a process per model, and return a result per case in their order."""
    results: dict[int, dict[str, Any]] = {}
    for name in dict.fromkeys(case.model.name for case in cases):
        these = [(number, case) for number, case in enumerate(cases) if case.model.name == name]
        model = these[0][1].model
        model = model.stand_in() if small else model
        print(f"{name}{' (a small stand-in)' if small else ''} …", flush=True)
        plain = [(number, {"recipe": case.recipe, "resources": case.resources}) for number, case in these]
        lines = child({"config": model.config, "small": small, "cases": plain})
        results |= {line["case"]: line for line in lines if "case" in line}
        error = next((line["error"] for line in lines if "case" not in line), "it did not begin")
        results |= {number: {"error": error} for number, _ in these if number not in results}
    return [results[number] for number in range(len(cases))]


def run_curves(curves: Sequence[Curve], *, cpu: bool) -> list[list[float]]:
    """Run loss curves of the miniature in one process; a curve that did not come is empty."""
    plain = [(number, dataclasses.asdict(curve)) for number, curve in enumerate(curves)]
    lines = {line["curve"]: line["losses"] for line in child({"curves": plain}, cpu=cpu) if "curve" in line}
    return [lines.get(number, []) for number in range(len(curves))]


def percent(value: float | None) -> str:
    """Write a share in percent."""
    return "–" if value is None else f"{value:.1%}"


def gib(value: float | None) -> str:
    """Write bytes as GiB."""
    return "–" if value is None else f"{value / GIB:.1f}" if value >= GIB else f"{value / GIB:.3f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


HEAD = (
    "model",
    "fine-tune",
    "parameters",
    "tokens/step",
    "tokens/s",
    "MFU",
    "HFU",
    "peak GiB",
    "card GiB",
    "planned GiB",
)


def speed_table(cases: Sequence[Case], results: Sequence[dict[str, Any]]) -> str:
    """Write what each fine-tune did."""
    rows: list[Sequence[str]] = [HEAD]
    for case, result in zip(cases, results, strict=True):
        if "error" in result:
            rows.append([case.model.name, case.name, "", "", result["error"], *[""] * 5])
            continue
        rows.append(
            [
                case.model.name,
                case.name,
                f"{result['parameters']:,}",
                f"{result['tokens_per_step']:,.0f}",
                f"{result['tokens_per_second']:,.0f}",
                percent(result["mfu"]),
                percent(result["hfu"]),
                gib(result["peak"]),
                gib(result["card"]),
                gib(result["planned"]),
            ]
        )
    return table(rows)


def ways(cases: Sequence[Case], results: Sequence[dict[str, Any]]) -> str:
    """Write how rows stood and how the loss was computed, once for each way."""
    found: dict[str, list[str]] = {}
    for case, result in zip(cases, results, strict=True):
        if "reason" in result:
            found.setdefault(result["reason"], []).append(f"{case.model.name}: {case.name}")
    return "\n".join(f"- {reason} ({'; '.join(names)})" for reason, names in found.items())


def scaled(cases: Sequence[Case], results: Sequence[dict[str, Any]]) -> str | None:
    """Continue the time and memory of one and two layers on a straight line to the whole model; None without both."""
    name, layers = SCALED
    found = [r for case, r in zip(cases, results, strict=True) if case.model.name.startswith(name) and "error" not in r]
    if len(found) != 2:
        return None
    one, two = found
    seconds = one["seconds_per_token"] + (layers - 1) * (two["seconds_per_token"] - one["seconds_per_token"])
    peak = one["peak"] + (layers - 1) * (two["peak"] - one["peak"])
    if seconds <= 0:
        return f"{name}: one layer took as long as two, so nothing can be said of {layers}."
    return (
        f"{name}, all {layers} layers by a straight line through one and two (not measured): "
        f"{1 / seconds:,.0f} tokens/s, {gib(peak)} GiB."
    )


def curve_table(
    curves: Sequence[Curve], losses: Sequence[list[float]], references: dict[str, list[float]]
) -> tuple[str, bool]:
    """Write how far each curve is from its reference; also whether every one is within its tolerance."""
    rows, good = [["miniature", "largest difference of a loss", "allowed", ""]], True
    for curve, got in zip(curves, losses, strict=True):
        expected = references[curve.recipe["method"]]
        if not expected or len(got) != len(expected):
            rows.append([curve.name, "no curve", f"{curve.tolerance:g}", "FAILED"])
            good = False
            continue
        apart = max(abs(a - b) for a, b in zip(got, expected, strict=True))
        within = apart <= curve.tolerance
        rows.append([curve.name, f"{apart:.2g}", f"{curve.tolerance:g}", "" if within else "FAILED"])
        good = good and within
    return table(rows), good


def heading(device: str, small: bool) -> str:
    """Say on what and with what the numbers were made."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    note = "\n\nNo GPU: small models stand in for the named ones; only the path is shown." if small else ""
    return f"## {device} ({time.strftime('%Y-%m-%d')}; {python}, {versions}; {host_memory() / GIB:.0f} GiB of host memory){note}"


def main() -> int:
    """Run everything, print the tables, and return 1 when a fine-tune failed or a curve is too far from the CPU's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    out = parser.parse_args().out
    small = not has_gpu()
    print("Loss curves of the miniature …", flush=True)
    names = [curve.recipe["method"] for curve in REFERENCES]
    references = dict(zip(names, run_curves(REFERENCES, cpu=True), strict=True))
    parity, good = curve_table(CURVES, run_curves(CURVES, cpu=False), references)
    results = run_cases(CASES, small)
    device = next((result["device"] for result in results if "device" in result), "no device")
    parts = [heading(device, small), speed_table(CASES, results), scaled(CASES, results), ways(CASES, results), parity]
    text = "\n\n".join(part for part in parts if part) + "\n"
    print("\n" + text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    return 0 if good and not any("error" in result for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
