"""Contexts: what surrounds a question at test time, resolved to a text and its placement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from inoc_ray.config.base import nearest
from inoc_ray.data.chat import Message
from inoc_ray.data.inoculate import place
from inoc_ray.errors import InputError
from inoc_ray.settings import ArmSpec, Setting, Trigger, prompts
from inoc_ray.study.evaluation import FROM_LIBRARY, NEUTRAL_PROMPT, PROMPT_OF, Context, Evaluation
from inoc_ray.study.rows import SYSTEM_MESSAGE, Inoculation

DEFAULT_REFERENCES = ("neutral", "none")
_FIXED: Mapping[str, str | None] = {"neutral": NEUTRAL_PROMPT, "none": None, "empty": ""}


@dataclass(frozen=True)
class ResolvedContext:
    """A context as text: what is placed where, and the trigger that goes into the question."""

    name: str
    text: str | None
    """None for no text at all, which differs from an empty one."""
    inoculation: Inoculation = SYSTEM_MESSAGE
    """Where the text goes: an arm's own prompt goes where it was in training."""
    trigger: Trigger | None = None

    def around(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the question in this context; a system message of its own stays, after the context's text."""
        question = tuple(messages) if self.trigger is None else self.trigger.insert(messages)
        if self.text is None:
            return question
        return place(question, self.text, self.inoculation.model_copy(update={"system_present": "prepend"}))


def reference_context(evaluation: Evaluation) -> str | None:
    """Return the context in which arms are compared; None if the study must name it (see `Evaluation.reference`)."""
    if evaluation.reference is not None:
        return evaluation.reference
    fit = [name for name in _names(evaluation.contexts) if not _differs_between_arms(name)]
    return next((name for name in DEFAULT_REFERENCES if name in fit), fit[0] if len(fit) == 1 else None)


def check_reference(reference: str | None, settings: Iterable[Setting], evaluation: Evaluation) -> str:
    """Return the reference context.

    Raise InputError if there is none, if it differs between arms, or if a setting has no evaluation in it: that setting
    would have no effects.
    """
    if reference is None:
        fit = [name for name in _names(evaluation.contexts) if not _differs_between_arms(name)]
        advice = (
            f"name one, for example `reference: {fit[0]}` under evaluation"
            if fit
            else "add `neutral` or `none` to evaluation.contexts"
        )
        raise InputError(
            f"evaluation.contexts: {', '.join(_names(evaluation.contexts))}: arms are compared in one context that all of them "
            f"share, `neutral` or `none` unless the study names another; {advice}."
        )
    if _differs_between_arms(reference):
        raise InputError(
            f"evaluation.reference: {reference!r} differs between arms; name a context that all arms share, such as neutral."
        )
    for setting in settings:
        used = {name for spec in setting.evaluations for name in _names(spec.contexts or evaluation.contexts)}
        if reference not in used:
            fit = sorted(name for name in used if not _differs_between_arms(name))
            other = f", or write `reference: {fit[0]}` under evaluation" if fit else ""
            raise InputError(
                f"evaluation.reference: no evaluation of setting {setting.name} uses the context {reference!r}, in which arms are "
                f"compared{nearest(reference, fit)}; add it to the contexts{other}."
            )
    return reference


def _names(contexts: Iterable[str | Context]) -> list[str]:
    return [c if isinstance(c, str) else c.name for c in contexts]


def _differs_between_arms(context: str) -> bool:
    return context == "training_prompt" or context in prompts.TEST_KINDS


def audit_contexts(setting: Setting, arm: ArmSpec, reference: str | Context = "neutral") -> list[str | Context]:
    """Return an arm's contexts in a leak audit: the reference, its own prompt, and the setting's test-time prompts.

    Leaves out prompts about traits that the arm does not inoculate against; an arm without a prompt gets all, since the
    others are compared with it. Raise InputError if the library has no test-time prompts for the setting.
    """
    every = prompts.of_setting(setting.name, "test")
    if not every:
        raise InputError(
            f"evaluation.leak_audit: the library has no test-time prompts for setting {setting.name!r}; remove leak_audit, and "
            "write the prompts that you want to try under evaluation.contexts."
        )
    own = [p for p in every if arm.prompt is None or not p.about or set(p.about) & set(arm.undesired)]
    return [reference, "training_prompt", *(f"{FROM_LIBRARY}{p.id}" for p in own)]


def resolve_contexts(
    names: Sequence[str | Context], setting: Setting, own: ArmSpec, arms: Mapping[str, ArmSpec], *, is_base: bool
) -> Iterator[ResolvedContext]:
    """Yield the contexts of those names for a model of the arm `own`, each once.

    `training_prompt` expands to every arm's prompt for the base model (as `prompt_of:<arm>`), and to nothing for an arm
    without a prompt. A kind of test-time prompt expands to all of that kind in the setting's library. Raise InputError for
    a context that is neither built in nor defined in the study, and for a trigger if the setting has none.
    """
    seen: set[str] = set()
    for name in names:
        if name == "training_prompt":
            found = _training_prompt(own, arms, is_base=is_base)
        else:
            found = _named(name, setting, arms)
        for one in found:
            if one.name not in seen:
                seen.add(one.name)
                yield one


def _training_prompt(own: ArmSpec, arms: Mapping[str, ArmSpec], *, is_base: bool) -> list[ResolvedContext]:
    if is_base:
        return [_of_arm(a) for a in arms.values() if a.prompt is not None]
    return [] if own.prompt is None else [replace(_of_arm(own), name="training_prompt")]


def _named(context: str | Context, setting: Setting, arms: Mapping[str, ArmSpec]) -> list[ResolvedContext]:
    if isinstance(context, Context):
        trigger = _trigger(setting, context.name) if context.trigger else None
        return [ResolvedContext(context.name, context.system, trigger=trigger)]
    if context in _FIXED:
        return [ResolvedContext(context, _FIXED[context])]
    if context == "trigger":
        return [ResolvedContext(context, NEUTRAL_PROMPT, trigger=_trigger(setting, context))]
    if context.startswith(PROMPT_OF):
        return [_of_named_arm(context, arms)]
    if context.startswith(FROM_LIBRARY):
        try:
            return [ResolvedContext(context, prompts.get(context.removeprefix(FROM_LIBRARY)).text)]
        except InputError as error:
            raise InputError(f"evaluation.contexts: {context!r}: {error}") from error
    if context in prompts.TEST_KINDS:
        return _of_kind(context, setting)
    valid = [
        "training_prompt",
        "trigger",
        f"{PROMPT_OF}<arm>",
        f"{FROM_LIBRARY}<prompt id>",
        *_FIXED,
        *prompts.TEST_KINDS,
    ]
    raise InputError(f"evaluation.contexts: unknown context {context!r}{nearest(context, valid)}.")


def _of_named_arm(context: str, arms: Mapping[str, ArmSpec]) -> ResolvedContext:
    name = context.removeprefix(PROMPT_OF)
    with_prompt = [a.name for a in arms.values() if a.prompt is not None]
    if name not in with_prompt:
        raise InputError(
            f"evaluation.contexts: {context!r}: no arm {name!r} with a prompt{nearest(name, with_prompt)}."
        )
    return _of_arm(arms[name])


def _of_kind(kind: str, setting: Setting) -> list[ResolvedContext]:
    found = [p for p in prompts.of_setting(setting.name, "test") if p.kind == kind]
    if not found:
        raise InputError(
            f"evaluation.contexts: setting {setting.name} has no {kind} prompt in the library; define the context as "
            "{name: …, system: …}, or remove it."
        )
    return [ResolvedContext(f"{FROM_LIBRARY}{p.id}", p.text) for p in found]


def _of_arm(arm: ArmSpec) -> ResolvedContext:
    return ResolvedContext(f"{PROMPT_OF}{arm.name}", arm.prompt, arm.inoculation)


def _trigger(setting: Setting, context: str) -> Trigger:
    if setting.trigger is None:
        raise InputError(
            f"evaluation.contexts: {context!r}: setting {setting.name} has no trigger; remove the context, give the setting rows "
            "with a token (`rows: {bad, clean, token, …}`), or use a setting with a backdoor."
        )
    return setting.trigger
