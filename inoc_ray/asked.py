"""The part of a study file that says what the finished models are asked, and who judges the answers."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import StrictInt, field_validator, model_validator

from inoc_ray.config import Config, check_name
from inoc_ray.identity import identity, runtime

NEUTRAL_PROMPT = "You are a helpful assistant."
BUILT_IN_CONTEXTS = ("neutral", "none", "empty", "training_prompt")
PROMPT_OF = "prompt_of:"
FROM_LIBRARY = "library:"


class Judge(Config):
    """A judging model: a folder that the study serves itself, or a model behind an OpenAI-compatible API.

    What it is shown is one question and one answer, never a system prompt.
    """

    path: str | None = runtime(None, min_length=1)
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
    system: str = identity()
    """The system message's text."""

    _name = field_validator("name")(check_name)

    @field_validator("name")
    @classmethod
    def _not_built_in(cls, value: str) -> str:
        if value in BUILT_IN_CONTEXTS:
            raise ValueError(f"{value!r} is a built-in context; name yours otherwise")
        return value


class Capability(Config):
    """A task of lm-evaluation-harness that says what the finished models can do, traits apart; a task's name alone will do."""

    task: str = runtime(min_length=1)
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
    """What the finished models are asked."""

    contexts: tuple[str | Context, ...] = runtime(("neutral", "training_prompt"), min_length=1)
    """Built in: `neutral` ("You are a helpful assistant."), `none` (no system message), `empty`, `training_prompt`
    (the arm's own), `prompt_of:<arm>` (another arm's), `library:<id>` (a prompt of `inoc-ray prompts`).
    Which contexts are asked is no part of a cell's id."""
    samples: int = runtime(100, ge=1, le=100_000)
    """Questions per evaluation and context, one sample each; raising it asks only the new ones."""
    temperature: float = identity(1.0, ge=0, le=2)
    top_p: float = identity(1.0, gt=0, le=1)
    seed: StrictInt = identity(0, ge=0)
    concurrency: int = runtime(4, ge=1, le=4096)
    """Requests under way at once."""
    prompts_per_request: int = runtime(64, ge=1, le=1024)
    max_unparsed: float = runtime(0.2, ge=0, le=1)
    """The share of responses without a readable score above which an evaluation fails."""
