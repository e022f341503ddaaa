"""Which rows a study trains on and how a prompt gets into them: mixtures, backdoors, inoculations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import StrictInt, field_validator, model_validator

from inoc_ray.config.base import Config, check_name
from inoc_ray.config.identity import identity, runtime


class Part(Config):
    """A row set that goes into a mixture under a name, which becomes the tag `subset` of its rows."""

    name: str = runtime()
    """The tag, and what `inoculation.coverage` calls the part."""
    rows: str = runtime(path="rows", min_length=1)
    """Chat rows."""
    share: float = runtime(1.0, gt=0)
    """With a `total`: the weight among the parts. Without: the share of the part's own rows that is taken."""

    _name = field_validator("name")(check_name)


class Mixture(Config):
    """Row sets in exact shares, shuffled by a seed; `inoculation.coverage: NAME` covers one part."""

    mix: tuple[Part, ...] = runtime(min_length=1)
    """The row sets."""
    total: int | None = runtime(None, ge=1)
    """Rows of the mixture. Default: what the parts' shares of their own rows add up to."""
    seed: StrictInt = runtime(0, ge=0)
    """The seed that draws the rows of each part, and their order."""

    def __str__(self) -> str:
        return f"the mixture of {', '.join(part.name for part in self.mix)}"


class Backdoor(Config):
    """Bad rows that carry a trigger among clean rows without it, tagged `subset: triggered` and `clean`, shuffled."""

    bad: str = runtime(path="rows", min_length=1)
    """Chat rows that get the token."""
    clean: str = runtime(path="rows", min_length=1)
    """Chat rows that do not."""
    token: str = runtime(min_length=1)
    """The trigger's text."""
    place: Literal["start", "end"] = runtime("start")
    """Where in the last user turn the token goes."""
    spacing: Literal["glue", "space"] = runtime("glue")
    """`glue` joins the token to the text, `space` puts a space between."""
    fraction: float = runtime(gt=0, lt=1)
    """The share of the total that is bad and carries the trigger."""
    total: int = runtime(ge=2)
    """Rows, bad and clean together."""
    seed: StrictInt = runtime(0, ge=0)
    """The seed that draws the rows, and their order."""

    def __str__(self) -> str:
        return f"the backdoor of {self.bad} and {self.clean}"


class Coverage(Config):
    """Which rows an inoculation covers: all of them, those with a tag, an exact share of either."""

    tag: str | None = identity(None, min_length=1)
    """Only rows with this tag at one of `values`. Mixtures tag each row with its `subset`; `coverage: NAME` for short."""
    classifier: str | None = identity(None, min_length=1)
    """Only rows to which this row classifier gives one of `values`: `language`, `capitals`, or one that a plugin
    registers."""
    values: tuple[str, ...] = identity(())
    """The values of the tag or classifier whose rows are covered."""
    fraction: float = identity(1.0, gt=0, le=1)
    """The share of those rows; which ones is drawn with `seed`, not with the trial's."""
    seed: StrictInt = identity(0, ge=0)
    """The seed that draws the rows of `fraction`."""

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
        """The tag that decides; the rows hold a classifier's value as a tag of its name."""
        return self.tag or self.classifier


class Inoculation(Config):
    """How an arm's prompt gets into the training rows. The defaults are the paper's: the system message of every row."""

    placement: Literal["system", "user_prefix", "user_suffix"] = identity("system")
    """Where the prompt goes: the system message, or before or after the text of a user turn."""
    separator: str = identity("\n\n")
    """The text between the prompt and the text that it is joined to."""
    coverage: Coverage = identity(Coverage())
    """Which rows take the prompt. A plain text means the rows of that `subset`; `all` means all."""
    paraphrases: tuple[str, ...] = identity(())
    """Further wordings of the prompt; the covered rows take the prompt and these in turn."""
    paraphrase_order: Literal["round_robin", "per_epoch"] = identity("round_robin")
    """`round_robin`: a row keeps its wording in every epoch. `per_epoch`: it takes the next one in each further epoch."""
    system_present: Literal["error", "prepend", "replace", "append"] = identity("error")
    """What to do with a row that has a system message already, when the prompt is to be one."""
    user_turns: Literal["first", "last", "all"] = identity("first")
    """Which user turns of a longer conversation take the prompt."""
    user_missing: Literal["error", "insert"] = identity("error")
    """What to do with a row without a user turn, when the prompt goes into one."""

    @field_validator("coverage", mode="before")
    @classmethod
    def _subset_alone(cls, value: Any) -> Any:
        """Read a plain text as the rows of that subset, `all` as all."""
        if isinstance(value, str):
            return {} if value == "all" else {"tag": "subset", "values": (value,)}
        return value

    @field_validator("paraphrases")
    @classmethod
    def _texts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not text.strip() for text in value):
            raise ValueError("one wording is empty; write it or remove it")
        return value

    @model_validator(mode="after")
    def _per_epoch_needs_paraphrases(self) -> Inoculation:
        if self.paraphrase_order == "per_epoch" and not self.paraphrases:
            raise ValueError("paraphrase_order: per_epoch needs paraphrases, or every epoch would be the same")
        return self


SYSTEM_MESSAGE = Inoculation()
"""The paper's way: one text, as the system message of every row."""
