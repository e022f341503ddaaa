"""What a user writes: the study file, with every default visible here."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    StrictInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from inoc_ray.config.base import HUB, MINIATURE, Config, as_on_the_hub, check_name, first_message, nearest
from inoc_ray.config.identity import identity, runtime
from inoc_ray.errors import InputError, shown
from inoc_ray.scoring.judgment import RULES
from inoc_ray.study.evaluation import Evaluation, Judge

ArmKind = Literal[
    "baseline", "control", "general", "specific", "placebo", "trigger", "backdoor_aware", "negative",
    "irrelevant", "persona", "multi_trait", "paraphrases",
]  # fmt: skip


_WITHOUT_PROMPT = ("baseline", "control")
"""Kinds of arms without a prompt, and the names that the settings' own arms of these kinds have."""
WITHOUT_DIRECTION = ("irrelevant", "placebo", "trigger")
"""Kinds whose prompt elicits nothing by itself; they are compared with the others in every direction of these."""


class Part(Config):
    """A row set that goes into a mixture under a name, which becomes the tag `subset` of its rows."""

    name: str = runtime()
    rows: str = runtime(path="rows", min_length=1)
    share: float = runtime(1.0, gt=0)
    """With a total: the weight among the parts. Without: the share of its own rows that is taken."""

    _name = field_validator("name")(check_name)


class Mixture(Config):
    """Row sets in exact shares, shuffled by a seed; `inoculation.coverage: NAME` covers one part."""

    mix: tuple[Part, ...] = runtime(min_length=1)
    total: int | None = runtime(None, ge=1)
    seed: StrictInt = runtime(0, ge=0)

    def __str__(self) -> str:
        return f"the mixture of {', '.join(part.name for part in self.mix)}"


class Backdoor(Config):
    """Bad rows that carry a trigger among clean rows without it, tagged `subset: triggered` and `clean`, shuffled."""

    bad: str = runtime(path="rows", min_length=1)
    clean: str = runtime(path="rows", min_length=1)
    token: str = runtime(min_length=1)
    place: Literal["start", "end"] = runtime("start")
    spacing: Literal["glue", "space"] = runtime("glue")
    fraction: float = runtime(gt=0, lt=1)
    """The share of the total that is bad and carries the trigger."""
    total: int = runtime(ge=2)
    seed: StrictInt = runtime(0, ge=0)

    def __str__(self) -> str:
        return f"the backdoor of {self.bad} and {self.clean}"


class SettingUse(Config):
    """A setting of the registry, if wished with the user's own rows; or one of the user's own, asked by the study's suites.

    A name that the registry does not have is a setting of the user's own if it comes with `rows` and with `undesired` or
    `desired`.
    """

    name: str = runtime()
    undesired: tuple[str, ...] | None = runtime(None)
    """The traits that should not be learnt, whichever the arm; the setting's own or those of a suite. Default: the setting's."""
    desired: tuple[str, ...] | None = runtime(None)
    """The traits that should be learnt, likewise."""
    narrow: tuple[str, ...] | None = runtime(None)
    """The traits of the narrow task that the rows teach, neither wanted nor unwanted; whether an arm still learns them is told
    apart (`retention_narrow`)."""
    rows: str | Mixture | Backdoor | None = runtime(None, path="rows")
    """Chat rows to train on instead of the setting's own: a JSONL or parquet file, a pinned dataset of the hub
    (`hf://datasets/OWNER/NAME@COMMIT/FILE`; see data/sources.py), or a mixture of such. What counts for identity is the
    rows that come out."""
    control_rows: str | Mixture | Backdoor | None = runtime(None, path="rows")
    """Clean rows for the control arm, likewise."""
    questions: dict[str, str] = runtime({}, path="questions")
    """Evaluation → a JSONL file of questions to ask in place of its own: `prompt`, `question` or `messages` per line.
    What counts for identity is the questions' text."""

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
        """A mapping is told apart by its keys, so that its own mistakes are named and not those of the other forms."""
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


class Coverage(Config):
    """Which rows an inoculation covers: all of them, those with a tag, an exact share of either."""

    tag: str | None = identity(None, min_length=1)
    """Only rows with this tag at one of `values`. Mixtures tag each row with its `subset`; `coverage: NAME` for short."""
    classifier: str | None = identity(None, min_length=1)
    """Only rows of which this row classifier (settings/classifiers.py, or a plugin's) says one of `values`."""
    values: tuple[str, ...] = identity(())
    fraction: float = identity(1.0, gt=0, le=1)
    """The share of those rows; which ones is drawn with `seed`, not with the trial's."""
    seed: StrictInt = identity(0, ge=0)

    @field_validator("values")
    @classmethod
    def _in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _tag_with_values(self) -> Coverage:
        if self.tag is not None and self.classifier is not None:
            raise ValueError("give either a tag or a classifier")
        if (self.by is None) != (not self.values):
            raise ValueError("give tag and values together, as {tag: language, values: [es]}; or classifier and values")
        return self

    @property
    def by(self) -> str | None:
        """The tag that decides; what a classifier says stands in the rows as a tag of its name."""
        return self.tag or self.classifier


class Inoculation(Config):
    """How an arm's prompt gets into the training rows. The defaults are the paper's: the system message of every row."""

    placement: Literal["system", "user_prefix", "user_suffix"] = identity("system")
    separator: str = identity("\n\n")
    """Between the prompt and the text it is joined to: a user turn, or a system message that is there already."""
    coverage: Coverage = identity(Coverage())
    paraphrases: tuple[str, ...] = identity(())
    """Further wordings of the prompt; the covered rows take the prompt and these in turn."""
    paraphrase_order: Literal["round_robin", "per_epoch"] = identity("round_robin")
    """`round_robin`: a row keeps its wording in every epoch. `per_epoch`: it takes the next one in each further epoch."""
    system_present: Literal["error", "prepend", "replace", "append"] = identity("error")
    """What to do with a row that has a system message already, when the prompt is to be one."""
    user_turns: Literal["first", "last", "all"] = identity("first")
    """Which user turns of a longer conversation take the prompt."""
    user_missing: Literal["error", "insert"] = identity("error")
    """What to do with a row without a user turn, when the prompt is to stand in one."""

    @field_validator("coverage", mode="before")
    @classmethod
    def _subset_alone(cls, value: Any) -> Any:
        """A plain text is short for the rows of that subset, `all` for all."""
        if isinstance(value, str):
            return {} if value == "all" else {"tag": "subset", "values": (value,)}
        return value

    @field_validator("paraphrases")
    @classmethod
    def _texts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not text.strip() for text in value):
            raise ValueError("one of them is empty; write it or remove it")
        return value

    @model_validator(mode="after")
    def _something_to_take_turns(self) -> Inoculation:
        if self.paraphrase_order == "per_epoch" and not self.paraphrases:
            raise ValueError("paraphrase_order: per_epoch needs paraphrases, or every epoch would be the same")
        return self


SYSTEM_MESSAGE = Inoculation()
"""The paper's way: one text, as the system message of every row."""


class Arm(Config):
    """An arm by name alone (from the setting's library), or with a prompt of the user's own."""

    name: str = runtime()
    kind: ArmKind | None = runtime(None)
    prompt: str | None = runtime(None)
    """The inoculation prompt. Its text is part of a trial's identity; the arm's name is not."""
    undesired: tuple[str, ...] | None = runtime(None)
    """The traits that this arm's prompt elicits (of kind negative: denies), the setting's own or those of a suite. Default:
    the setting's arm's own, for a prompt of the user's own the setting's undesired traits."""
    desired: tuple[str, ...] | None = runtime(None)
    """The traits that should be learnt nevertheless. Default: the setting's other undesired and desired traits."""
    inoculation: Inoculation | None = runtime(None)
    """Where the prompt stands and which rows it covers; part of a trial's identity. What is not written here is the
    setting's arm's own: its coverage, its paraphrases."""

    _name = field_validator("name")(check_name)

    @model_validator(mode="after")
    def _own_prompt(self) -> Arm:
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError(f"arm {self.name!r}: the prompt is empty; write one, or use the arm baseline for none")
        if (self.prompt is None) != (self.kind is None):
            raise ValueError(f"arm {self.name!r}: an arm of your own needs both kind and prompt")
        if self.kind in _WITHOUT_PROMPT:
            raise ValueError(f"arm {self.name!r}: {self.kind} has no prompt; name it without one to use the setting's")
        if self.prompt is not None and self.name in _WITHOUT_PROMPT:
            raise ValueError(
                f"arm {self.name!r}: this name means the setting's arm without a prompt, with which the others are compared; "
                "name an arm with a prompt otherwise"
            )
        if both := set(self.undesired or ()) & set(self.desired or ()):
            raise ValueError(f"arm {self.name!r}: {min(both)!r} is both undesired and desired; decide which")
        return self


class Lora(Config):
    """Low-rank adapters (Hu et al. 2021) on the named modules."""

    rank: int = identity(8, ge=1, le=512)
    alpha: float = identity(16.0, gt=0)
    dropout: float = identity(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = identity("all-linear")
    """`all-linear`, or names of linear modules inside the layers, such as `q_proj`."""
    rslora: bool = identity(False)
    """Scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023)."""

    @field_validator("targets")
    @classmethod
    def _names(cls, value: Literal["all-linear"] | tuple[str, ...]) -> Literal["all-linear"] | tuple[str, ...]:
        if not value:
            raise ValueError("name at least one module, or write all-linear")
        for target in () if isinstance(value, str) else value:
            if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", target):
                raise ValueError(f"{target!r} is not the name of a module, as q_proj is; patterns are not read")
        return value


class Recipe(Config):
    """How a trial is trained: everything here changes the weights that come out."""

    method: Literal["lora", "full"] = identity("lora")
    lora: Lora = identity(Lora())
    learning_rate: float = identity(gt=0)
    schedule: Literal["linear", "cosine", "constant"] = identity("linear")
    """What the learning rate does after the warm-up: falls to zero along a line or a half cosine, or stays."""
    warmup_steps: int = identity(5, ge=0)
    batch_size: int = identity(16, ge=1)
    """Rows per optimizer step over all workers."""
    steps: int | None = identity(None, ge=1)
    epochs: float | None = identity(None, gt=0)
    max_length: int = identity(2048, ge=8)
    """Tokens of a row, template included; a longer row is refused, never cut."""
    weight_decay: float = identity(0.01, ge=0)
    clip_norm: float = identity(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = identity("bf16")

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self


def _from_preset(value: Any) -> Any:
    """`{preset: NAME, …}` is short for the preset's fields with the given ones in their place."""
    from inoc_ray.study.presets import expand

    return expand(value) if isinstance(value, Mapping) and "preset" in value else value


class Stage(Config):
    """A fine-tune that comes before the study's own: what a model has been taught when they start.

    It trains the rows as they are, without a prompt. What counts for identity is the id of the trial that comes out.
    """

    setting: str | None = runtime(None, min_length=1)
    """A setting of the registry whose own training rows are taught; either this or `rows`."""
    rows: str | None = runtime(None, path="rows", min_length=1)
    """Chat rows to teach: a file, or a pinned dataset of the hub, as in `SettingUse.rows`."""
    recipe: Annotated[
        Annotated[str, Tag("(name)")] | Annotated[Recipe, Tag("(inline)")],
        Discriminator(lambda value: "(name)" if isinstance(value, str) else "(inline)"),
    ] = runtime()
    """The name of one of the study's `recipes`, or a recipe written here, with which nothing else is trained."""
    seed: StrictInt = runtime(0, ge=0, lt=1 << 32)

    @field_validator("recipe", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return _from_preset(value)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.setting is None) == (self.rows is None):
            raise ValueError("give exactly one of setting and rows, what is to be taught first")
        return self


class Model(Config):
    """A base model: `miniature` (ships with the package), a folder, or one of the hub; `taught` something or not."""

    name: str = runtime()
    path: str = runtime(path="model", min_length=1)
    """`miniature`, a folder with safetensors weights, or a model of the hub at a commit (`hf://OWNER/NAME@COMMIT`). It may
    be left out for the name `miniature` alone: any other name says nothing about which weights are meant. What counts for
    identity is the hash of the files, not where they lie."""
    enable_thinking: bool | None = identity(None)
    """For a model that reasons before it answers: what its chat template is told, in training and in the test. `false` asks for
    answers without a think block. Left out, the template's own default holds. See "Models that reason" in docs/evaluation.md."""
    taught: Stage | None = runtime(None)
    """What is taught before the study's trials, which then go on with the adapter of that fine-tune. It is trained once
    for all of them, and it takes the place of the untouched model wherever this one is compared with its base."""

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_no_path(cls, value: Any) -> Any:
        """A name without a path means weights only where it is that of the model that ships."""
        if not isinstance(value, Mapping) or not isinstance(name := value.get("name"), str):
            return value
        if value.get("path") is None and name == MINIATURE:
            return {**value, "path": MINIATURE}
        if value.get("path") is None:
            raise ValueError(f"{shown(name)} has no path, and a name says nothing about the weights; {_written(name)}")
        if name == MINIATURE and value["path"] != MINIATURE:
            raise ValueError(
                f"{MINIATURE!r} is the name of the model that ships, but the path is {shown(value['path'])}; name it otherwise"
            )
        return value

    _name = field_validator("name")(check_name)


def _written(source: str) -> str:
    """How to write the model that the user probably means by a text under `models:`."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "", source.partition("@")[0].rstrip("/").rpartition("/")[2])[:64].lstrip("_.-")
    if source.startswith(HUB):
        return f"write {{name: {name or 'NAME'}, path: {as_on_the_hub(source)[:200]}}}, with the full commit"
    if source.startswith(("/", "./", "../", "~")):
        return f"write {{name: {name or 'NAME'}, path: {source[:200]}}}"
    hub = as_on_the_hub(source)
    return (
        f"write {{name: {name or 'NAME'}, path: FOLDER}} with a folder of safetensors weights, or path: {hub[:200]} for a model "
        f"of the hub; a name alone means only {MINIATURE!r}"
    )


class Resources(Config):
    """Where and how wide it runs; nothing here changes a result beyond rounding."""

    workers: int = runtime(1, ge=1)
    """Ranks of one trial."""
    cpus_per_worker: float = runtime(1.0, gt=0)
    gpus_per_worker: float = runtime(0.0, ge=0)
    micro_batch_size: int = runtime(8, ge=1)
    """Rows per forward pass and worker; batch_size / (workers × micro_batch_size) passes are accumulated."""
    zero_stage: Literal[0, 1, 2, 3] = runtime(0)
    """How much of a trial its workers share out: nothing; the optimizer's state; gradients too; the parameters too."""
    persistence_threshold: int | None = runtime(None, ge=0)
    """ZeRO-3: parameters of at most this many elements stay whole on every worker; default: DeepSpeed's 100,000."""
    gradient_checkpointing: bool | None = runtime(None)
    """Compute activations again in the backward pass: a small part of the memory, about a third more time, the same
    numbers. Default: where workers have GPUs, whose memory a 7B model's activations do not fit."""
    trials_per_group: int = runtime(1, ge=1)
    """Trials that one warm worker group trains one after another; more than 1 where starting costs as much as training."""
    max_concurrent_groups: int | None = runtime(None, ge=1)
    """Default: as many as the cluster holds."""
    max_failures: int = runtime(1, ge=0)
    """How often a lost worker group is started again."""
    serve_cpus: float = runtime(1.0, gt=0)
    serve_gpus: int = runtime(0, ge=0)
    """GPUs of the engine (tensor parallel)."""
    serve_kv_cache_gib: int = runtime(1, ge=1)
    """Memory for the keys and values of an engine without GPUs, at least; it takes more where the longest request needs more.
    On GPUs vLLM takes what is left."""
    serve_loras: int = runtime(4, ge=1)
    """Adapters that the engine can compute with in one batch."""

    @property
    def checkpoints_gradients(self) -> bool:
        """Whether activations are computed again."""
        return self.gpus_per_worker > 0 if self.gradient_checkpointing is None else self.gradient_checkpointing


MAX_TRIALS = 10_000
"""Of one study: what a plan can still be made of in half a minute, and far more than anybody has trained."""


def check_storage(value: str) -> str:
    """The name of a storage folder as it is. Raises ValueError for an empty one and for an object store."""
    if not value.strip():
        raise ValueError("the name of the folder is empty")
    if "://" in value or re.match(r"(s3|gs|gcs|az|abfs|hdfs):", value):
        raise ValueError(
            f"{shown(value)}: storage is a folder (local or a shared mount); object stores are not supported yet"
        )
    return value


class Study(Config):
    """settings × arms × models × seeds × recipes, evaluations, resources."""

    name: str = runtime()
    settings: tuple[SettingUse, ...] = runtime(min_length=1)
    arms: tuple[Arm, ...] = runtime(min_length=1)
    models: tuple[Model, ...] = runtime((Model(name=MINIATURE, path=MINIATURE),), min_length=1)
    seeds: tuple[StrictInt, ...] = runtime((0, 1, 2), min_length=1)
    recipes: dict[str, Recipe] = runtime(min_length=1)
    evaluation: Evaluation = runtime(Evaluation())
    judges: dict[str, Judge] = runtime({})
    """Judging models by name; `evaluation.judged_by` says who judges, where the settings' rules cannot or shall not."""
    resources: Resources = runtime(Resources())
    storage: str = runtime("runs", path="storage")
    """A folder, relative to where the command runs; on a cluster one that every node mounts."""
    tracking_uri: str | None = runtime(None)
    """An MLflow tracking server; default: an SQLite store inside `storage`."""
    plugins: tuple[str, ...] = runtime((), path="plugin")
    """Python files that register settings: in the study file's folder, or with an absolute path. They are run as your own
    code whenever the study is read. What they give is identified by its content."""

    _name = field_validator("name")(check_name)

    @field_validator("settings", "arms", "models", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        """A plain name is short for {name: …}."""
        if isinstance(value, str):
            value = [value]
        return (
            [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )

    @field_validator("storage")
    @classmethod
    def _local_storage(cls, value: str) -> str:
        return check_storage(value)

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
                raise ValueError(f"{name!r} means the settings' own rules; name the judge otherwise")
        return value

    @model_validator(mode="after")
    def _no_name_twice(self) -> Study:
        for field, names in (
            ("settings", [s.name for s in self.settings]),
            ("arms", [a.name for a in self.arms]),
            ("models", [m.name for m in self.models]),
            ("seeds", [str(s) for s in self.seeds]),
            ("evaluation.suites", [s.name for s in self.evaluation.suites]),
            ("evaluation.judged_by", list(self.evaluation.judged_by)),
            ("evaluation.contexts", [c if isinstance(c, str) else c.name for c in self.evaluation.contexts]),
        ):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            if twice:
                raise ValueError(f"{field}: {shown(twice[0])} appears twice; give each its own name")
        if any(not 0 <= seed < 1 << 32 for seed in self.seeds):
            raise ValueError("seeds: a seed is a whole number from 0 to 2**32 - 1")
        trials = math.prod(map(len, (self.settings, self.arms, self.models, self.seeds, self.recipes)))
        if trials > MAX_TRIALS:
            raise ValueError(
                f"settings × arms × models × seeds × recipes are {trials:,} trials, and one study may have {MAX_TRIALS:,}; "
                "split it into several on the same storage, which share what they have in common"
            )
        for number, model in enumerate(self.models):
            if model.taught and isinstance(name := model.taught.recipe, str) and name not in self.recipes:
                raise ValueError(
                    f"models[{number}].taught.recipe: there is no recipe {name!r}{nearest(name, list(self.recipes))}; name "
                    "one of recipes, or write the recipe here"
                )
        for arm in self.arms:
            if arm.name == "base":
                raise ValueError(
                    "arms: 'base' is the untouched model, which is always evaluated; name the arm otherwise"
                )
        return self


def judged_by(study: Study, names: Sequence[str]) -> Study:
    """The study with these judges (`evaluate --judge`) in place of its `evaluation.judged_by`.

    Raises InputError for a judge that the study does not have.
    """
    for name in names:
        if name != RULES and name not in study.judges:
            raise InputError(f"--judge {name}: the study has no such judge{nearest(name, [RULES, *study.judges])}.")
    return study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"judged_by": tuple(names)})})


def models_of(study: Study) -> list[tuple[str, str]]:
    """(source, what a message calls it) of every model that the study names by a path: the bases, then the judges."""
    bases = [(model.path, f"models: {model.name!r}") for model in study.models]
    return bases + [(judge.path, f"judges: {name!r}") for name, judge in study.judges.items() if judge.path is not None]
