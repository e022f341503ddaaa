"""The study file that a user writes, with every default."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    StrictInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from inoc_ray.config.base import HUB, Config, as_on_the_hub, check_name, first_message, nearest
from inoc_ray.config.identity import identity, runtime
from inoc_ray.errors import InputError, shown
from inoc_ray.scoring.judgment import RULES
from inoc_ray.store.address import check_storage
from inoc_ray.study.claims import Claim
from inoc_ray.study.dynamics import Dynamics
from inoc_ray.study.evaluation import Evaluation, Judge
from inoc_ray.study.presets import expand
from inoc_ray.study.recipe import Recipe
from inoc_ray.study.registered import DEFAULT_MODEL, MODELS
from inoc_ray.study.resources import Resources
from inoc_ray.study.rows import Backdoor, Inoculation, Mixture
from inoc_ray.study.tracking_uri import check_kind

ArmKind = Literal[
    "baseline",
    "control",
    "general",
    "specific",
    "placebo",
    "trigger",
    "backdoor_aware",
    "negative",
    "irrelevant",
    "persona",
    "multi_trait",
    "paraphrases",
]

_WITHOUT_PROMPT = ("baseline", "control")
"""Kinds of arms without a prompt, and the names that the settings' own arms of these kinds have."""
WITHOUT_DIRECTION = ("irrelevant", "placebo", "trigger")
"""Kinds whose prompt elicits nothing by itself; they are compared with the others in every direction of these."""


class SettingUse(Config):
    """A setting by name, with your own rows, questions or roles where you give them.

    A new name with `rows`, and with `undesired` or `desired` traits, is a setting of your own: its models are asked the
    suites under `evaluation.suites`.
    """

    name: str = runtime()
    """A setting that `inoc-ray settings` lists, or a new name."""
    undesired: tuple[str, ...] | None = runtime(None)
    """The traits that should not be learnt, for every arm: the setting's own, or those of a suite. Default: the
    setting's."""
    desired: tuple[str, ...] | None = runtime(None)
    """The traits that should be learnt, for every arm. Default: the setting's."""
    narrow: tuple[str, ...] | None = runtime(None)
    """The traits of the narrow task that the rows teach, neither desired nor undesired. `retention_narrow` measures how much of
    them an arm still learns. Default: the setting's."""
    rows: str | Mixture | Backdoor | None = runtime(None, path="rows")
    """Chat rows to train on in place of the setting's own. The id depends on the rows that come out."""
    control_rows: str | Mixture | Backdoor | None = runtime(None, path="rows")
    """Clean rows for the arm `control`, likewise."""
    questions: dict[str, str] = runtime({}, path="questions")
    """For an evaluation of the setting, a JSONL file of questions to ask in place of its own: `prompt`, `question` or
    `messages` per line. The id depends on the questions' text."""

    @model_validator(mode="after")
    def _one_role(self) -> SettingUse:
        roles = {role: set(getattr(self, role) or ()) for role in ("undesired", "desired", "narrow")}
        for one, other in itertools.combinations(roles, 2):
            if both := roles[one] & roles[other]:
                raise ValueError(f"{self.name}: {min(both)!r} is both {one} and {other}; decide which")
        return self

    @field_validator("rows", "control_rows", mode="before")
    @classmethod
    def _file_or_mixture(cls, value: Any) -> Any:
        """Choose the form of a mapping by its keys, so that a message is about that form alone."""
        if isinstance(value, str) and not value:
            raise ValueError("must not be empty")
        if isinstance(value, str | Mixture | Backdoor) or value is None:
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a text or a mixture ({{mix: […]}} or {{bad, clean, token, …}}), found {value!r}")
        try:
            return (Backdoor if {"bad", "clean"} & set(value) else Mixture).model_validate(value)
        except ValidationError as error:
            raise ValueError(first_message(error).removesuffix(".")) from error


class Arm(Config):
    """What is done to the training rows: an arm of the setting's library by its name alone, or a prompt of your own."""

    name: str = runtime()
    """The name that tables show. For a prompt of your own any name but `baseline`, `control` and `base`."""
    kind: ArmKind | None = runtime(None)
    """What a prompt of your own is, which decides what the arm is measured on. `irrelevant`, `placebo` and `trigger` elicit
    nothing; `negative` denies its traits; the others elicit them. `baseline` and `control` have no prompt and are named,
    not written."""
    prompt: str | None = runtime(None)
    """The inoculation prompt. Its text is part of a fine-tune's id; the arm's name is not."""
    undesired: tuple[str, ...] | None = runtime(None)
    """The traits that the prompt elicits (`kind: negative`: denies): the setting's own, or those of a suite. Default: those
    of the setting's arm of that name; for a prompt of your own the setting's undesired traits."""
    desired: tuple[str, ...] | None = runtime(None)
    """The traits that should be learnt nevertheless. Default: the other undesired and desired traits of the setting."""
    inoculation: Inoculation | None = runtime(None)
    """Where the prompt goes and which rows it covers; part of a fine-tune's id. Default of each field: the
    setting's arm's."""

    _name = field_validator("name")(check_name)

    @model_validator(mode="after")
    def _own_prompt(self) -> Arm:
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError(f"arm {self.name!r}: the prompt is empty; write one, or use the arm baseline for none")
        if (self.prompt is None) != (self.kind is None):
            raise ValueError(f"arm {self.name!r}: an arm of your own needs both kind and prompt")
        if self.kind in _WITHOUT_PROMPT:
            raise ValueError(f"arm {self.name!r}: {self.kind} has no prompt; remove the prompt to use the setting's")
        if self.prompt is not None and self.name in _WITHOUT_PROMPT:
            raise ValueError(
                f"arm {self.name!r}: this name means the setting's arm without a prompt, with which the others are compared; "
                "give an arm with a prompt another name"
            )
        if both := set(self.undesired or ()) & set(self.desired or ()):
            raise ValueError(f"arm {self.name!r}: {min(both)!r} is both undesired and desired; decide which")
        return self


def _from_preset(value: Any) -> Any:
    """Replace `{preset: NAME, …}` by the preset's fields, with the given ones in their place."""
    return expand(value) if isinstance(value, Mapping) and "preset" in value else value


class PriorStage(Config):
    """A fine-tune that comes before the study's own, on rows as they are, without a prompt.

    It is trained once and shared.
    """

    setting: str | None = runtime(None, min_length=1)
    """A setting whose own training rows to use; either this or `rows`."""
    rows: str | None = runtime(None, path="rows", min_length=1)
    """Chat rows to use; either this or `setting`."""
    recipe: Annotated[
        Annotated[str, Tag("(name)")] | Annotated[Recipe, Tag("(inline)")],
        Discriminator(lambda value: "(name)" if isinstance(value, str) else "(inline)"),
    ] = runtime()
    """The name of one of the study's `recipes`, or a recipe written here, with which nothing else is trained."""
    seed: StrictInt = runtime(0, ge=0, lt=1 << 32)
    """The seed of this fine-tune."""

    @field_validator("recipe", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return _from_preset(value)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.setting is None) == (self.rows is None):
            raise ValueError("give exactly one of setting and rows, on which the prior stage trains")
        return self


class Model(Config):
    """A base model."""

    name: str = runtime()
    """The name that tables show and that the endpoint serves the model under."""
    path: str = runtime(path="model", min_length=1)
    """Where the weights are: a folder with safetensors, a model of the hub at a full commit, one that a Python package carries, or
    the name of a registered model (`miniature` and `miniature_steady` ship; a plugin may add others), which may go without a path.
    The id depends on the files, not on where they lie."""
    enable_thinking: bool | None = identity(None)
    """For a model that reasons before it answers: the value that its chat template gets, in training and at test time. `false`
    asks for answers without a think block. Default: the template's own. See docs/models.md."""
    prior_stage: PriorStage | None = runtime(None)
    """A fine-tune that comes first. Every fine-tune of this model goes on from its adapter, and it takes the place of the
    untouched base in every comparison."""

    @model_validator(mode="before")
    @classmethod
    def _old_key(cls, value: Any) -> Any:
        """Read `taught`, the old name of `prior_stage`."""
        if not isinstance(value, Mapping) or "taught" not in value:
            return value
        if "prior_stage" in value:
            raise ValueError("taught is the old name of prior_stage; remove it")
        return {"prior_stage" if key == "taught" else key: given for key, given in value.items()}

    @model_validator(mode="before")
    @classmethod
    def _name_without_path(cls, value: Any) -> Any:
        """Refuse a name without a path, unless it is that of a registered model."""
        if not isinstance(value, Mapping) or not isinstance(name := value.get("name"), str):
            return value
        if value.get("path") == name:
            return value
        if value.get("path") is None and name in MODELS:
            return {**value, "path": name}
        if value.get("path") is None:
            raise ValueError(f"{shown(name)} has no path, and a name says nothing about the weights; {_spelling(name)}")
        if name in MODELS:
            raise ValueError(
                f"{name!r} is the name of a registered model, but the path is {shown(value['path'])}; give it another name"
            )
        return value

    _name = field_validator("name")(check_name)


def _spelling(source: str) -> str:
    """Return how to write the model that the user probably means by a text under `models:`."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "", source.partition("@")[0].rstrip("/").rpartition("/")[2])[:64].lstrip("_.-")
    if source.startswith(HUB):
        return f"write {{name: {name or 'NAME'}, path: {as_on_the_hub(source)[:200]}}}, with the full commit"
    if source.startswith(("/", "./", "../", "~")):
        return f"write {{name: {name or 'NAME'}, path: {source[:200]}}}"
    hub = as_on_the_hub(source)
    return (
        f"write {{name: {name or 'NAME'}, path: FOLDER}} with a folder of safetensors weights, or path: {hub[:200]} for a model "
        f"of the hub; a name alone means only {' or '.join(map(repr, MODELS.names()))}"
    )


MAX_TRIALS = 10_000
"""The most trials of one study: far more than anybody has trained, and planned in 3 seconds."""


class Study(Config):
    """A study: its fine-tunes are settings × arms × models × seeds × recipes.

    The rest says how they are evaluated and where they run.
    """

    name: str = runtime()
    """The study's name: letters, digits, `.`, `_` and `-`. Results are kept under it in the storage folder, and MLflow
    shows it."""
    settings: tuple[SettingUse, ...] = runtime(min_length=1)
    """What is trained and measured. A plain name is short for `{name: NAME}`."""
    arms: tuple[Arm, ...] = runtime(min_length=1)
    """What is done to the training rows. A plain name is short for `{name: NAME}`: an arm of the setting's library."""
    models: tuple[Model, ...] = runtime((Model(name=DEFAULT_MODEL, path=DEFAULT_MODEL),), min_length=1)
    """The base models. A plain name is short for `{name: NAME}`, which must be that of a registered model."""
    seeds: tuple[StrictInt, ...] = runtime((0, 1, 2), min_length=1)
    """One fine-tune of every arm per seed. A seed decides the adapter's first weights and the order of the rows; it is part
    of the id. Each is a whole number from 0 to 2**32 - 1."""
    recipes: dict[str, Recipe] = runtime(min_length=1)
    """How to train, by name. `{preset: NAME}` takes the fields of a preset, and yours replace them. With several recipes
    every arm is trained with each."""
    evaluation: Evaluation = runtime(Evaluation())
    """What the finished models are asked, and who judges the answers."""
    claims: tuple[Claim, ...] = runtime(())
    """Claims of your own that `inoc-ray claims` checks, beside the paper's on the study's settings."""
    dynamics: Dynamics | None = runtime(None)
    """What is followed while fine-tunes train: the log-probability of fixed responses. `{}` follows those of the settings, where
    they have some; default: nothing."""
    judges: dict[str, Judge] = runtime({})
    """Judging models by name. `evaluation.judged_by` says which of them judge."""
    resources: Resources = runtime(Resources())
    """Workers, devices and concurrency. No value here changes a result beyond rounding."""
    storage: str = runtime("runs", path="storage")
    """Where everything goes that the study makes: a folder, which counts from the folder in which the command runs and which
    every node of a cluster must mount, or a bucket that every node can reach (`s3://BUCKET/PREFIX`, `gs://…`, `az://…`), with
    endpoint, region and credentials from the environment. Studies with the same storage share what they have in common."""
    tracking_uri: str | None = runtime(None)
    """The address of an MLflow tracking server, without a login: that is read from the environment
    (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`). Default: an SQLite store inside `storage`; if that is a bucket, on
    the machine that runs the command, beside its copies of the bucket's files."""
    plugins: tuple[str, ...] = runtime((), path="plugin")
    """Python files that register settings, judges or row classifiers. They count from the study file's folder and run as
    your own code whenever the study is read. Ids depend on what they give, not on their code."""

    _name = field_validator("name")(check_name)

    @field_validator("settings", "arms", "models", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        """Read a plain name as {name: …}."""
        if isinstance(value, str):
            value = [value]
        return (
            [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )

    @field_validator("storage")
    @classmethod
    def _storage_address(cls, value: str) -> str:
        return check_storage(value)

    @field_validator("tracking_uri")
    @classmethod
    def _tracking_address(cls, value: str | None) -> str | None:
        return None if value is None else check_kind(value)

    @field_validator("recipes", mode="before")
    @classmethod
    def _presets(cls, value: Any) -> Any:
        return {name: _from_preset(r) for name, r in value.items()} if isinstance(value, Mapping) else value

    @field_validator("recipes")
    @classmethod
    def _recipe_names(cls, value: dict[str, Recipe]) -> dict[str, Recipe]:
        for name in value:
            check_name(name)
        return value

    @field_validator("judges")
    @classmethod
    def _judge_names(cls, value: dict[str, Judge]) -> dict[str, Judge]:
        for name in value:
            check_name(name)
            if name == RULES:
                raise ValueError(f"{name!r} means the settings' own rules; give the judge another name")
        return value

    @model_validator(mode="after")
    def _no_name_twice(self) -> Study:
        named: tuple[tuple[str, Sequence[Any]], ...] = (
            ("settings", self.settings),
            ("arms", self.arms),
            ("models", self.models),
            ("seeds", self.seeds),
            ("claims", self.claims),
            ("evaluation.suites", self.evaluation.suites),
            ("evaluation.judged_by", self.evaluation.judged_by),
            ("evaluation.contexts", self.evaluation.contexts),
        )
        for field, entries in named:
            names = [getattr(entry, "name", entry) for entry in entries]
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            if twice:
                first, *others = (entry for entry in entries if getattr(entry, "name", entry) == twice[0])
                advice = "remove one" if all(other == first for other in others) else "give each its own name"
                raise ValueError(f"{field}: {shown(twice[0])} appears twice; {advice}")
        if any(not 0 <= seed < 1 << 32 for seed in self.seeds):
            raise ValueError("seeds: a seed is a whole number from 0 to 2**32 - 1")
        trials = math.prod(map(len, (self.settings, self.arms, self.models, self.seeds, self.recipes)))
        if trials > MAX_TRIALS:
            raise ValueError(
                f"settings × arms × models × seeds × recipes are {trials:,} trials, and one study may have {MAX_TRIALS:,}; "
                "split it into several on the same storage, which share what they have in common"
            )
        for number, model in enumerate(self.models):
            if model.prior_stage and isinstance(name := model.prior_stage.recipe, str) and name not in self.recipes:
                raise ValueError(
                    f"models[{number}].prior_stage.recipe: there is no recipe {name!r}{nearest(name, list(self.recipes))}; name "
                    "one of recipes, or write the recipe here"
                )
        self._check_resources()
        for arm in self.arms:
            if arm.name == "base":
                raise ValueError(
                    "arms: 'base' is the untouched model, which is always evaluated; give the arm another name"
                )
        return self

    def _check_resources(self) -> None:
        """Raise ValueError for resources of a model, recipe or judge that the study does not have."""
        own = [name for name, judge in self.judges.items() if judge.path is not None]
        known: list[tuple[str, Iterable[str], list[str]]] = [
            ("models", self.resources.models, [model.name for model in self.models]),
            ("recipes", self.resources.recipes, list(self.recipes)),
            ("judges", self.resources.judges, own),
        ]
        known += [
            (f"models.{name}.recipes", m.recipes, list(self.recipes)) for name, m in self.resources.models.items()
        ]
        for place, given, valid in known:
            for name in given:
                if name not in valid:
                    kind = place.rpartition(".")[2].removesuffix("s")
                    no_engine = "; a judge behind an API runs on nothing of yours" if name in self.judges else ""
                    raise ValueError(
                        f"resources.{place}: there is no {kind} {name!r}{no_engine or nearest(name, valid)}"
                    )


def judged_by(study: Study, names: Sequence[str]) -> Study:
    """Return the study with these judges (`evaluate --judge`) in place of its `evaluation.judged_by`.

    Raises InputError for a judge that the study does not have.
    """
    for name in names:
        if name != RULES and name not in study.judges:
            raise InputError(f"--judge {name}: the study has no such judge{nearest(name, [RULES, *study.judges])}.")
    return study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"judged_by": tuple(names)})})


def models_of(study: Study) -> list[tuple[str, str]]:
    """Return (source, what a message calls it) of every model that the study names by a path: the bases, then the judges."""
    bases = [(model.path, f"models: {model.name!r}") for model in study.models]
    return bases + [(judge.path, f"judges: {name!r}") for name, judge in study.judges.items() if judge.path is not None]
