"""What the responses of one setting × model add up to: a crossed fine-tune × question table for each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inoc_ray.results.rows import Row, TrialRate
from inoc_ray.results.stats import Cell, RateKey, model_interval
from inoc_ray.scoring.score_columns import TRIGGERED

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The crossed fine-tune × question table of one arm, evaluation, context and trait, and what it consists of."""

    key: RateKey
    cell: Cell
    first: Mapping[str, Any]
    """The columns that all of its responses share."""
    seeds: Sequence[int | None]
    """The seed of each fine-tune."""
    sums: Mapping[str, Any]
    """samples, unparsed, excluded, cut: how many, an array with a number for each fine-tune."""

    def trials(self, correlation: float, row: Row) -> Iterator[tuple[int | None, TrialRate]]:
        """Yield the seed of each fine-tune and its own rate, over questions alone."""
        cell = self.cell
        for line, seed in enumerate(self.seeds):
            squares = None if cell.squares is None else cell.squares[line : line + 1]
            own = Cell(
                cell.hits[line : line + 1],
                cell.counts[line : line + 1],
                replicated=cell.replicated,
                models=cell.models[line : line + 1],
                squares=squares,
            )
            low, high = model_interval(own, correlation=correlation) or (None, None)
            samples = self.sums["samples"][line]
            yield (
                seed,
                TrialRate(
                    evaluation=row.evaluation,
                    split=row.split,
                    context=row.context,
                    trait=row.trait,
                    rate=own.rate,
                    low=low,
                    high=high,
                    unparsed=float(self.sums["unparsed"][line] / samples),
                    excluded=float(self.sums["excluded"][line] / samples),
                ),
            )


class CountTable:
    """The counts of one setting × model as arrays, in which a cell is a list of line numbers.

    A selection with pandas takes about a millisecond, and a study has thousands.
    """

    NAMES = ("evaluation", "arm", "context", "trait", "trial_id", "question_id")
    SHARED = ("kind", "split", "role", TRIGGERED)

    def __init__(self, part: pd.DataFrame) -> None:
        codes = {name: _factorized(part[name]) for name in self.NAMES}
        self.codes = {name: code for name, (code, _) in codes.items()}
        self.names = {name: values for name, (_, values) in codes.items()}
        # Fine-tunes and questions in the order of their names, whatever the order of the table.
        self.ranks = {name: np.argsort(np.argsort(self.names[name])) for name in ("trial_id", "question_id")}
        self.shared = {name: part[name].to_numpy() for name in self.SHARED}
        names = ("hits", "counts", "samples", "unparsed", "excluded", "cut", "squares")
        self.numbers = {name: part[name].to_numpy() for name in names if name in part.columns}
        self.seeds = part["seed"].astype("Float64").to_numpy(float, na_value=np.nan)

    def cells(self) -> Iterator[Counted]:
        """Yield the cells, evaluation by evaluation, in order of appearance."""
        for _, lines in _groups(self.codes["evaluation"]):
            questions, columns = np.unique(
                self.ranks["question_id"][self.codes["question_id"][lines]], return_inverse=True
            )
            arm, context, trait = (self.codes[name][lines] for name in ("arm", "context", "trait"))
            sizes = len(self.names["context"]), len(self.names["trait"])
            for _, places in _groups((arm * sizes[0] + context) * sizes[1] + trait):
                own = lines[places]
                key = RateKey(
                    *(str(self.names[n][self.codes[n][own[0]]]) for n in ("arm", "evaluation", "context", "trait"))
                )
                yield self._cell(key, own, columns[places], len(questions))

    def _cell(self, key: RateKey, own: Any, columns: Any, questions: int) -> Counted:
        ranks = self.ranks["trial_id"][self.codes["trial_id"][own]]
        _, first, line = np.unique(ranks, return_index=True, return_inverse=True)
        summed = {}
        for name in ("hits", "counts", *(["squares"] if "squares" in self.numbers else [])):
            values = self.numbers[name][own]
            summed[name] = np.zeros((len(first), questions), dtype=values.dtype)
            np.add.at(summed[name], (line, columns), values)
        names = self.names["trial_id"][self.codes["trial_id"][own[first]]]
        shared = {name: values[own[0]] for name, values in self.shared.items()}
        seeds = self.seeds[own[first]]
        return Counted(
            key=key,
            cell=Cell(
                summed["hits"],
                summed["counts"],
                replicated=shared["kind"] != "base",
                models=tuple(map(str, names)),
                squares=summed.get("squares"),
            ),
            first=shared,
            seeds=[None if np.isnan(seed) else int(seed) for seed in seeds],
            sums={
                name: np.bincount(line, self.numbers[name][own], len(first)).astype(np.int64)
                for name in ("samples", "unparsed", "excluded", "cut")
            },
        )


def _groups(codes: Any) -> Iterator[tuple[int, Any]]:
    """Yield each code and the line numbers that have it, in order of appearance."""
    values, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    lines = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    for place in np.argsort(first):
        yield int(values[place]), lines[place]


def _factorized(column: pd.Series[Any]) -> tuple[Any, Any]:
    """Return a column of texts as numbers, and the texts."""
    import pandas as pd

    codes, values = pd.factorize(column)
    return codes.astype(np.int64), np.asarray(values, dtype=object)
