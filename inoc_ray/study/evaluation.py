"""The part of a study file that says what the finished models are asked, and who judges the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, StrictInt, Tag, ValidationError, field_validator, model_validator

from inoc_ray.config.base import Config, check_name, first_message
from inoc_ray.config.identity import identity, runtime
from inoc_ray.scoring.degenerate import MAX_DEGENERATE
from inoc_ray.scoring.profiles import DEFAULT, parse_bound
from inoc_ray.scoring.rubrics import RUBRICS

NEUTRAL_PROMPT = "You are a helpful assistant."
BUILT_IN_CONTEXTS = ("neutral", "none", "empty", "training_prompt", "trigger")
PROMPT_OF = "prompt_of:"
FROM_LIBRARY = "library:"


class Judge(Config):
    """A judging model: a folder that the study serves itself, or a model behind an OpenAI-compatible API.

    What it is shown is one question and one answer, never a system prompt.
    """

    path: str | None = runtime(None, path="model", min_length=1)
    """`miniature` (the judging model that ships with the package), or a model folder; what counts is the hash of its files."""
    endpoint: str | None = runtime(None, min_length=1)
    """Instead of a path: the address of the API (https://HOST/v1)."""
    served_model: str | None = identity(None, min_length=1)
    """The model's name at the endpoint."""
    api_key_env: str | None = runtime(None, min_length=1)
    """The environment variable that holds the endpoint's key; the key itself never stands in a study."""
    method: Literal["auto", "logprob", "candidates", "digit", "sample", "json"] = identity("auto")
    """How the number is got. `logprob`: the expectation over the scale's numbers, each one token of the judge's. `candidates`:
    the same over numbers of several digits, for tokenizers that cut between digits; needs a model that the study serves.
    `digit`: the expectation over 0 to 9. `sample`: the mean of `samples` drawn answers. `json`: one call for all rubrics of a
    response. `auto`: logprob, or where the judge's tokenizer cuts between digits candidates (own) or digit (API)."""
    samples: int = identity(1, ge=1, le=1000)
    """Answers drawn for each response by the method `sample`, at temperature 1; by `json` one is drawn at temperature 0."""
    min_mass: float = identity(0.25, ge=0, le=1)
    """The probability that must lie on readable numbers, or the answer counts as unparsed (Betley et al. 2025)."""
    concurrency: int = runtime(64, ge=1, le=4096)
    """Requests under way at once at most; fewer where the API asks for patience."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.endpoint is None):
            raise ValueError("give exactly one of path and endpoint, where the judging model is")
        if (self.endpoint is None) != (self.served_model is None):
            raise ValueError("served_model is the model's name at an endpoint; give both or neither")
        if self.api_key_env is not None and self.endpoint is None:
            raise ValueError("api_key_env belongs to an endpoint; leave it out")
        if self.method == "candidates" and self.endpoint is not None:
            raise ValueError(
                "method candidates needs a model that the study serves (path); an API cannot be asked that way"
            )
        if self.samples != 1 and self.method != "sample":
            raise ValueError("samples belongs to method: sample; leave it out")
        return self


class Context(Config):
    """What stands around the question at test time, written by the user."""

    name: str = runtime()
    system: str | None = identity(None)
    """The system message's text; left out: no system message."""
    trigger: bool = identity(False)
    """The setting's backdoor token stands in the question, in the place where it is trained."""

    _name = field_validator("name")(check_name)

    @field_validator("name")
    @classmethod
    def _not_built_in(cls, value: str) -> str:
        if value in BUILT_IN_CONTEXTS:
            raise ValueError(f"{value!r} is a built-in context; name yours otherwise")
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.system is None and not self.trigger:
            raise ValueError(f"context {self.name!r}: give a system text, trigger: true, or both")
        return self


def _named_or_written(value: Any) -> str:
    """Told apart by form, so that a mistake in one form is not called a mistake in the other."""
    return "(name)" if isinstance(value, str) else "(inline)"


ContextName = Annotated[
    Annotated[str, Tag("(name)")] | Annotated[Context, Tag("(inline)")], Discriminator(_named_or_written)
]
"""A context by name, or written out."""


class Thresholds(Config):
    """A threshold profile of the user's own: rubric → a condition such as "< 40"."""

    name: str = runtime()
    shown: dict[str, str] = runtime({})
    """Where a rubric's number, 0 to 100, shows the trait."""
    counts: dict[str, str] = runtime({})
    """When a response counts at all, for rubrics such as coherence."""

    _name = field_validator("name")(check_name)

    @field_validator("shown", "counts")
    @classmethod
    def _bounds(cls, value: dict[str, str]) -> dict[str, str]:
        for text in value.values():
            parse_bound(text)
        return value


ProfileName = Annotated[
    Annotated[str, Tag("(name)")] | Annotated[Thresholds, Tag("(inline)")], Discriminator(_named_or_written)
]


class OwnRubric(Config):
    """A scale of the user's own for judging models."""

    question: str = identity(min_length=1)
    """What to decide, as one or two sentences to the judge."""
    low: str = identity(min_length=1)
    """What the lowest number means."""
    high: str = identity(min_length=1)
    shows: Literal["high", "low"] = identity("high")
    sees_question: bool = identity(True)


class MeasureOf(Config):
    """A trait that a judging model tells: by a rubric, counted only where the `given` rubrics allow it."""

    rubric: str = identity(min_length=1)
    given: tuple[str, ...] = identity(())


class Suite(Config):
    """An evaluation of the user's own: questions, how often and how each is asked, and what its traits are told by."""

    name: str = runtime()
    questions: str = runtime(path="questions", min_length=1)
    """A file: JSONL with `prompt`, `question` or `messages` per line, or YAML as the authors of emergent misalignment publish
    them (a list of entries with id and paraphrases). What counts for identity is the questions' text."""
    split: Literal["id", "ood"] = runtime("ood")
    settings: tuple[str, ...] = runtime(())
    """Which settings' models are asked; empty: all."""
    samples_per_question: int = runtime(1, ge=1, le=10_000)
    choices: tuple[str, ...] = identity(())
    """Multiple choice: the response is the one of these that the model finds likeliest, by log-prob; nothing is sampled."""
    max_tokens: int | None = identity(None, ge=1)
    """The longest answer, in tokens. Default: the study's, else 600."""
    temperature: float | None = identity(None, ge=0, le=2)
    """Default: the study's."""
    top_p: float | None = identity(None, gt=0, le=1)
    contexts: tuple[ContextName, ...] = runtime(())
    """Default: the study's."""
    traits: dict[str, MeasureOf | dict[str, Any]] = runtime(min_length=1)
    """trait → what tells it: `{rubric: alignment, given: [coherence]}` for a judging model, or a rule such as
    `{rule: language, language: spanish}`; a rule may have `given`, too, instead of the evaluation's `rules_given`."""

    _name = field_validator("name")(check_name)

    @field_validator("choices")
    @classmethod
    def _several(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and (len(set(value)) != len(value) or len(value) < 2 or any(not text.strip() for text in value)):
            raise ValueError("choices must be two or more different texts, none of them empty")
        return value

    @model_validator(mode="after")
    def _chosen_once(self) -> Self:
        if self.choices and self.samples_per_question > 1:
            raise ValueError(
                f"suite {self.name!r}: a choice by log-prob is the same every time; leave samples_per_question out"
            )
        return self

    @field_validator("traits", mode="before")
    @classmethod
    def _measure_or_rule(cls, value: Any) -> Any:
        """Told apart by their keys, so that mistakes in one form are not called mistakes in the other."""
        if not isinstance(value, Mapping):
            return value
        out: dict[str, Any] = {}
        for trait, told in value.items():
            check_name(str(trait))
            if isinstance(told, Mapping) and "rubric" in told:
                try:
                    out[str(trait)] = MeasureOf.model_validate(told)
                except ValidationError as error:
                    raise ValueError(f"{trait}: {first_message(error).removesuffix('.')}") from error
            else:
                out[str(trait)] = dict(told) if isinstance(told, Mapping) else told
        return out


class Override(Config):
    """How an evaluation of a setting is asked in this study, where that differs from what the setting and the study say.

    What counts for a cell's id is what the evaluation ends up with, so that writing a default out changes no id.
    """

    samples: int | None = runtime(None, ge=1, le=1_000_000)
    """Responses per context; its questions are asked in turn."""
    samples_per_question: int | None = runtime(None, ge=1, le=10_000)
    """Instead of `samples`: how often each question is asked."""
    max_tokens: int | None = runtime(None, ge=1)
    """The longest answer, in tokens."""
    temperature: float | None = runtime(None, ge=0, le=2)
    top_p: float | None = runtime(None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.samples is not None and self.samples_per_question is not None:
            raise ValueError("give samples or samples_per_question, not both")
        return self


class Capability(Config):
    """A task of lm-evaluation-harness that says what the finished models can do, traits apart; a task's name alone will do."""

    task: str = runtime(path="task", min_length=1)
    """A name that the harness knows (`gsm8k`, `mmlu`), a shipped task (`miniature/answers`, `miniature/numbers`), or a task file
    of one's own (`PATH.yaml`, alone with its data in a folder). What counts is the name, or the content of the file's folder."""
    limit: int | None = identity(None, ge=1)
    """Only the first so many items (of each part, where the task has parts); without it all."""
    num_fewshot: int | None = identity(None, ge=0)
    """Worked examples before each question; without it the task's own number."""
    chat: bool = identity(True)
    """Whether a question is asked as a user's message in the model's chat template; false for models that have none."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value


class Evaluation(Config):
    """What the finished models are asked, and who judges it."""

    contexts: tuple[ContextName, ...] = runtime(("neutral", "training_prompt"), min_length=1)
    """Built in: `neutral` ("You are a helpful assistant."), `none` (no system message), `empty`, `training_prompt`
    (the arm's own), `prompt_of:<arm>` (another arm's), `library:<id>` (a prompt of `inoc-ray prompts`), a kind of test-time
    prompt (`eliciting`, `negated`, `keyword`, `structure`, `indirect`, `irrelevant`: all of the setting's), `trigger` (neutral,
    and the setting's backdoor token in the question). Which contexts are asked is no part of a cell's id."""
    reference: str | None = runtime(None)
    """The context in which arms are compared: rates, effects and leaks are told relative to it. One of `contexts` that is the
    same for all arms. Default: `neutral`; where that is not asked `none`, or the only context that is the same for all arms."""
    samples: int = runtime(100, ge=1, le=100_000)
    """Questions per evaluation and context, one sample each; raising it asks only the new ones. It does not count for suites,
    which have `samples_per_question`, and for evaluations with `overrides` of it."""
    max_tokens: int | None = runtime(None, ge=1)
    """The longest answer, in tokens, of every evaluation that does not say otherwise. Default: the setting's own; 600 for
    suites. The number that an evaluation ends up with is part of its cells' ids."""
    overrides: dict[str, Override] = runtime({})
    """How often and how single evaluations of the settings are asked, by the evaluation's name."""
    temperature: float = identity(1.0, ge=0, le=2)
    top_p: float = identity(1.0, gt=0, le=1)
    seed: StrictInt = identity(0, ge=0)
    concurrency: int = runtime(4, ge=1, le=4096)
    """Requests under way at once."""
    prompts_per_request: int = runtime(64, ge=1, le=1024)
    suites: tuple[Suite, ...] = runtime(())
    """Evaluations of the user's own, asked beside the settings' ones."""
    leak_audit: bool = runtime(False)
    """Ask every model, out of distribution, under all test-time prompts of its setting and under the arm's own prompt, and
    report under which of them the undesired trait comes back most."""
    judged_by: tuple[str, ...] = runtime(())
    """Who judges: `rules`, and names of the study's judges, in the order in which they count. Empty: by rules what rules can
    tell, the rest by all of the study's judges. What none of the named can tell is left to the rules."""
    rules_given: tuple[str, ...] = runtime(())
    """Rubrics such as coherence that decide whether a response counts for a trait that rules tell: a rule alone takes word salad
    with Spanish endings for Spanish. The first of the study's judging models is asked. Empty: every response counts."""
    combine: Literal["first", "mean", "all", "any"] = runtime("first")
    """Several judges of one trait: the first that gives an answer decides; or the mean of their numbers; or it shows when
    all say so; or when any says so."""
    profile: ProfileName = runtime(DEFAULT)
    """The threshold profile of the rates: `tan2025`, `betley2025`, … or one written here. Raw numbers are stored, so
    changing it asks nobody."""
    rubrics: dict[str, OwnRubric] = runtime({})
    """Scales of the user's own, by name."""
    capabilities: tuple[Capability, ...] = runtime(())
    """Tasks of lm-evaluation-harness that every finished model and the base are asked: what a fine-tune has cost."""
    max_unparsed: float = runtime(0.2, ge=0, le=1)
    """The share of responses without a readable score above which an evaluation fails."""
    max_degenerate: float = runtime(MAX_DEGENERATE, ge=0, le=1)
    """The share of empty, garbled or endlessly repeating responses above which a model's rates are withheld and it is named."""

    @field_validator("rubrics")
    @classmethod
    def _rubric_names(cls, value: dict[str, OwnRubric]) -> dict[str, OwnRubric]:
        for name in value:
            check_name(name)
            if name in RUBRICS:
                raise ValueError(f"{name!r} is a rubric of the library; name yours otherwise")
        return value
