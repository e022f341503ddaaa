"""The part of a study file on evaluation: what the finished models are asked, and who judges the responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, StrictInt, Tag, field_validator, model_validator

from inoc_ray.config.base import Config, check_name, check_variable
from inoc_ray.config.identity import identity, runtime
from inoc_ray.errors import shown
from inoc_ray.scoring.degenerate import MAX_DEGENERATE
from inoc_ray.scoring.profiles import DEFAULT, parse_bound
from inoc_ray.scoring.rubrics import RUBRICS

NEUTRAL_PROMPT = "You are a helpful assistant."
BUILT_IN_CONTEXTS = ("neutral", "none", "empty", "training_prompt", "trigger")
PROMPT_OF = "prompt_of:"
FROM_LIBRARY = "library:"


Method = Literal["logprob", "candidates", "digit", "sample", "json"]
"""The ways of reading a number from a judging model: see `Judge.method`."""


class Judge(Config):
    """A judging model: a folder that the study serves itself, or a model behind an OpenAI-compatible API.

    Give `path`, or `endpoint` and `served_model`.
    """

    path: str | None = runtime(None, path="model", min_length=1)
    """A model folder, a model of the hub, or the name of a registered judge (`miniature`, a small one, ships). The id depends
    on the files."""
    endpoint: str | None = runtime(None, min_length=1)
    """The address of the API, as https://HOST/v1."""
    served_model: str | None = identity(None, min_length=1)
    """The model's name at the API."""
    api_key_env: str | None = runtime(None, min_length=1)
    """The environment variable that holds the API's key. The key itself is never in a study."""
    method: Literal["auto", Method] = identity("auto")
    """How the number is read. `logprob`: the expectation over the numbers of the scale, each one token of the judge's.
    `candidates`: the same over numbers of several tokens; needs a model that the study serves. `digit`: the expectation
    over 0 to 9. `sample`: the mean of `samples` drawn answers. `json`: one call for all rubrics of a response. `auto`:
    `logprob`; where the judge's tokenizer splits numbers, `candidates` (own) or `digit` (API)."""
    samples: int = identity(1, ge=1, le=1000)
    """With `method: sample`, answers drawn for each response, at temperature 1."""
    min_mass: float = identity(0.25, ge=0, le=1)
    """The probability that must lie on readable numbers, 0 to 1; with less the answer is unparsed (Betley et al. 2025)."""
    concurrency: int = runtime(64, ge=1, le=4096)
    """Requests under way at once, at most. Fewer while the API limits the rate."""

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        return None if value is None else check_variable(value)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.endpoint is None):
            raise ValueError("give exactly one of path and endpoint: where the judging model is")
        if (self.endpoint is None) != (self.served_model is None):
            raise ValueError("served_model is the model's name at an endpoint; give both or neither")
        if self.api_key_env is not None and self.endpoint is None:
            raise ValueError("api_key_env belongs to an endpoint; remove it")
        if self.method == "candidates" and self.endpoint is not None:
            raise ValueError("method candidates needs a model that the study serves (path); an API does not support it")
        if self.samples != 1 and self.method != "sample":
            raise ValueError("samples belongs to method: sample; remove it")
        return self


class Context(Config):
    """A context of a question at test time, written out. Give a system message, the trigger, or both."""

    name: str = runtime()
    """The name under which tables show the context."""
    system: str | None = identity(None)
    """The text of the system message. Default: no system message."""
    trigger: bool = identity(False)
    """Whether the question holds the setting's backdoor token, in the place where it is trained."""

    _name = field_validator("name")(check_name)

    @field_validator("name")
    @classmethod
    def _not_built_in(cls, value: str) -> str:
        if value in BUILT_IN_CONTEXTS:
            raise ValueError(f"{value!r} is a built-in context; give yours another name")
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.system is None and not self.trigger:
            raise ValueError(f"context {self.name!r}: give a system text, trigger: true, or both")
        return self


def _named_or_written(value: Any) -> str:
    """Return the tag of the form, so that a mistake in one form is not reported as one in the other."""
    return "(name)" if isinstance(value, str) else "(inline)"


ContextName = Annotated[
    Annotated[str, Tag("(name)")] | Annotated[Context, Tag("(inline)")], Discriminator(_named_or_written)
]
"""A context by name, or written out."""


class Thresholds(Config):
    """A threshold profile, written out. A rubric that it does not name is cut in the middle of its scale."""

    name: str = runtime()
    """The name under which tables show the profile."""
    shown: dict[str, str] = runtime({})
    """For a rubric, from which number on a response shows the trait, as `"< 40"`. Numbers are 0 to 100."""
    counts: dict[str, str] = runtime({})
    """For a rubric such as `coherence`, which responses count at all, as `"> 60"`."""

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
    """A scale for judging models."""

    question: str = identity(min_length=1)
    """What to decide, as one or two sentences to the judge."""
    low: str = identity(min_length=1)
    """What the lowest number means."""
    high: str = identity(min_length=1)
    """What the highest number means."""
    shows: Literal["high", "low"] = identity("high")
    """The end of the scale at which the trait shows."""
    sees_question: bool = identity(True)
    """Whether the judge sees the question beside the response."""


class MeasureOf(Config):
    """A trait that a judging model scores on a rubric."""

    rubric: str = identity(min_length=1)
    """The rubric that the judge is asked: one of the library or of `evaluation.rubrics`."""
    given: tuple[str, ...] = identity(())
    """Rubrics such as `coherence` that decide whether a response counts at all."""


def _measure_or_rule(value: Any) -> Any:
    """Choose the form by its keys, so that a mistake in one form is not reported as one in the other."""
    if isinstance(value, MeasureOf):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a rule or a rubric, as {{rule: capitals}} or {{rubric: NAME}}, found {shown(value)}")
    return MeasureOf.model_validate(value) if "rubric" in value else dict(value)


TraitSource = Annotated[MeasureOf | dict[str, Any], BeforeValidator(_measure_or_rule)]
"""What scores a trait: a rubric, or a rule, which is read with the rules that the study's plugins register."""


class Suite(Config):
    """An evaluation of your own: questions, how each is asked, and what scores its traits."""

    name: str = runtime()
    """The name under which tables show the evaluation."""
    questions: str = runtime(path="questions", min_length=1)
    """The questions: JSONL with `prompt`, `question` or `messages` per line, or YAML with a list of entries with `id` and
    `paraphrases`. The id depends on the questions' text."""
    templates: tuple[str, ...] = runtime(())
    """For entries that are no questions yet: texts with fields of an entry in braces, as `"Do you prefer {choice_a} or
    {choice_b}?"`. Each entry becomes a question for each of them. Default: for entries with `task` and `code_template`, and with
    `choice_a` and `choice_b`, texts of ours. The id depends on the questions that come out."""
    split: Literal["id", "ood"] = runtime("ood")
    """Whether the questions are in distribution (`id`: on what the rows are about) or out of it (`ood`). Suppression is
    measured on `ood`."""
    settings: tuple[str, ...] = runtime(())
    """The settings whose models are asked. Empty: all."""
    samples_per_question: int = runtime(1, ge=1, le=10_000)
    """Responses to each question. Raising it asks only for the new ones."""
    choices: tuple[str, ...] = identity(())
    """Makes the suite multiple choice: the response is the one of these texts that the model finds likeliest. Nothing is
    sampled."""
    max_tokens: int | None = identity(None, ge=1)
    """The longest answer, in tokens. Default: `evaluation.max_tokens`, else 600."""
    temperature: float | None = identity(None, ge=0, le=2)
    """The sampling temperature; 0 takes the likeliest token. Default: the study's."""
    top_p: float | None = identity(None, gt=0, le=1)
    """The probability mass that responses are drawn from (nucleus sampling). Default: the study's."""
    contexts: tuple[ContextName, ...] = runtime(())
    """The contexts of this suite. Default: the study's."""
    traits: dict[str, TraitSource] = runtime(min_length=1)
    """For each trait what scores it: `{rubric: alignment, given: [coherence]}` for a judging model, or a rule such as
    `{rule: language, language: spanish}`."""

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
                f"suite {self.name!r}: a choice by log-prob is the same every time; remove samples_per_question"
            )
        return self

    @field_validator("traits")
    @classmethod
    def _trait_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            check_name(name)
        return value


class Override(Config):
    """How an evaluation of a setting is asked in this study, where it differs from the setting and the study.

    The id depends on the numbers that the evaluation ends up with, so writing a default out changes no id.
    """

    samples: int | None = runtime(None, ge=1, le=1_000_000)
    """Responses per context; the questions are asked in turn."""
    samples_per_question: int | None = runtime(None, ge=1, le=10_000)
    """Responses to each question, in place of `samples`."""
    max_tokens: int | None = runtime(None, ge=1)
    """The longest answer, in tokens. Default: `evaluation.max_tokens`, else the evaluation's own."""
    temperature: float | None = runtime(None, ge=0, le=2)
    """The sampling temperature; 0 takes the likeliest token. Default: the evaluation's own."""
    top_p: float | None = runtime(None, gt=0, le=1)
    """The probability mass that responses are drawn from (nucleus sampling). Default: the evaluation's own."""

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.samples is not None and self.samples_per_question is not None:
            raise ValueError("give samples or samples_per_question, not both")
        return self


class Capability(Config):
    """A task of lm-evaluation-harness that measures what the finished models can do.

    A plain text is short for `{task: TEXT}`.
    """

    task: str = runtime(path="task", min_length=1)
    """A task that the harness knows (`gsm8k`, `mmlu`), a registered one (`miniature/answers` and `miniature/numbers` ship), or
    a task file of your own, alone with its data in a folder. The id depends on the name, or on the files in the folder."""
    limit: int | None = identity(None, ge=1)
    """Only the first so many items of each part of the task. Default: all."""
    num_fewshot: int | None = identity(None, ge=0)
    """Worked examples before each question. Default: the task's own number."""
    chat: bool = identity(True)
    """Whether a question is asked as a user's message in the model's chat template. `false` is for models without a
    template."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value


Outcome = Literal["shown", "score"]
"""What a rate is of: the share of responses that show a trait, or the mean of their scores."""


class Evaluation(Config):
    """What the finished models are asked, and who judges the answers."""

    contexts: tuple[ContextName, ...] = runtime(("neutral", "training_prompt"), min_length=1)
    """The contexts of the questions: `neutral` ("You are a helpful assistant."), `none` (no system message), `empty`,
    `training_prompt` (the arm's own), `prompt_of:ARM`, `library:ID` (a prompt of `inoc-ray prompts`), a kind of test-time
    prompt (`eliciting`, `negated`, `keyword`, `structure`, `indirect`, `irrelevant`: all of the setting's), `trigger`
    (neutral, with the backdoor's token in the question), or one written out. Another context samples only its own responses."""
    reference: str | None = runtime(None)
    """The context in which arms are compared. One of `contexts` that is the same for all arms. Default: `neutral`; if it is
    not among them `none`, or the only one that is the same for all arms."""
    samples: int = runtime(100, ge=1, le=100_000)
    """Responses per evaluation and context, one to each question. Raising it samples only the new ones. It does not count
    for suites (`samples_per_question`) and where `overrides` say otherwise."""
    max_tokens: int | None = runtime(None, ge=1)
    """The longest answer, in tokens, of every evaluation that does not say otherwise. Default: the setting's own; 600 for
    suites. The number that an evaluation ends up with is part of its id."""
    overrides: dict[str, Override] = runtime({})
    """Changes to single evaluations of the settings, by the evaluation's name."""
    temperature: float = identity(1.0, ge=0, le=2)
    """The sampling temperature; 0 takes the likeliest token."""
    top_p: float = identity(1.0, gt=0, le=1)
    """The probability mass that responses are drawn from (nucleus sampling)."""
    seed: StrictInt = identity(0, ge=0)
    """The seed of the sampling. Each response has its own, derived from this one, its model, context and question."""
    concurrency: int = runtime(4, ge=1, le=4096)
    """Requests under way at once, for each engine that answers."""
    prompts_per_request: int = runtime(64, ge=1, le=1024)
    """Prompts in one request."""
    suites: tuple[Suite, ...] = runtime(())
    """Evaluations of your own, beside those of the settings."""
    fold_duplicates: bool = runtime(False)
    """Whether a question that stands several times in a file is asked once. Default: as often as it stands there; it is one
    question in the intervals either way."""
    may_repeat_training: tuple[str, ...] = runtime(())
    """Evaluations that may ask prompts of the training rows, for replications of published ones that do. Their rates measure
    memory as well, and a note says how many prompts it are. Any other evaluation that does is refused."""
    leak_audit: bool = runtime(False)
    """Whether to sample every model, out of distribution, under all test-time prompts of its setting and under the arm's
    own, and to report which of them brings the undesired trait back most."""
    judged_by: tuple[str, ...] = runtime(())
    """Who judges: `rules` and names of `judges`, in the order in which they count. Empty: rules judge what they can, and
    all of the study's judges the rest. The rules judge what none of the named judges can."""
    rules_given: tuple[str, ...] = runtime(())
    """Rubrics such as `coherence` that decide whether a response counts for a trait that a rule judges. The first of the
    study's judges is asked. Empty: every response counts."""
    combine: Literal["first", "mean", "all", "any"] = runtime("first")
    """Which score counts when several judges score a trait. `first`: the first that gives an answer; `mean`: the mean of their
    numbers; `all`: the trait shows if every judge finds it; `any`: if one does."""
    profile: ProfileName = runtime(DEFAULT)
    """The threshold profile: `tan2025`, `betley2025`, `trait_inoculation`, `bct_sealing`, or one written out. Raw numbers
    are stored, so a change of the profile asks no judge."""
    outcome: Outcome = runtime("shown")
    """What is compared. `shown`: the share of responses that show a trait, by the thresholds of the profile. `score`: the mean of
    their scores from 0 to 1, which is the judge's number on its scale, 1 at the end where the trait shows; thresholds then decide
    only which responses count. Rates, effects, claims and figures follow, with the same intervals."""
    rubrics: dict[str, OwnRubric] = runtime({})
    """Scales of your own for judging models, by name."""
    capabilities: tuple[Capability, ...] = runtime(())
    """Tasks of lm-evaluation-harness for every finished model and the base."""
    max_unparsed: float = runtime(0.2, ge=0, le=1)
    """The share of responses without a readable score, 0 to 1, above which an evaluation fails."""
    max_degenerate: float = runtime(MAX_DEGENERATE, ge=0, le=1)
    """The share of empty, garbled or endlessly repeating responses, 0 to 1, above which a model's rates are withheld."""

    @field_validator("rubrics")
    @classmethod
    def _rubric_names(cls, value: dict[str, OwnRubric]) -> dict[str, OwnRubric]:
        for name in value:
            check_name(name)
            if name in RUBRICS:
                raise ValueError(f"{name!r} is a rubric of the library; give yours another name")
        return value
