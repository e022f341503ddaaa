"""The page of a study's experiment in MLflow: what it found, in words, and a view whose columns compare the arms."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from inoc_ray.results.headlines import headlines
from inoc_ray.results.records import MAX_TAG
from inoc_ray.results.report.in_short import in_short
from inoc_ray.results.report.verdict import about_leaks, verdicts
from inoc_ray.results.run_metrics import EFFECTS, LEVELS, RETENTION_ID, arm_estimates
from inoc_ray.results.wording import missing_summary

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

    from inoc_ray.results.comparison import Comparison
    from inoc_ray.results.records import StudyRecord

VIEW = "arms"
"""The key of the view: `…/#/experiments/ID/runs?viewStateShareKey=arms`."""
_MORE = "(The rest is in the report.)"
_GAP = "\n\n"
_COLUMNS = 8
_READ_LATER = (EFFECTS["selectivity"], EFFECTS["conditionalisation"])
_INTERVAL = 120
"""Pixels of a column, for `1.00 [.95, 1.05]`: MLflow's own 100 cut it."""
_WIDTHS = {
    "params.`kind`": 115,
    "tags.`verdict`": 185,
    "params.`prompt`": 240,
    "tags.`seeds`": 65,
    "tags.`complete`": 80,
    "duration": 80,
}


def describe(client: MlflowClient, experiment: Experiment, study: StudyRecord, comparison: Comparison) -> None:
    """Write the experiment's description and view, unless MLflow has them."""
    tags = {
        "mlflow.note.content": _description(experiment.experiment_id, study, comparison),
        f"mlflow.sharedViewState.{VIEW}": _view(comparison),
    }
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def address(experiment: str) -> str:
    """Return where MLflow's page shows the view, as the end of its address."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={VIEW}"


def _description(experiment: str, study: StudyRecord, comparison: Comparison) -> str:
    """Return the description in Markdown: what was found, where to look, the size of the study, each arm, the claims.

    MLflow shows the first line alone until somebody unfolds the rest.
    """
    found = in_short(verdicts(comparison, {}))
    only = f"{comparison.rows[0].setting}, {comparison.rows[0].model}: " if len(comparison.groups()) == 1 else ""
    sentences = [f"- {_plain(sentence.removeprefix(only))}" for sentence in headlines(comparison)]
    of = "" if only else " ({0.setting}, {0.model})"
    claimed = [
        f"- {_plain(claim.says.rstrip('.') + of.format(claim))}: **{claim.verdict}**" for claim in comparison.claims
    ]
    link = f"[Compare the arms]({address(experiment)})"
    said = [short.text() for short in found]
    if len(found) == 1 and (listed := found[0].listed()):
        # The line is short: the arms, by what is found of each, come before how many they are.
        said = [listed, f"{found[0].sentence} {found[0].warning}".strip()]
    first, *others = [*said, study.description]
    about = (
        f"In {link} each row is an arm: the mean over its seeds, which unfold below it; rates are out of distribution, in the "
        f"context `{comparison.reference}`; a duration is the time of an arm's fine-tunes together. Intervals are 95 % each; "
        f"p-values are adjusted by Holm, the intervals are not. Leak: {about_leaks(comparison)} The run **{study.name}** has the "
        "report and all numbers."
    )
    opening = " · ".join(filter(None, [link, _plain(first)]))
    parts = [opening, missing_summary(comparison), *map(_plain, others), about, *sentences, *claimed]
    text = ""
    for part in filter(None, parts):
        # A sentence whose end is missing may say the opposite.
        if len(text) + len(part) + len(_GAP) + len(_MORE) > MAX_TAG:
            return text + _MORE
        text += part + _GAP
    return text.removesuffix(_GAP)


def _plain(text: str) -> str:
    """Return text on one line without emphasis, code, tags and links; brackets alone, as around intervals, are none."""
    without_tags = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text.replace("\n", " "))
    return re.sub(r"([\\`*]|(?<=\])\()", r"\\\1", without_tags)


def _view(comparison: Comparison) -> str:
    """Return the state of a runs table as MLflow's page keeps it: the columns of the first metrics, with their intervals."""
    names: dict[str, None] = {}
    for arm in dict.fromkeys((row.setting, row.model, row.arm) for row in comparison.rows):
        names |= dict.fromkeys(arm_estimates(comparison, *arm))
    # Where each trait has a column, "undesired" is one of them again, another in each arm.
    if any(name not in (*LEVELS.values(), *EFFECTS.values()) for name in names):
        names = {name: None for name in names if name not in LEVELS.values()}
    # What is read first stands where no one has to scroll: the rates, and of each question one number.
    columns = [f"ci.{name}" for name in sorted(names, key=lambda name: name in _READ_LATER)[:_COLUMNS]]
    if "ci.retention" in columns and any(
        e.measure == "retention_id" and e.value is not None for e in comparison.effects
    ):
        columns.append(RETENTION_ID)
    columns = [f"tags.`{name}`" for name in columns]
    incomplete = [] if comparison.complete else ["tags.`complete`"]
    before, after = ["tags.`verdict`", *incomplete, "params.`prompt`", "tags.`seeds`"], [*columns, "params.`kind`"]
    return json.dumps(
        {
            # MLflow's charts have the first ten runs otherwise, and no word that there are others.
            "runsHiddenMode": "SHOWALL",
            "selectedColumns": [*before, "attributes.`Duration`", *after],
            # The grid calls the duration by its field; the run's name and time are pinned before all of these.
            "columnOrder": [*before, "duration", *after],
            "columnWidths": {name: _WIDTHS.get(name, _INTERVAL) for name in (*before, "duration", *after)},
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
        }
    )
