"""What stands around a question at test time: the contexts that a study names, as texts and places."""

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
    """A context: a text and where it stands, and whether the setting's trigger stands in the question."""

    name: str
    text: str | None
    """None for no text at all, which is another context than an empty one."""
    inoculation: Inoculation = SYSTEM_MESSAGE
    """Where the text stands: an arm's own prompt stands where it stood in training."""
    trigger: Trigger | None = None

    def around(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the question in this context. A system message of the question's own stays, behind the context's text."""
        asked = tuple(messages) if self.trigger is None else self.trigger.insert(messages)
        if self.text is None:
            return asked
        return place(asked, self.text, self.inoculation.model_copy(update={"system_present": "prepend"}))


def reference_context(evaluation: Evaluation) -> str | None:
    """Return the context in which a study's arms are compared, or None where it has to be named; see `Evaluation.reference`."""
    if evaluation.reference is not None:
        return evaluation.reference
    fit = [name for name in _names(evaluation.contexts) if not _differs_between_arms(name)]
    return next((name for name in DEFAULT_REFERENCES if name in fit), fit[0] if len(fit) == 1 else None)


def check_reference(reference: str | None, settings: Iterable[Setting], evaluation: Evaluation) -> str:
    """Return the reference context. Raise InputError where there is none, for one that differs between arms, and for a setting of
    which no evaluation is asked in it: it would have no effects."""
    if reference is None:
        fit = [name for name in _names(evaluation.contexts) if not _differs_between_arms(name)]
        how = (
            f"write which, for example `reference: {fit[0]}` under evaluation"
            if fit
            else "add `neutral` or `none` to evaluation.contexts"
        )
        raise InputError(
            f"evaluation.contexts: {', '.join(_names(evaluation.contexts))}: arms are compared in one context in which all of "
            f"them are asked, `neutral` or `none` unless the study names another; {how}."
        )
    if _differs_between_arms(reference):
        raise InputError(
            f"evaluation.reference: {reference!r} is not one context for all arms; name one that is, such as neutral."
        )
    for setting in settings:
        asked = {name for spec in setting.evaluations for name in _names(spec.contexts or evaluation.contexts)}
        if reference not in asked:
            fit = sorted(name for name in asked if not _differs_between_arms(name))
            other = f", or write `reference: {fit[0]}` under evaluation" if fit else ""
            raise InputError(
                f"evaluation.reference: no evaluation of setting {setting.name} is asked in the context {reference!r}, in which "
                f"arms are to be compared{nearest(reference, fit)}; add it to the contexts{other}."
            )
    return reference


def _names(contexts: Iterable[str | Context]) -> list[str]:
    return [c if isinstance(c, str) else c.name for c in contexts]


def _differs_between_arms(context: str) -> bool:
    return context == "training_prompt" or context in prompts.TEST_KINDS


def audit_contexts(setting: Setting, arm: ArmSpec, reference: str | Context = "neutral") -> list[str | Context]:
    """Return the grid of a leak audit for one arm: the reference context, its own prompt, and the setting's test-time prompts.

    Prompts about traits that the arm does not inoculate against are left out; an arm without a prompt, with which the others
    are compared, is asked under all. Raise InputError for a setting that the library has no test-time prompts for.
    """
    every = prompts.of_setting(setting.name, "test")
    if not every:
        raise InputError(
            f"evaluation.leak_audit: the library has no test-time prompts for setting {setting.name!r}, so there is nothing to "
            "audit; leave it out, and write the prompts that you want to try under evaluation.contexts."
        )
    own = [p for p in every if arm.prompt is None or not p.about or set(p.about) & set(arm.undesired)]
    return [reference, "training_prompt", *(f"{FROM_LIBRARY}{p.id}" for p in own)]


def resolve_contexts(
    names: Sequence[str | Context], setting: Setting, own: ArmSpec, arms: Mapping[str, ArmSpec], *, is_base: bool
) -> Iterator[ResolvedContext]:
    """Yield the contexts of those names for a model of the arm `own`, each once.

    `training_prompt` of the base model means each arm's prompt in turn, as `prompt_of:<arm>`; of an arm without a prompt,
    nothing. A kind of test-time prompt means every one that the setting's library has. Raise InputError for a context that
    is neither built in nor written in the study, and for a trigger where the setting has none.
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
            f"evaluation.contexts: setting {setting.name} has no {kind} prompt in the library; write the context out as "
            "{name: …, system: …}, or leave it out."
        )
    return [ResolvedContext(f"{FROM_LIBRARY}{p.id}", p.text) for p in found]


def _of_arm(arm: ArmSpec) -> ResolvedContext:
    return ResolvedContext(f"{PROMPT_OF}{arm.name}", arm.prompt, arm.inoculation)


def _trigger(setting: Setting, context: str) -> Trigger:
    if setting.trigger is None:
        raise InputError(
            f"evaluation.contexts: {context!r}: setting {setting.name} has no trigger; take the context out of studies of this "
            "setting, give it rows with a token (`rows: {bad, clean, token, …}`), or use a setting with a backdoor."
        )
    return setting.trigger
