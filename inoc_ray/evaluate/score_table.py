"""Raw numbers beside the samples, and the tidy table that every rate is derived from.

A cell's folder holds `evaluation.json` (what was asked, in words), `samples-<a>-<b>.parquet` (prompt as rendered, response),
`scores-<rules>-<samples>-<a>-<b>.parquet` (one number of 0 to 1 per trait and sample) and
`judgments-<judge>-<samples>-<a>-<b>.parquet` (what a judging model said, raw, with its log-probs). <samples> is the hash of the
samples that they were made of, so that they belong to those very texts; each name also ends with the file's own hash (see
`seal`). What is damaged or of other texts is made again, and judges are then asked only about texts that they have not judged.
Rule scores are made again, without asking anybody, when the rules' version changes. Rates are derived at each look, under a
threshold profile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inoc_ray.errors import InputError
from inoc_ray.evaluate.verdicts import Numbers, Verdicts, by_model, by_rule, combined, gated, joined, mean_of
from inoc_ray.models.think import answer_of
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.judges import TraitJudges
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, seed_of
from inoc_ray.scoring.degenerate import FORM_VERSION, FORMS, forms, shares_of
from inoc_ray.scoring.judgment import RULES, Item
from inoc_ray.store import seal
from inoc_ray.store.place import Place
from inoc_ray.store.samples import (
    JUDGMENT_KEYS,
    find_judgments,
    form_path,
    read_part,
    read_table,
    scores_path,
    write_table,
)
from inoc_ray.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

SCORE_COLUMNS = (
    "setting",
    "model",
    "arm",
    "kind",
    "trial_id",
    "seed",
    "evaluation",
    "split",
    "context",
    "question_id",
    "sample_index",
    "trait",
    "role",
    "score",
    "shown",
    "outcome",
    "cut",
    "triggered",
)


def items_of(table: Any, cell: Cell) -> list[Item]:
    """Return what judges see of the samples in a part."""
    references = {q.id: q.reference for q in cell.evaluation.questions(cell.samples) if q.reference is not None}
    columns = (table.column(name).to_pylist() for name in ("question", "prompt", "text", "question_id"))
    return [
        Item(question, answer_of(prompt, text), references.get(key))
        for question, prompt, text, key in zip(*columns, strict=True)
    ]


def _form(part: Place, sample_index: Any) -> Any:
    """Which responses of a part are degenerate and how (see degenerate.FORMS), as a table; made and kept where it is missing."""
    import pyarrow as pa

    path = form_path(part, FORM_VERSION)
    if (kept := seal.find(path)) is not None:
        return read_table(kept, ["sample_index", *FORMS])
    texts = read_table(part, ["prompt", "text", "finish_reason"])
    said = zip(*(texts.column(name).to_pylist() for name in ("prompt", "text", "finish_reason")), strict=True)
    rows = [forms(answer_of(prompt, text), finish) for prompt, text, finish in said]
    columns = {name: pa.array([row[i] for row in rows], pa.bool_()) for i, name in enumerate(FORMS)}
    found = pa.table({"sample_index": sample_index, **columns})
    write_table(path, found)
    return found


def _rule_scores(cell: Cell, part: Place, index: Any) -> dict[str, list[float | None]]:
    """trait → one number per sample; made and kept where they are missing."""
    import pyarrow as pa

    rules = cell.judges.rules
    if not rules:
        return {}
    names = sorted(rules)
    path = scores_path(part, cell.judges.scores_id)
    if (kept := seal.find(path)) is not None:
        scores = read_table(kept, ["sample_index", *names])
    else:
        items = items_of(read_part(part), cell)
        columns = {t: pa.array([rules[t](item) for item in items], pa.float64()) for t in names}
        scores = pa.table({"sample_index": index, **columns})
        write_table(path, scores)
    return {t: scores.column(t).to_pylist() for t in names}


def _judgments(path: Place, index: list[int]) -> Numbers:
    found = read_table(path, JUDGMENT_KEYS).to_pandas()
    numbers = {}
    for rubric, rows in found.groupby("rubric", sort=False):
        rows = rows.set_index("sample_index").reindex(index)
        if rows["category"].isna().any():
            raise InputError(f"{path}: does not belong to the samples beside it; delete it and judge them again.")
        numbers[str(rubric)] = (rows["value"].to_numpy(dtype=float), rows["category"].to_numpy(dtype=object))
    return numbers


class _Part:
    """One part of a cell: its samples, and every judge's numbers on them."""

    def __init__(self, cell: Cell, path: Place) -> None:
        self.table = read_table(path, ["sample_index", "question_id"])
        index = self.table.column("sample_index")
        self.form = _form(path, index)
        self.rules = _rule_scores(cell, path, index)
        self.numbers: dict[str, Numbers] = {}
        """Judging model → its numbers; one that has not judged the part yet is missing."""
        for name, grading in cell.judges.gradings.items():
            judged = find_judgments(path, grading.judgments_id)
            if judged is not None:
                self.numbers[name] = _judgments(judged, index.to_pylist())

    def in_words(self, judge: str) -> list[str]:
        """Return a judging model's raw numbers on each sample: "alignment 12, coherence 95"; empty where it has not judged."""
        texts = [
            [
                f"{rubric} {round(value, 1):g}" if value == value else f"{rubric} {category}"
                for value, category in zip(*numbers, strict=True)
            ]
            for rubric, numbers in self.numbers.get(judge, {}).items()
        ]
        return [", ".join(words) for words in zip(*texts, strict=True)] if texts else [""] * self.table.num_rows

    def verdicts(self, judges: TraitJudges) -> dict[str, Verdicts]:
        """Judge → its verdicts on the trait; a judge that has not judged the part yet is missing."""
        found = {}
        for name in judges.judges:
            if name == RULES:
                if judges.gate is None:
                    found[name] = by_rule(self.rules[judges.trait])
                elif (numbers := self.numbers.get(judges.gate.judge.name)) is not None:
                    found[name] = gated(by_rule(self.rules[judges.trait]), numbers, judges.gate)
            elif name in self.numbers and judges.measure is not None:
                found[name] = by_model(self.numbers[name], judges.measure)
        return found

    def verdict(self, judges: TraitJudges) -> Verdicts | None:
        """All judges' verdicts on the trait as one; None until the first of them has judged, or all where all have a say."""
        found = self.verdicts(judges)
        needed = judges.judges[:1] if judges.combine == "first" else judges.judges
        if any(name not in found for name in needed):
            return None
        if judges.combine == "mean" and judges.measure is not None and len(judges.judges) > 1:
            numbers = mean_of([self.numbers[name] for name in judges.judges], judges.measure.rubrics)
            return by_model(numbers, judges.measure)
        return combined([found[name] for name in judges.judges if name in found], judges.combine)


class _Judged:
    """A cell with everybody's verdicts: at most `cell.samples` samples."""

    def __init__(self, store: Store, cell: Cell, max_degenerate: float) -> None:
        self.paths = [part.path for part in store.parts(*cell.key)]
        self.parts = [_Part(cell, path) for path in self.paths]
        index = self._column("sample_index")
        self.asked = index < cell.samples
        """Which of the stored samples this study asks for: another one may have asked for more."""
        self.index = index[self.asked]
        self.question_id = self._column("question_id")[self.asked]
        self.forms = {name: self._form(name)[self.asked] for name in FORMS}
        self.traits: dict[str, Verdicts] = {}
        for trait, judges in cell.judges.traits.items() if self.parts else ():
            found = [v for part in self.parts if (v := part.verdict(judges)) is not None]
            if len(found) == len(self.parts):
                verdicts = joined(found)[self.asked]
                self.traits[trait] = replace(verdicts, shown=verdicts.shown.astype(float))
        if self.traits and self.degenerate() > max_degenerate:
            for verdicts in self.traits.values():
                verdicts.shown[:], verdicts.outcome[:] = np.nan, "withheld"

    def _column(self, name: str) -> Any:
        return _joined([part.table.column(name).to_numpy() for part in self.parts])

    def _form(self, name: str) -> Any:
        return _joined([part.form.column(name).to_numpy(False) for part in self.parts])

    def in_words(self) -> dict[str, Any]:
        """Judging model → its raw numbers on each sample, in words."""
        names = dict.fromkeys(name for part in self.parts for name in part.numbers)
        return {name: _joined([np.array(p.in_words(name), object) for p in self.parts])[self.asked] for name in names}

    def degenerate(self) -> float:
        """Return the share of degenerate responses."""
        return shares_of(list(zip(*(self.forms[name].tolist() for name in FORMS), strict=True))).any


def _joined(arrays: list[Any]) -> Any:
    return np.concatenate(arrays) if arrays else np.array([])


class NoScores(InputError):
    """There is no response of the study that was judged."""


def empty_score_table() -> pd.DataFrame:
    """Return the tidy table of a study of which nothing is judged yet."""
    import pandas as pd

    return pd.DataFrame({name: [] for name in SCORE_COLUMNS})


def read_score_table(plan: Plan, store: Store) -> pd.DataFrame:
    """Return one row per sample × trait over all cells of the study: see SCORE_COLUMNS.

    A base is there under every model that it is compared as; its `seed` is missing. A cell whose share of degenerate responses is
    above the study's limit has outcome "withheld" throughout. Raise NoScores when nothing is evaluated and judged yet.
    """
    import pandas as pd

    arrays: dict[str, list[Any]] = {n: [] for n in ("question_id", "sample_index", "score", "shown", "outcome", "cut")}
    same: dict[str, list[Any]] = {name: [] for name in SCORE_COLUMNS if name not in arrays}
    counts: list[int] = []
    for cell in plan.cells:
        judged = _Judged(store, cell, plan.study.evaluation.max_degenerate)
        if not len(judged.index):
            continue
        for label, (trait, verdicts) in itertools.product(cell.subject.compared_as, judged.traits.items()):
            for name, values in _per_sample(judged, verdicts).items():
                arrays[name].append(values)
            for name, value in _per_cell(cell, label, trait).items():
                same[name].append(value)
            counts.append(len(judged.index))
    if not counts:
        raise NoScores(f"study {plan.study.name}: nothing is evaluated yet; `inoc-ray run` it first.")
    columns = {name: np.concatenate(values) for name, values in arrays.items()}
    columns |= {name: np.repeat(np.array(values, object), counts) for name, values in same.items() if name != "seed"}
    # A base has no seed.
    columns["seed"] = pd.array(same["seed"], dtype="Int64").repeat(counts)
    return pd.DataFrame({name: columns[name] for name in SCORE_COLUMNS})


def _per_sample(judged: _Judged, verdicts: Verdicts) -> dict[str, Any]:
    """The columns of the tidy table with a value for each sample."""
    return {
        "question_id": judged.question_id,
        "sample_index": judged.index,
        "score": verdicts.score,
        "shown": verdicts.shown,
        "outcome": verdicts.outcome,
        "cut": judged.forms["cut"],
    }


def _per_cell(cell: Cell, label: str, trait: str) -> dict[str, Any]:
    """The columns of the tidy table with one value for a cell's trait; `label` is the model that it is compared as."""
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
    """Return the cell's samples with columns `score.`, `shown.` and `outcome.<trait>` for each trait that is judged, and
    `said.<judge>` for each judging model that has judged them (its raw numbers as text)."""
    import pandas as pd
    import pyarrow as pa

    judged = _Judged(store, cell, plan.study.evaluation.max_degenerate)
    if not judged.paths:
        return pd.DataFrame()
    frame = (
        pa.concat_tables([read_part(path) for path in judged.paths]).to_pandas()[judged.asked].reset_index(drop=True)
    )
    for trait, verdicts in judged.traits.items():
        frame[f"score.{trait}"], frame[f"shown.{trait}"] = verdicts.score, verdicts.shown
        frame[f"outcome.{trait}"] = verdicts.outcome
    for name, texts in judged.in_words().items():
        frame[f"said.{name}"] = texts
    return frame


def sample_table(plan: Plan, store: Store, subject: Subject) -> pd.DataFrame:
    """Return all samples of one trial or base in this study, with evaluation and context, for people to read."""
    import pandas as pd

    pieces = []
    for cell in plan.cells_of(subject):
        frame = read_cell(plan, store, cell)
        if frame.empty:
            continue
        frame.insert(0, "context", cell.context)
        frame.insert(0, "evaluation", cell.evaluation.name)
        frame.insert(0, "setting", cell.subject.setting)
        frame.insert(0, "arm", cell.subject.arm.name)
        pieces.append(frame)
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame()


def score_warnings(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """Return a sentence for each evaluation of a trial in which more than the stated share of scores could not be read, and for
    each whose rates are withheld because its responses are degenerate."""
    limit = plan.study.evaluation.max_unparsed
    keys = ["setting", "model", "arm", "seed", "evaluation", "context", "trait"]
    # A base is there under every model that it is compared as, and is named once.
    frame = frame[~frame.duplicated(["setting", "trial_id", *keys[4:], "sample_index"])]
    grouped = [frame[key] for key in keys]
    shares = (frame["outcome"] == "unparsed").groupby(grouped, dropna=False).mean()
    unread = [
        f"{_place(key)}: {share:.0%} of the scores cannot be read (limit {limit:.0%})"
        for key, share in zip(shares.index.to_list(), shares, strict=True)
        if share > limit
    ]
    withheld = frame[frame["outcome"] == "withheld"]
    cells = withheld[keys[:-1]].drop_duplicates().itertuples(index=False)
    return unread + [
        f"{_place(cell)}: rates withheld, more than {plan.study.evaluation.max_degenerate:.0%} of the responses are "
        "empty, garbled or repeat themselves (evaluation.max_degenerate)"
        for cell in cells
    ]


def _place(parts: Iterable[Any]) -> str:
    """Where in the study: the parts that there are (a base has no seed)."""
    import pandas as pd

    return " · ".join(part if isinstance(part, str) else f"seed {part}" for part in parts if not pd.isna(part))


def judge_agreement(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Return how well each pair of judges agrees, per setting and trait, over all responses of the study that both decided, each
    once.

    `difference` (second minus first) is of the numbers on the trait's rubric; None for a pair with the rules, which give none.
    """
    pairs: dict[tuple[str, str, str, str], list[tuple[Verdicts, Verdicts]]] = {}
    seen: set[tuple[str, str, str, str]] = set()
    for cell in sorted(plan.cells, key=lambda c: -c.samples):
        several = [
            judges
            for judges in cell.judges.traits.values()
            if len(judges.judges) > 1 and (cell.setting.name, *cell.key, judges.trait) not in seen
        ]
        # Two contexts of a model may share their samples.
        seen |= {(cell.setting.name, *cell.key, judges.trait) for judges in several}
        if not several:
            continue
        for start, _, path in store.parts(*cell.key):
            part = _Part(cell, path)
            # Another study may have asked for more.
            asked = slice(0, max(0, cell.samples - start))
            for judges in several:
                for (one, first), (other, second) in itertools.combinations(part.verdicts(judges).items(), 2):
                    pairs.setdefault((cell.setting.name, judges.trait, one, other), []).append(
                        (first[asked], second[asked])
                    )
    return [_agreement(setting, trait, names, verdicts) for (setting, trait, *names), verdicts in pairs.items()]


def _agreement(
    setting: str, trait: str, names: Sequence[str], verdicts: Sequence[tuple[Verdicts, Verdicts]]
) -> dict[str, Any]:
    from inoc_ray.scoring.agreement import agreement as agree

    decided = {n: np.concatenate([v[i].shown for v in verdicts]) for i, n in enumerate(names)}
    numbers = {n: np.concatenate([v[i].score for v in verdicts]) for i, n in enumerate(names)}
    [pair] = agree(decided if RULES in names else numbers, decided)
    difference = math.nan if RULES in names else pair.difference
    shares = {"agreement": pair.share, "kappa": pair.kappa, "difference": difference}
    return {
        "setting": setting,
        "trait": trait,
        "judges": [pair.first, pair.second],
        "responses": pair.n,
        "asked": len(decided[pair.first]),
        **{name: None if math.isnan(value) else value for name, value in shares.items()},
    }
