"""The files of deploy/monitoring: the dashboard is one of Grafana's, and asks for nothing that nobody exports."""

import importlib.util
import json
import re
from itertools import combinations
from pathlib import Path

import jsonschema
import pytest
import yaml
from dashboard import ROOT, dashboard, metrics_of, queries, tags_of

from inoc_ray.run.metrics import METRICS

OURS = {f"ray_{metric.name}": set(metric.tags) for metric in METRICS}
SCHEMA = json.loads((ROOT / "tests" / "schemas" / "grafana.json").read_text())


def source(package: str, *parts: str) -> str:
    """The text of a module, which is not imported."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent.joinpath(*parts).read_text()


def test_the_dashboard_is_what_grafana_takes():
    jsonschema.validate(dashboard(), SCHEMA, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("place", "value"),
    [("panels", [{"type": "timeseries", "titel": "x"}]), ("schemaVersion", "39"), ("refresh", "often")],
)
def test_the_schema_refuses_what_grafana_would_not_show(place: str, value: object):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**dashboard(), place: value}, SCHEMA)


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        for g in (panel["gridPos"] for panel in panels)
    ]
    assert all(x < 24 for cell in cells for x, _ in cell)
    assert not [pair for pair in combinations(cells, 2) if pair[0] & pair[1]]


def test_queries_name_metrics_of_ours_of_vllm_and_of_ray_alone():
    vllm = source("vllm", "v1", "metrics", "loggers.py")
    ray = source("ray", "dashboard", "modules", "reporter", "reporter_agent.py")
    seen: set[str] = set()
    for query in queries():
        names = metrics_of(query)
        assert names, query
        for name in names:
            if name in OURS:
                assert tags_of(query) <= OURS[name], query
            elif name.startswith("ray_vllm_"):
                bare = re.sub("_(total|bucket)$", "", name.removeprefix("ray_vllm_"))
                assert f'name="vllm:{bare}"' in vllm, name
                assert tags_of(query) <= {"model_name", "le"}, query
            elif name != "ray_resources":
                assert f'"{name.removeprefix("ray_")}"' in ray, name
        seen |= names
    assert OURS.keys() <= seen, "a gauge that no panel shows"


def test_legends_and_variables_are_there():
    value = dashboard()
    variables = {one["name"] for one in value["templating"]["list"]}
    for panel in value["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            assert {name for name in re.findall(r"\$\{?(\w+)", query) if not name.startswith("__")} <= variables
            by = tags_of(query) | set(*[OURS[name] for name in metrics_of(query) & OURS.keys() if "sum" not in query])
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= by, query
            assert query.count("(") == query.count(")")


def test_prometheus_finds_the_nodes_where_ray_lists_them():
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    value = yaml.safe_load((ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text())
    (job,) = value["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]
