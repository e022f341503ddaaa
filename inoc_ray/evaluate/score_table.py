"""The score table, from which every rate is derived: one row per sample and trait, under the plan's threshold profile."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from inoc_ray.errors import InputError
from inoc_ray.evaluate.cell_scores import CellScores
from inoc_ray.evaluate.verdicts import Verdicts
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, seed_of
from inoc_ray.scoring.score_columns import COLUMNS, CUT, LEVEL, TRIGGERED
from inoc_ray.store.samples import read_part
from inoc_ray.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

SCORE_COLUMNS = (*COLUMNS, CUT, TRIGGERED, LEVEL)


class NoScores(InputError):
    """No response of the study has been judged."""


def empty_score_table() -> pd.DataFrame:
    """Return the score table of a study of which nothing is judged yet."""
    import pandas as pd

    return pd.DataFrame({name: [] for name in SCORE_COLUMNS})


def read_score_table(plan: Plan, store: Store) -> pd.DataFrame:
    """Return one row per sample × trait over all cells of the study: see SCORE_COLUMNS.

    A base appears under every model that it is compared as; its `seed` is missing. A cell whose share of degenerate responses is
    above the study's limit has outcome "withheld" throughout. Raises NoScores when nothing is evaluated and judged yet.
    """
    import pandas as pd

    arrays: dict[str, list[Any]] = {
        n: [] for n in ("question_id", "sample_index", "score", "shown", "outcome", "cut", LEVEL)
    }
    same: dict[str, list[Any]] = {name: [] for name in SCORE_COLUMNS if name not in arrays}
    counts: list[int] = []
    parts = store.parts_of(cell.key for cell in plan.cells)
    for cell in plan.cells:
        scores = CellScores(parts[cell.key], cell, plan.study.evaluation.max_degenerate)
        if not len(scores.index):
            continue
        for label, (trait, verdicts) in itertools.product(cell.subject.compared_as, scores.traits.items()):
            for name, values in _per_sample(scores, verdicts).items():
                arrays[name].append(values)
            for name, value in of_cell(cell, label, trait).items():
                same[name].append(value)
            counts.append(len(scores.index))
    if not counts:
        raise NoScores(f"study {plan.study.name}: nothing is evaluated yet; run it first with `inoc-ray run`.")
    # Texts that repeat are categories: a column of 100,000 texts takes longer to group by than all else.
    columns = {name: np.concatenate(values) for name, values in arrays.items()}
    columns |= {name: pd.Categorical(columns[name]) for name in ("question_id", "outcome")}
    columns["triggered"] = np.repeat(np.array(same.pop("triggered")), counts)
    columns |= {name: pd.Categorical(values).repeat(counts) for name, values in same.items() if name != "seed"}
    # A base has no seed.
    columns["seed"] = pd.array(same["seed"], dtype="Int64").repeat(counts)
    return pd.DataFrame({name: columns[name] for name in SCORE_COLUMNS})


def _per_sample(scores: CellScores, verdicts: Verdicts) -> dict[str, Any]:
    """Return the columns with a value for each sample."""
    return {
        "question_id": scores.question_id,
        "sample_index": scores.index,
        "score": verdicts.score,
        "shown": verdicts.shown,
        "outcome": verdicts.outcome,
        "cut": scores.forms["cut"],
        LEVEL: verdicts.level,
    }


def of_cell(cell: Cell, label: str, trait: str) -> dict[str, Any]:
    """Return the columns with one value for a cell's trait; `label` is the model that the cell is compared as."""
    subject = cell.subject
    return {
        "setting": subject.setting,
        "model": label,
        "arm": subject.arm.name,
        "kind": subject.arm.kind,
        "trial_id": subject.trial_id,
        "seed": seed_of(subject),
        "evaluation": cell.evaluation.name,
        "split": cell.evaluation.split,
        "context": cell.context,
        "trait": trait,
        "role": cell.role(trait),
        "triggered": cell.triggered,
    }


def read_cell(plan: Plan, store: Store, cell: Cell) -> pd.DataFrame:
    """Return the cell's samples with the columns `score.`, `shown.` and `outcome.<trait>` for each judged trait.

    Each judging model that has judged them adds `said.<judge>`, its raw numbers as text.
    """
    import pandas as pd
    import pyarrow as pa

    scores = CellScores(store.parts(*cell.key), cell, plan.study.evaluation.max_degenerate)
    if not scores.paths:
        return pd.DataFrame()
    frame = (
        pa.concat_tables([read_part(path) for path in scores.paths]).to_pandas()[scores.selected].reset_index(drop=True)
    )
    for trait, verdicts in scores.traits.items():
        frame[f"score.{trait}"], frame[f"shown.{trait}"] = verdicts.score, verdicts.shown
        frame[f"outcome.{trait}"] = verdicts.outcome
    for name, texts in scores.in_words().items():
        frame[f"said.{name}"] = texts
    return frame


def sample_table(plan: Plan, store: Store, subject: Subject) -> pd.DataFrame:
    """Return all samples of one trial or base in this study, for reading and for recomputing its rates.

    Beside what `read_cell` gives: _FIRST, where `fine_tune_seed` is the seed of the training, and `role.<trait>`.
    """
    import pandas as pd

    pieces = []
    for cell in plan.cells_of(subject):
        frame = read_cell(plan, store, cell)
        if frame.empty:
            continue
        pieces.append(frame.assign(**_of_cell(cell, frame))[[*_FIRST, *frame.columns, *_roles(cell, frame)]])
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame()


_FIRST = (
    "setting",
    "model",
    "arm",
    "kind",
    "trial_id",
    "fine_tune_seed",
    "evaluation",
    "split",
    "context",
    "triggered",
)


def _of_cell(cell: Cell, frame: pd.DataFrame) -> dict[str, Any]:
    """Return the columns that are the same for all samples of a cell."""
    import pandas as pd

    same = of_cell(cell, cell.subject.model_label, "")
    seed = pd.array([same.pop("seed")] * len(frame), dtype="Int64")
    return {**{name: same[name] for name in _FIRST if name in same}, "fine_tune_seed": seed, **_roles(cell, frame)}


def _roles(cell: Cell, frame: pd.DataFrame) -> dict[str, str]:
    judged = [name.removeprefix("shown.") for name in frame.columns if name.startswith("shown.")]
    return {f"role.{trait}": cell.role(trait) for trait in judged}


def score_warnings(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """Return a sentence for each evaluation of a trial whose rates cannot be relied on.

    That is where more than `evaluation.max_unparsed` of the scores could not be read, or where the rates are withheld
    because the responses are degenerate.
    """
    limit = plan.study.evaluation.max_unparsed
    keys = ["setting", "model", "arm", "seed", "evaluation", "context", "trait"]
    # A base appears under every model that it is compared as, and is reported once.
    frame = frame[~frame.duplicated(["setting", "trial_id", *keys[4:], "sample_index"])]
    grouped = [frame[key] for key in keys]
    shares = (frame["outcome"] == "unparsed").groupby(grouped, dropna=False).mean()
    unreadable = [
        f"{_place(key)}: {share:.0%} of the scores could not be read (limit {limit:.0%})"
        for key, share in zip(shares.index.to_list(), shares, strict=True)
        if share > limit
    ]
    withheld = frame[frame["outcome"] == "withheld"]
    cells = withheld[keys[:-1]].drop_duplicates().itertuples(index=False)
    return unreadable + [
        f"{_place(cell)}: rates withheld, more than {plan.study.evaluation.max_degenerate:.0%} of the responses are "
        "empty, garbled or repetitive (evaluation.max_degenerate)"
        for cell in cells
    ]


def _place(parts: Iterable[Any]) -> str:
    """Return the place in the study as text; a base has no seed."""
    import pandas as pd

    return " · ".join(part if isinstance(part, str) else f"seed {part}" for part in parts if not pd.isna(part))
