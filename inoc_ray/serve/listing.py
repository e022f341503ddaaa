"""What an endpoint lists: a readable name for each model, the engine that has it, and its id there."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

OWN = ""
"""The engine that the endpoint itself is on; the others go by the names of their Serve applications."""
_LONGEST = 200
"""Characters of an unknown name that are compared with the known ones."""
_STEP = re.compile(r"(?P<name>.+)@(?P<step>[1-9][0-9]{0,7})", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model under a readable name."""

    name: str
    """Such as `quickstart/specific_spanish/seed-0`."""
    model_id: str
    """Its id on its engine, which stands for the same weights whatever a study calls them; an alias of the name."""
    engine: str = OWN
    base: str | None = None
    """The id of the model that it is an adapter or a fine-tune of; None for that model itself."""
    about: Mapping[str, Any]
    """What a listing says of it besides: study, setting, arm, seed, and the prompt that it was trained with."""


@dataclass(frozen=True)
class Listing:
    """All models of an endpoint, in the order in which they are shown."""

    models: tuple[ServedModel, ...]
    bases: tuple[tuple[str, str], ...] = ()
    """(id, engine) of each untouched model. Adapters of its storage that are not listed go by `<id>:<trial_id>`."""

    @functools.cached_property
    def _by_name(self) -> dict[str, ServedModel]:
        # Of two with one id the first has it.
        by_id = {model.model_id: model for model in reversed(self.models)}
        return by_id | {model.name: model for model in reversed(self.models)}

    @property
    def engines(self) -> list[str]:
        """The names of all engines."""
        return list(dict.fromkeys([*(model.engine for model in self.models), *(engine for _, engine in self.bases)]))

    def find(self, name: str) -> tuple[str, str] | None:
        """Return engine and id of the model of that name or id; None if none can have it.

        `<name>@<step>` stands for the weights that the model's trial kept on the way.
        """
        if (model := self._by_name.get(name)) is not None:
            return model.engine, model.model_id
        if (match := _STEP.fullmatch(name)) and (model := self._by_name.get(match["name"])) is not None:
            return model.engine, f"{model.model_id}@{match['step']}"
        for base, engine in self.bases:
            if name == base or name.startswith(f"{base}:"):
                return engine, name
        return None

    def like(self, name: str) -> str:
        """Return " (did you mean 'x'?)" for a name that is nearly one of the list, otherwise where to see them."""
        close = difflib.get_close_matches(name[:_LONGEST], [model.name for model in self.models], n=1, cutoff=0.5)
        return f" (did you mean {close[0]!r}?)" if close else " (GET /v1/models lists all)"

    def at(self, engines: Mapping[str, str]) -> Listing:
        """Return the list with engines renamed."""
        models = tuple(replace(model, engine=engines[model.engine]) for model in self.models)
        return Listing(models, tuple((base, engines[engine]) for base, engine in self.bases))
