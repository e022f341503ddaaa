"""Draws the panels of deploy/monitoring/grafana.json, each by its own queries, from a running Prometheus.

Grafana lays them out like this; what is shown is what Prometheus answers, so an empty panel is a query that found nothing.

ray start --head --metrics-export-port=8080
prometheus --config.file=deploy/monitoring/prometheus.yml
RAY_ADDRESS=auto inoc-ray run jobs/studies/quickstart.yaml
python docs/dashboard_page.py http://127.0.0.1:9090 --minutes 5 --out docs/dashboard.png
"""

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "deploy" / "monitoring" / "grafana.json"
STEP = 10
VARIABLES = {"$study": ".*", "$arm": ".*", "$__rate_interval": f"{4 * STEP}s"}
"""What Grafana puts in their place: everything, and four times the interval of scrapes."""
UNITS = {
    "percentunit": (100.0, "%"),
    "percent": (1.0, "%"),
    "bytes": (1e-9, "GB"),
    "decmbytes": (1e-3, "GB"),
    "s": (1.0, "s"),
}
MOST_LEGENDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--minutes", type=float, default=5.0, help="how far the panels look back")
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = json.loads(DASHBOARD.read_text())["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(19, height * 0.42))
    end = time.time()
    empty = []
    for panel in panels:
        place = panel["gridPos"]
        top = 1 - place["y"] / height
        if panel["type"] == "row":
            figure.text(0.01, top - 0.5 * place["h"] / height, panel["title"], fontsize=15, weight="bold", va="center")
            continue
        box = (
            place["x"] / 24 + 0.035,
            top - (place["h"] - 1.4) / height,
            place["w"] / 24 - 0.055,
            (place["h"] - 2.6) / height,
        )
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], loc="left", fontsize=11)
        series = [
            line for target in panel["targets"] for line in answered(given.address, target, end, 60 * given.minutes)
        ]
        draw(axes, panel, series)
        if not series:
            empty.append(panel["title"])
    figure.savefig(given.out, dpi=70)
    print(f"{given.out}: empty panels: {', '.join(empty) or 'none'}")


def answered(
    address: str, target: dict[str, Any], end: float, seconds: float
) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return the series that Prometheus gives for a panel's query: a legend, and (Unix time in s, value) of each."""
    query = target["expr"]
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    given = urllib.parse.urlencode({"query": query, "start": end - seconds, "end": end, "step": STEP})
    with urllib.request.urlopen(f"{address}/api/v1/query_range?{given}", timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    return [
        (
            re.sub(
                r"\{\{\s*(\w+)\s*\}\}",
                lambda tag, one=one: one["metric"].get(tag[1], ""),
                target.get("legendFormat", ""),
            ),
            [(at, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf", "-Inf")],
        )
        for one in found
    ]


def draw(axes: Any, panel: dict[str, Any], series: list[tuple[str, list[tuple[float, float]]]]) -> None:
    """Draw a panel's series in its unit: lines over time, or bars of the last value."""
    factor, unit = UNITS.get(panel["fieldConfig"]["defaults"].get("unit", ""), (1.0, ""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if not series:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes, color="grey")
    elif panel["type"] == "timeseries":
        for legend, points in series:
            axes.plot(
                [datetime.fromtimestamp(at) for at, _ in points], [factor * value for _, value in points], label=legend
            )
        axes.set_ylabel(unit, fontsize=8)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.tick_params(axis="x", labelrotation=20)
        if len(series) <= MOST_LEGENDS:
            axes.legend(fontsize=7, frameon=False)
    else:
        last = [(legend, factor * points[-1][1]) for legend, points in series if points]
        bars = axes.barh([legend for legend, _ in last], [value for _, value in last], color="#0072b2")
        axes.bar_label(bars, fmt="{:.3g} " + unit, fontsize=9)


if __name__ == "__main__":
    main()
