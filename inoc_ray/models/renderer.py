"""Render conversations with a model's chat template, as `transformers` does, and keep the skeletons of its conversations."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from inoc_ray.errors import InputError
from inoc_ray.models.skeleton import Message, MessageKind, Skeleton, Slot, marked_turns, marker, read_skeleton
from inoc_ray.models.think import tags_in

TEMPLATE_DATE = "26 Jul 2024"
"""The date for templates that print one: Llama 3.1's own fallback. Today's date would make a trial depend on the day."""
_NOW = datetime.datetime(2024, 7, 26, 12)


class Renderer:
    """A chat template with the variables that it is rendered with."""

    def __init__(
        self,
        source: str,
        special: Mapping[str, str],
        *,
        tokens: Sequence[str] = (),
        name: str = "the model",
        enable_thinking: bool | None = None,
    ) -> None:
        """Compile the template. The arguments are those of `ChatTemplate`. Raises InputError when it cannot be read."""
        self._variables: dict[str, Any] = {
            **special,
            "tools": None,
            "documents": None,
            "date_string": TEMPLATE_DATE,
            "strftime_now": _NOW.strftime,
        }
        if enable_thinking is not None:
            self._variables["enable_thinking"] = enable_thinking
        self._compiled = _compile(source, name)
        longest_first = sorted(tokens, key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, longest_first))) if tokens else None
        self.think = tags_in(source)
        self._skeletons: dict[tuple[tuple[MessageKind, ...], bool], Skeleton | InputError] = {}

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Return the conversation as the model sees it, with special tokens as text.

        Raises InputError for whatever goes wrong inside the template; many refuse certain roles.
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        return self._render(turns, add_generation_prompt=add_generation_prompt)

    def skeleton(self, kinds: tuple[MessageKind, ...], *, add_generation_prompt: bool) -> Skeleton:
        """Return the skeleton of conversations of these kinds, made once. Raises InputError as `read_skeleton` does."""
        key = (kinds, add_generation_prompt)
        if key not in self._skeletons:
            turns = marked_turns(kinds, self.think)
            try:
                text = self._render(turns, add_generation_prompt=add_generation_prompt)
                self._skeletons[key] = read_skeleton(text, kinds, lambda: self._advice(turns))
            except InputError as error:
                self._skeletons[key] = error
        found = self._skeletons[key]
        if isinstance(found, InputError):
            raise InputError(str(found))
        return found

    def skeleton_or_none(self, kinds: tuple[MessageKind, ...], *, add_generation_prompt: bool) -> Skeleton | None:
        """Return the skeleton, or None where the template does not show such conversations as they are."""
        try:
            return self.skeleton(kinds, add_generation_prompt=add_generation_prompt)
        except InputError:
            return None

    def ignores_thinking(self) -> bool:
        """Return whether prompts and rows are the same with `enable_thinking` true and false."""
        kinds = (MessageKind("user", False), MessageKind("assistant", bool(self.think)))
        turns = marked_turns(kinds, self.think)

        def rendered(turns: list[dict[str, str]], prompt: bool, thinking: bool) -> str | None:
            variables = {**self._variables, "enable_thinking": thinking}
            try:
                return str(self._compiled.render(messages=turns, add_generation_prompt=prompt, **variables))
            except Exception:  # noqa: BLE001 - rendering the study's own rows reports what a template refuses.
                return None

        both = ((turns[:1], True), (turns, False))
        return all(rendered(*one, True) == rendered(*one, False) for one in both)

    # -- the end of a turn ----------------------------------------------------------------------------------------

    @functools.cached_property
    def end_of_turn(self) -> str:
        """Return what the template writes after an answer: one special token, or plain text; "" for nothing."""
        kinds = (MessageKind("user", False), MessageKind("assistant", False))
        found = self.skeleton_or_none(kinds, add_generation_prompt=False)
        if found is None:
            return ""
        end = found.pieces[-1]
        token = self._token_in(end)
        return end[: token.end()] if token else end.rstrip()

    def end_token(self) -> str | None:
        """Return the special token that ends a turn, or None where the template writes none."""
        token = self._token_in(self.end_of_turn)
        return token[0] if token else None

    def loss_length(self, end: str) -> int:
        """Return how many characters of the text after an answer carry loss.

        They reach through the first special token, or are all of the text where it has none. What templates put after that
        token (a line break) is never generated. 0 where nothing marks the end.
        """
        token = self._token_in(end)
        return token.end() if token else len(end) if end.strip() else 0

    def _token_in(self, text: str) -> re.Match[str] | None:
        return self._tokens.search(text) if self._tokens else None

    # -- what the template refuses --------------------------------------------------------------------------------

    def _render(self, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            return str(
                self._compiled.render(messages=turns, add_generation_prompt=add_generation_prompt, **self._variables)
            )
        except Exception as error:  # A template is a program: it raises what Python raises.
            roles = ", ".join(t["role"] for t in turns) or "none"
            raise InputError(
                f"the chat template refuses a conversation with the roles {roles}: {_reason(error)}{self._advice(turns)}"
            ) from error

    def _advice(self, turns: Sequence[Mapping[str, str]]) -> str:
        """Return what to do about a conversation that fails because the template takes no system message; else a full stop."""
        if not turns or turns[0]["role"] != "system" or not self._shows("user"):
            return "."
        # Some show it in a prompt and drop it in a row (Mistral 7B v0.3).
        if self._shows("system", "user") and self._shows("system", "user", "assistant"):
            return "."
        return (
            ". It has no place for a system message: put prompts into the user turn (inoculation.placement: user_prefix or "
            "user_suffix) and ask without a system message (evaluation.contexts: [none])."
        )

    def _shows(self, *roles: str) -> bool:
        """Return whether the template shows messages of these roles. Renders by itself, as `_render` asks for advice."""
        turns = [{"role": role, "content": marker(Slot(index, "c"))} for index, role in enumerate(roles)]
        prompt = roles[-1] != "assistant"
        try:
            text = str(self._compiled.render(messages=turns, add_generation_prompt=prompt, **self._variables))
        except Exception:  # noqa: BLE001 - whatever a template raises, it does not show them.
            return False
        return all(turn["content"] in text for turn in turns)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else f"{text[:197]}…").rstrip(".")


@functools.lru_cache(maxsize=32)
def _compile(source: str, name: str) -> Any:
    """Compile a template as transformers does (utils/chat_template_utils.py): sandboxed, with its filters and tags."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks the assistant's tokens for trainers; its content is rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source)
    except Exception as error:  # Also RecursionError and what its parser does not foresee.
        raise InputError(f"{name}: the chat template cannot be read ({_reason(error)}).") from error
