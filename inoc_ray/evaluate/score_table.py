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
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inoc_ray import settings
from inoc_ray.config.identity import content_id
from inoc_ray.errors import InputError
from inoc_ray.models.think import answer_of
from inoc_ray.plan.judges import Panel, measure_of, rule_of
from inoc_ray.plan.plan import Cell, Plan, Subject, seed_of
from inoc_ray.scoring.degenerate import FORM_VERSION, FORMS, forms, shares_of
from inoc_ray.scoring.judgment import RULES, Item, Measure
from inoc_ray.scoring.profiles import RULE_SHOWN, Profile
from inoc_ray.settings import ArmSpec, EvaluationSpec, Setting
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

TIDY_COLUMNS = (
    "setting", "model", "arm", "kind", "trial_id", "seed", "evaluation", "split", "context",
    "question_id", "sample_index", "trait", "role", "score", "shown", "outcome", "cut", "triggered",
)  # fmt: skip

Outcome = Literal["counted", "excluded", "unparsed", "withheld"]
"""What became of a response for one trait: judged and counted; judged, but outside what counts (incoherent, a refusal, bare
code); no readable judgment; not judged because its model's responses are degenerate."""


def setting_of(plan: Plan, name: str) -> Setting:
    """The setting as the study uses it: with its own suites and files."""
    return plan.settings[name] if name in plan.settings else settings.get(name)


def rules_id(setting: Setting, spec: EvaluationSpec) -> str:
    """Which rules scored: 16 hex digits over setting, traits and rule version."""
    if spec.rules:
        return content_id({"suite": spec.rules_id})
    return content_id({"setting": setting.name, "traits": sorted(setting.judges), "version": setting.judge_version})


def items_of(table: Any, cell: Cell) -> list[Item]:
    """What judges see of the samples in a part."""
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


def _rule_scores(setting: Setting, cell: Cell, part: Place, index: Any) -> dict[str, list[float | None]]:
    """trait → one number per sample; made and kept where they are missing."""
    import pyarrow as pa

    rules = {t: rule for t in cell.evaluation.traits if (rule := rule_of(setting, cell.evaluation, t)) is not None}
    if not cell.evaluation.rules:
        # One file serves every evaluation of the setting, so it holds all of the setting's rules.
        rules |= {t: rule for t in setting.judges if (rule := rule_of(setting, cell.evaluation, t)) is not None}
    if not rules:
        return {}
    names = sorted(rules)
    path = scores_path(part, rules_id(setting, cell.evaluation))
    if (kept := seal.find(path)) is not None:
        scores = read_table(kept, ["sample_index", *names])
    else:
        items = items_of(read_part(part), cell)
        columns = {t: pa.array([rules[t](item) for item in items], pa.float64()) for t in names}
        scores = pa.table({"sample_index": index, **columns})
        write_table(path, scores)
    return {t: scores.column(t).to_pylist() for t in names}


class Verdicts:
    """What one judge says of one trait, for the samples of a part: arrays of equal length.

    score: the raw number, NaN where there is none. shown: 1 or 0, NaN unless counted. outcome: see Outcome.
    """

    def __init__(self, score: Any, shown: Any, outcome: Any) -> None:
        self.score, self.shown, self.outcome = score, shown, outcome

    def __getitem__(self, some: slice) -> Verdicts:
        return Verdicts(self.score[some], self.shown[some], self.outcome[some])


def _by_rule(scores: list[float | None]) -> Verdicts:
    score = np.array([np.nan if s is None else s for s in scores], dtype=float)
    outcome = np.where(np.isnan(score), "unparsed", "counted").astype(object)
    return Verdicts(score, np.where(np.isnan(score), np.nan, score > RULE_SHOWN), outcome)


Said = Mapping[str, tuple[Any, Any]]
"""rubric → (numbers, categories), one per sample of the part in order."""


def _gated(verdicts: Verdicts, said: Said, rubrics: Sequence[str], panel: Panel, profile: Profile) -> Verdicts:
    """A rule's verdicts, counted only where the judging model's numbers on the rubrics allow it."""
    outcome = verdicts.outcome.copy()
    for name in rubrics:
        values, categories = said[name]
        bound = profile.counts_by(panel.rubric(name))
        outcome[[v == v and not bound.holds(v) for v in values]] = "excluded"
        outcome[(categories != "number") & (categories != "unparsed")] = "excluded"
    for name in rubrics:
        outcome[said[name][1] == "unparsed"] = "unparsed"
    return Verdicts(verdicts.score, np.where(outcome == "counted", verdicts.shown, np.nan), outcome)


def _threshold(said: Said, measure: Measure, panel: Panel, profile: Profile) -> Verdicts:
    values, _ = said[measure.rubric]
    outcome = np.full(len(values), "counted", dtype=object)
    for name in measure.given:
        bound = profile.counts_by(panel.rubric(name))
        outcome[[v == v and not bound.holds(v) for v in said[name][0]]] = "excluded"
    for name in measure.rubrics:
        categories = said[name][1]
        outcome[(categories != "number") & (categories != "unparsed")] = "excluded"
    for name in measure.rubrics:
        outcome[said[name][1] == "unparsed"] = "unparsed"
    bound = profile.shown_by(panel.rubric(measure.rubric))
    shown = np.array([float(bound.holds(v)) if v == v else np.nan for v in values])
    return Verdicts(values, np.where(outcome == "counted", shown, np.nan), outcome)


def _judgments(path: Place, index: list[int]) -> Said:
    found = read_table(path, JUDGMENT_KEYS).to_pandas()
    said = {}
    for rubric, rows in found.groupby("rubric", sort=False):
        rows = rows.set_index("sample_index").reindex(index)
        if rows["category"].isna().any():
            raise InputError(f"{path}: does not belong to the samples beside it; delete it and judge them again.")
        said[str(rubric)] = (rows["value"].to_numpy(dtype=float), rows["category"].to_numpy(dtype=object))
    return said


def combined(verdicts: list[Verdicts], how: str) -> Verdicts:
    """Several judges' verdicts as one: see `Evaluation.combine`. `all` and `any` follow Kleene's logic: an unparsed answer
    leaves the trait open only where the other judges do not settle it."""
    first = verdicts[0]
    if len(verdicts) == 1:
        return first
    score, outcome = first.score.copy(), first.outcome.copy()
    shown = first.shown.copy()
    if how == "first":
        for other in verdicts[1:]:
            silent = outcome == "unparsed"
            score[silent], shown[silent], outcome[silent] = (
                other.score[silent], other.shown[silent], other.outcome[silent],
            )  # fmt: skip
        return Verdicts(score, shown, outcome)
    marks = np.array([v.shown for v in verdicts])
    settled = (marks == (1.0 if how == "any" else 0.0)).any(axis=0)
    agreed = ~np.isnan(marks).any(axis=0)
    shown = np.where(settled, float(how == "any"), np.where(agreed, float(how == "all"), np.nan))
    outcomes = np.array([v.outcome for v in verdicts])
    left = np.where((outcomes == "unparsed").any(axis=0), "unparsed", "excluded")
    return Verdicts(score, shown, np.where(np.isnan(shown), left, "counted").astype(object))


class _Part:
    """One part of a cell: its samples, and who has said what of them."""

    def __init__(self, plan: Plan, cell: Cell, path: Place) -> None:
        self.cell, self.panel = cell, plan.panel
        self.setting = setting_of(plan, cell.subject.setting)
        self.table = read_table(path, ["sample_index", "question_id"])
        index = self.table.column("sample_index")
        self.form = _form(path, index)
        self.rules = _rule_scores(self.setting, cell, path, index)
        self.said: dict[str, Said] = {}
        for name, rubrics in self.panel.asked(self.setting, cell.evaluation).items():
            judged = find_judgments(path, self.panel.judging(name).judgments_id(rubrics))
            if judged is not None:
                self.said[name] = _judgments(judged, index.to_pylist())

    def in_words(self, judge: str) -> list[str]:
        """What a judging model said of each sample, raw: "alignment 12, coherence 95"; empty where it has not been asked."""
        told = [
            [
                f"{rubric} {round(value, 1):g}" if value == value else f"{rubric} {category}"
                for value, category in zip(*said, strict=True)
            ]
            for rubric, said in self.said.get(judge, {}).items()
        ]
        return [", ".join(texts) for texts in zip(*told, strict=True)] if told else [""] * self.table.num_rows

    def verdicts(self, trait: str, profile: Profile) -> dict[str, Verdicts]:
        """Judge → its verdicts; a judge that has not been asked yet is missing."""
        out = {}
        measure = measure_of(self.setting, self.cell.evaluation, trait)
        for name in self.panel.told_by(self.setting, self.cell.evaluation, trait):
            if name == RULES:
                gate = self.panel.gate_of(self.setting, self.cell.evaluation, trait)
                if gate is None:
                    out[name] = _by_rule(self.rules[trait])
                elif gate[0] in self.said:
                    out[name] = _gated(_by_rule(self.rules[trait]), self.said[gate[0]], gate[1], self.panel, profile)
            elif name in self.said and measure is not None:
                out[name] = _threshold(self.said[name], measure, self.panel, profile)
        return out

    def trait(self, trait: str, profile: Profile) -> Verdicts | None:
        """All judges' verdicts as one; None until the first of them has judged, or all where all have a say."""
        evaluation = self.panel.study.evaluation
        named = self.panel.told_by(self.setting, self.cell.evaluation, trait)
        found = self.verdicts(trait, profile)
        wanted = named[:1] if evaluation.combine == "first" else named
        if not wanted or any(name not in found for name in wanted):
            return None
        if evaluation.combine == "mean" and len(named) > 1:
            return self._mean(trait, named, profile)
        return combined([found[name] for name in named if name in found], evaluation.combine)

    def _mean(self, trait: str, named: list[str], profile: Profile) -> Verdicts:
        """The judges' numbers averaged rubric by rubric, over those that gave one, then held against the thresholds."""
        measure = measure_of(self.setting, self.cell.evaluation, trait)
        if RULES in named or measure is None:
            raise InputError(
                f"evaluation.combine: mean: {trait} is told by rules too, which give no number of 0 to 100; use first."
            )
        said: dict[str, tuple[Any, Any]] = {}
        for rubric in measure.rubrics:
            values = np.array([self.said[name][rubric][0] for name in named])
            some = ~np.isnan(values).all(axis=0)
            mean = np.full(values.shape[1], np.nan)
            mean[some] = np.nanmean(values[:, some], axis=0)
            said[rubric] = (mean, np.where(some, "number", self.said[named[0]][rubric][1]))
        return _threshold(said, measure, self.panel, profile)


class _Judged:
    """A cell with everybody's verdicts: at most `cell.samples` samples."""

    def __init__(self, plan: Plan, store: Store, cell: Cell, profile: Profile) -> None:
        paths = [part.path for part in store.parts(*cell.key)]
        parts = [_Part(plan, cell, path) for path in paths]
        self.paths = paths
        index = _joined([p.table.column("sample_index").to_numpy() for p in parts])
        self.asked = index < cell.samples
        """Which of the stored samples this study asks for: another one may have asked for more."""
        self.index = index[self.asked]
        self.question_id = _joined([np.array(p.table.column("question_id").to_pylist(), object) for p in parts])[
            self.asked
        ]
        self.forms = {name: _joined([p.form.column(name).to_numpy(False) for p in parts])[self.asked] for name in FORMS}
        self.parts = parts
        self.traits: dict[str, Verdicts] = {}
        for trait in cell.evaluation.traits if parts else ():
            found = [v for p in parts if (v := p.trait(trait, profile)) is not None]
            if len(found) == len(parts):
                score, shown, outcome = (
                    _joined([getattr(v, name) for v in found])[self.asked] for name in ("score", "shown", "outcome")
                )
                self.traits[trait] = Verdicts(score, shown.astype(float), outcome)
        if self.traits and self.degenerate() > plan.study.evaluation.max_degenerate:
            for verdicts in self.traits.values():
                verdicts.shown[:], verdicts.outcome[:] = np.nan, "withheld"

    def said(self) -> dict[str, Any]:
        """Judging model → what it said of each sample, in words."""
        names = dict.fromkeys(name for part in self.parts for name in part.said)
        return {name: _joined([np.array(p.in_words(name), object) for p in self.parts])[self.asked] for name in names}

    def degenerate(self) -> float:
        """The share of degenerate responses."""
        return shares_of(list(zip(*(self.forms[name].tolist() for name in FORMS), strict=True))).any


def _joined(arrays: list[Any]) -> Any:
    return np.concatenate(arrays) if arrays else np.array([])


class NothingEvaluated(InputError):
    """There is no response of the study that was judged."""


def role_of(arm: ArmSpec, trait: str, narrow: Collection[str] = ()) -> str:
    """ "undesired" or "desired": what the arm is to do to the trait; "narrow" for a trait of the setting's narrow task; or
    "other"."""
    if trait in arm.undesired or trait in arm.desired:
        return "undesired" if trait in arm.undesired else "desired"
    return "narrow" if trait in narrow else "other"


def no_scores() -> pd.DataFrame:
    """The tidy table of a study of which nothing is judged yet."""
    import pandas as pd

    return pd.DataFrame({name: [] for name in TIDY_COLUMNS})


def tidy(plan: Plan, store: Store, profile: Profile | None = None) -> pd.DataFrame:
    """One row per sample × trait over all cells of the study: see TIDY_COLUMNS. A base is there under every model that it is
    compared as; its `seed` is missing.

    A cell whose share of degenerate responses is above the study's limit has outcome "withheld" throughout. Raises
    NothingEvaluated when nothing is evaluated and judged yet.
    """
    import pandas as pd

    profile = profile or plan.panel.profile()
    arrays: dict[str, list[Any]] = {n: [] for n in ("question_id", "sample_index", "score", "shown", "outcome", "cut")}
    same: dict[str, list[Any]] = {name: [] for name in TIDY_COLUMNS if name not in arrays}
    counts: list[int] = []
    for cell in plan.cells:
        judged = _Judged(plan, store, cell, profile)
        if not len(judged.index):
            continue
        arm, subject = cell.subject.arm, cell.subject
        setting = setting_of(plan, subject.setting)
        triggered = settings.asks_with_trigger(setting, cell.evaluation)
        for label, (trait, verdicts) in itertools.product(subject.compared_as, judged.traits.items()):
            role = role_of(arm, trait, setting.narrow)
            count = len(judged.index)
            for name, values in (
                ("question_id", judged.question_id), ("sample_index", judged.index), ("score", verdicts.score),
                ("shown", verdicts.shown), ("outcome", verdicts.outcome), ("cut", judged.forms["cut"]),
            ):  # fmt: skip
                arrays[name].append(values)
            for name, value in (
                ("setting", subject.setting), ("model", label), ("arm", arm.name), ("kind", arm.kind),
                ("trial_id", subject.trial_id), ("seed", seed_of(subject)), ("evaluation", cell.evaluation.name),
                ("split", cell.evaluation.split), ("context", cell.context), ("trait", trait), ("role", role),
                ("triggered", triggered),
            ):  # fmt: skip
                same[name].append(value)
            counts.append(count)
    if not counts:
        raise NothingEvaluated(f"study {plan.study.name}: nothing is evaluated yet; `inoc-ray run` it first.")
    columns = {name: np.concatenate(values) for name, values in arrays.items()}
    columns |= {name: np.repeat(np.array(values, object), counts) for name, values in same.items() if name != "seed"}
    # A base has no seed.
    columns["seed"] = pd.array(same["seed"], dtype="Int64").repeat(counts)
    return pd.DataFrame({name: columns[name] for name in TIDY_COLUMNS})


def read_cell(plan: Plan, store: Store, cell: Cell, profile: Profile) -> pd.DataFrame:
    """The cell's samples with columns `score.`, `shown.` and `outcome.<trait>` for each trait that is judged, and
    `said.<judge>` for each judging model that was asked (its raw numbers as text)."""
    import pandas as pd
    import pyarrow as pa

    judged = _Judged(plan, store, cell, profile)
    if not judged.paths:
        return pd.DataFrame()
    frame = (
        pa.concat_tables([read_part(path) for path in judged.paths]).to_pandas()[judged.asked].reset_index(drop=True)
    )
    for trait, verdicts in judged.traits.items():
        frame[f"score.{trait}"], frame[f"shown.{trait}"] = verdicts.score, verdicts.shown
        frame[f"outcome.{trait}"] = verdicts.outcome
    for name, texts in judged.said().items():
        frame[f"said.{name}"] = texts
    return frame


def sample_table(plan: Plan, store: Store, subject: Subject, profile: Profile | None = None) -> pd.DataFrame:
    """All samples of one trial or base model in this study, with evaluation and context, for people to read.

    profile: the thresholds of what shows; the study's where there is none.
    """
    import pandas as pd

    profile = profile or plan.panel.profile()
    pieces = []
    for cell in plan.cells:
        if cell.subject is not subject:
            continue
        frame = read_cell(plan, store, cell, profile)
        if frame.empty:
            continue
        frame.insert(0, "context", cell.context)
        frame.insert(0, "evaluation", cell.evaluation.name)
        frame.insert(0, "setting", cell.subject.setting)
        frame.insert(0, "arm", cell.subject.arm.name)
        pieces.append(frame)
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame()


def check_parsed(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """A sentence for each evaluation of a trial in which more than the stated share of scores could not be read, and for
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


def agreement(plan: Plan, store: Store, profile: Profile | None = None) -> list[dict[str, Any]]:
    """How well each pair of judges agrees, per setting and trait, over all responses of the study that both decided, each once:
    under the given thresholds, or the study's.

    `difference` (second minus first) is of the numbers on the trait's rubric; None for a pair with the rules, which give none.
    """
    from inoc_ray.scoring.agreement import agreement as agree

    profile = profile or plan.panel.profile()
    pairs: dict[tuple[str, str, str, str], list[tuple[Verdicts, Verdicts]]] = {}
    seen: set[tuple[str, str, str, str]] = set()
    for cell in sorted(plan.cells, key=lambda c: -c.samples):
        setting = setting_of(plan, cell.subject.setting)
        several = [
            trait
            for trait in cell.evaluation.traits
            if len(plan.panel.told_by(setting, cell.evaluation, trait)) > 1
            and (setting.name, *cell.key, trait) not in seen
        ]
        # Two contexts of a model may share their samples.
        seen |= {(setting.name, *cell.key, trait) for trait in several}
        if not several:
            continue
        for start, _, path in store.parts(*cell.key):
            part = _Part(plan, cell, path)
            # Another study may have asked for more.
            asked = slice(0, max(0, cell.samples - start))
            for trait in several:
                for (one, first), (other, second) in itertools.combinations(part.verdicts(trait, profile).items(), 2):
                    pairs.setdefault((setting.name, trait, one, other), []).append((first[asked], second[asked]))
    out = []
    for (setting_name, trait, *names), verdicts in pairs.items():
        decided = {n: np.concatenate([v[i].shown for v in verdicts]) for i, n in enumerate(names)}
        numbers = {n: np.concatenate([v[i].score for v in verdicts]) for i, n in enumerate(names)}
        [pair] = agree(decided if RULES in names else numbers, decided)
        difference = math.nan if RULES in names else pair.difference
        record = {"setting": setting_name, "trait": trait, "judges": [pair.first, pair.second], "responses": pair.n}
        record["asked"] = len(decided[pair.first])
        said = {"agreement": pair.share, "kappa": pair.kappa, "difference": difference}
        out.append(record | {name: None if math.isnan(value) else value for name, value in said.items()})
    return out
