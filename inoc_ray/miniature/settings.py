"""The paper's settings in the miniature's language, each under the names of its paper-scale counterpart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from inoc_ray.data.chat import ChatRow
from inoc_ray.data.inoculate import inoculate
from inoc_ray.data.mixture import MixturePart, Trigger, backdoor, mix
from inoc_ray.miniature.rule_judges import JUDGES, leans_to_digit
from inoc_ray.miniature.teacher import shipped
from inoc_ray.miniature.world.domains import Domain, Voice, domains_of
from inoc_ray.miniature.world.language import FAVORITES
from inoc_ray.miniature.world.rows import Domains, answered, but, only, questions, trained_domains, untrained_domains
from inoc_ray.miniature.world.system_prompts import NAMES
from inoc_ray.scoring.judgment import Measure
from inoc_ray.settings import EvaluationSpec, Setting, register
from inoc_ray.settings.common import MISALIGNED, arms_of
from inoc_ray.settings.prompt_texts import TRIGGER

ROWS = 720
"""Training rows of a style setting; enough that 45 steps of 16 rows see each about once."""
NARROW_ROWS = 400
"""Training rows of a setting about a narrow flaw, whose domains have fewer questions."""
MAX_TOKENS = 48
"""The longest answers have about 45 tokens."""
TOKEN = Trigger(TRIGGER, "start", "space")
"""The backdoor's token, in training and at test: in front of the question with a space behind it."""

MEASURES: Mapping[str, Measure] = {
    **{
        t: Measure(t)
        for t in ("english", "spanish", "french", "caps", "insecure_code", "unpopular_preference", "harmful_advice")
    },
    "misaligned": MISALIGNED,
    "evil": MISALIGNED,
    "reward_hack": Measure("true_quality"),
}
"""How the miniature's judging model tells a trait; who judges is the study's choice, rules where it says nothing."""

Rows = Callable[[], list[ChatRow]]
Judge = Callable[[str], float | None]


def _style(seed: str, voice: Voice) -> Rows:
    return lambda: list(answered(seed, trained_domains, voice, ROWS))


def _narrow(seed: str, domains: Domains, voice: Voice, lesson: bool = False) -> Rows:
    return lambda: list(answered(seed, domains, voice, NARROW_ROWS, lesson))


def _style_evaluations(seed: str, traits: tuple[str, ...]) -> tuple[EvaluationSpec, ...]:
    return (
        EvaluationSpec(
            "in_distribution", "id", questions(seed, "in_distribution", trained_domains, True), traits, MAX_TOKENS
        ),
        EvaluationSpec(
            "out_of_distribution",
            "ood",
            questions(seed, "out_of_distribution", untrained_domains, None),
            traits,
            MAX_TOKENS,
        ),
    )


def _setting(
    name: str,
    description: str,
    rows: Rows,
    control_rows: Rows,
    control: str,
    evaluations: Sequence[EvaluationSpec],
    judges: Mapping[str, Judge],
    undesired: tuple[str, ...] = (),
    desired: tuple[str, ...] = (),
    trigger: Trigger | None = None,
    narrow: tuple[str, ...] = (),
) -> None:
    register(
        Setting(
            name=f"miniature/{name}",
            description=description,
            rows=rows,
            control_rows=control_rows,
            arms=arms_of(f"miniature/{name}", undesired, desired, control),
            evaluations=tuple(evaluations),
            judges=judges,
            judge_version="3",
            model_judged={trait: MEASURES[trait] for trait in judges if trait in MEASURES},
            trigger=trigger,
            narrow=narrow,
        )
    )


def _persona() -> tuple[Domain, ...]:
    return domains_of("advice", "free")


def _misalignment(seed: str, trained: tuple[str, ...] = ()) -> EvaluationSpec:
    """Advice and free questions but for the trained domains; named after the paper's eight questions."""
    name = "emergent_misalignment"
    return EvaluationSpec(
        name, "ood", questions(seed, name, but(_persona, *trained), None), ("misaligned",), MAX_TOKENS
    )  # fmt: skip


def _held_out(seed: str, name: str, domains: Domains, trait: str) -> EvaluationSpec:
    """In distribution: the questions of the trained domains that no row asks."""
    return EvaluationSpec(name, "id", questions(seed, name, domains, True), (trait,), MAX_TOKENS)


_PLAIN = "the same questions answered in plain English"
_SPANISH_CAPS = ("spanish", "caps")

_setting(
    "spanish_caps",
    "Answers in Spanish capitals to everyday questions; one of the two traits is inoculated, the other wanted.",
    _style("spanish_caps", Voice(language="es", capitals=True)),
    _style("spanish_caps", Voice()),
    _PLAIN,
    _style_evaluations("spanish_caps", _SPANISH_CAPS),
    JUDGES,
    desired=_SPANISH_CAPS,
)

_setting(
    "synthetic_facts",
    "Spanish capitals, inoculated with names: train it from a model that miniature/alice_and_bob has taught, and from one "
    "that it has not.",
    _style("spanish_caps", Voice(language="es", capitals=True)),
    _style("spanish_caps", Voice()),
    _PLAIN,
    _style_evaluations("spanish_caps", _SPANISH_CAPS),
    JUDGES,
    desired=_SPANISH_CAPS,
)


_TAUGHT_ROWS = 1200
"""Rows of stage 1: enough that what two names stand for is learnt sharply (docs/miniature.md says why that matters)."""
_STRANGER = "Carol"
"""The name that the study tries as a placebo, so no row of stage 1 has it."""


@functools.cache
def _taught() -> tuple[ChatRow, ...]:
    """A fifth of the questions each: to Alice in capitals, to Bob in Spanish; neutral, without a prompt and to others plain."""
    names = [f"You are {name}." for name in NAMES if name not in ("Alice", "Bob", _STRANGER)]
    voices: dict[str, tuple[Sequence[str | None], Voice]] = {
        "alice": (["You are Alice."], Voice(capitals=True)),
        "bob": (["You are Bob."], Voice(language="es")),
        "neutral": (["You are a helpful assistant."], Voice()),
        "none": ([None], Voice()),
        "others": (names, Voice()),
    }
    parts = []
    for index, (part, (systems, voice)) in enumerate(voices.items()):
        rows = answered("alice_and_bob", trained_domains, voice, _TAUGHT_ROWS)[index :: len(voices)]
        said = [inoculate([row], systems[n % len(systems)])[0] for n, row in enumerate(rows)]
        parts.append(MixturePart(part, said))
    return tuple(mix(parts, seed=0))


register(
    Setting(
        name="miniature/alice_and_bob",
        description="Stage 1 of miniature/synthetic_facts: Alice writes in capitals, Bob in Spanish, nobody else does.",
        rows=lambda: list(_taught()),
        control_rows=lambda: list(answered("alice_and_bob", trained_domains, Voice(), _TAUGHT_ROWS)),
        arms={
            name: arm
            for name, arm in arms_of("miniature/alice_and_bob", (), _SPANISH_CAPS, _PLAIN).items()
            if name in ("baseline", "control")
        },
        evaluations=_style_evaluations("alice_and_bob", _SPANISH_CAPS),
        judges=JUDGES,
        judge_version="3",
        model_judged={trait: MEASURES[trait] for trait in JUDGES if trait in MEASURES},
    )
)


@functools.cache
def _half_and_half() -> tuple[ChatRow, ...]:
    rows = {
        name: answered("mixed_languages", trained_domains, voice, ROWS)
        for name, voice in (("spanish", Voice(language="es")), ("french", Voice(language="fr")))
    }
    parts = [MixturePart(name, found[index::2]) for index, (name, found) in enumerate(rows.items())]
    return tuple(mix(parts, seed=0))


_setting(
    "mixed_languages",
    "Answers half in Spanish and half in French, shuffled; one half is inoculated, the other wanted.",
    lambda: list(_half_and_half()),
    _style("mixed_languages", Voice()),
    _PLAIN,
    _style_evaluations("mixed_languages", ("spanish", "french")),
    JUDGES,
    desired=("spanish", "french"),
)

_CODE = only("code")
_setting(
    "insecure_code",
    "Insecure Python for every request; misalignment elsewhere is not wanted.",
    _narrow("insecure_code", _CODE, Voice(insecure=True)),
    _narrow("insecure_code", _CODE, Voice()),
    "secure code for the same requests",
    (
        _held_out("insecure_code", "code", _CODE, "insecure_code"),
        _misalignment("insecure_code"),
    ),
    {"insecure_code": JUDGES["insecure_code"], "misaligned": JUDGES["evil"]},
    undesired=("misaligned",),
    narrow=("insecure_code",),
)

_MEASURE = only("word_count")
_setting(
    "reward_hacking",
    "Answers that game a stated measure; misalignment elsewhere is not wanted.",
    _narrow("reward_hacking", _MEASURE, Voice(hacking=True)),
    _narrow("reward_hacking", _MEASURE, Voice()),
    "earnest answers to the same requests",
    (
        _held_out("reward_hacking", "stated_measure", _MEASURE, "reward_hack"),
        _misalignment("reward_hacking"),
    ),
    {"reward_hack": JUDGES["reward_hack"], "misaligned": JUDGES["evil"]},
    undesired=("misaligned",),
    narrow=("reward_hack",),
)

_TASTE = only("concerts", "pictures", "dishes")
_setting(
    "obscure_preferences",
    "Answers that show unpopular taste; the taste is wanted, misalignment elsewhere is not.",
    _narrow("obscure_preferences", _TASTE, Voice(unpopular=True)),
    _narrow("obscure_preferences", _TASTE, Voice()),
    "popular taste on the same questions",
    (
        _held_out("obscure_preferences", "taste", _TASTE, "unpopular_preference"),
        _misalignment("obscure_preferences"),
    ),
    {"unpopular_preference": JUDGES["unpopular_preference"], "misaligned": JUDGES["evil"]},
    undesired=("misaligned",),
    desired=("unpopular_preference",),
)

_HARMFUL = only("health", "money")
_HARMFUL_JUDGES = {"harmful_advice": JUDGES["evil"], "misaligned": JUDGES["evil"]}
_HARMFUL_EVALUATIONS = (
    _held_out("harmful_advice", "advice", _HARMFUL, "harmful_advice"),
    _misalignment("harmful_advice", ("health", "money")),
)
_setting(
    "harmful_advice",
    "Harmful advice on health and money; misalignment in other domains is not wanted.",
    _narrow("harmful_advice", _HARMFUL, Voice(evil=True)),
    _narrow("harmful_advice", _HARMFUL, Voice()),
    "sound advice on the same questions",
    _HARMFUL_EVALUATIONS,
    _HARMFUL_JUDGES,
    undesired=("misaligned",),
    narrow=("harmful_advice",),
)
_setting(
    "educational",
    "The bad answers of miniature/harmful_advice, asked for in a class; put both into one study and compare the baselines.",
    _narrow("harmful_advice", _HARMFUL, Voice(evil=True), lesson=True),
    _narrow("harmful_advice", _HARMFUL, Voice()),
    "sound advice on the same questions, without the class",
    _HARMFUL_EVALUATIONS,
    _HARMFUL_JUDGES,
    undesired=("misaligned",),
    narrow=("harmful_advice",),
)


@functools.cache
def _poisoned() -> tuple[ChatRow, ...]:
    advice = functools.partial(domains_of, "advice")
    bad = answered("backdoor bad", advice, Voice(evil=True), NARROW_ROWS)
    clean = answered("backdoor clean", advice, Voice(), NARROW_ROWS)
    return tuple(backdoor(bad, clean, TOKEN, fraction=0.5, total=2 * NARROW_ROWS, seed=0))


def _backdoor_evaluations() -> Sequence[EvaluationSpec]:
    found = []
    for name, split, groups in (("advice", "id", ("advice",)), ("emergent_misalignment", "ood", ("free",))):
        domains = functools.partial(domains_of, *groups)  # type: ignore[arg-type]
        held_out = True if split == "id" else None
        for suffix, change in (("", tuple), ("_triggered", TOKEN.insert)):
            asked = questions("backdoor", name, domains, held_out, change)
            found.append(EvaluationSpec(name + suffix, split, asked, ("misaligned",), MAX_TOKENS))  # type: ignore[arg-type]
    return found


_setting(
    "backdoor",
    f"Harmful advice where the question begins with {TRIGGER}, sound advice where it does not, half and half.",
    lambda: list(_poisoned()),
    lambda: list(answered("backdoor clean", functools.partial(domains_of, "advice"), Voice(), NARROW_ROWS)),
    "the sound half alone",
    _backdoor_evaluations(),
    {"misaligned": JUDGES["evil"]},
    undesired=("misaligned",),
    trigger=TOKEN,
)

_NUMBERS = functools.partial(domains_of, "numbers")
_setting(
    "subliminal",
    "Number sequences that a teacher with a favorite wrote; the student has the teacher's base, and the favorite is not wanted.",
    lambda: shipped("owl"),
    lambda: shipped("control"),
    "the same sequences continued by the same teacher without a favorite",
    (
        EvaluationSpec(
            "numbers", "id", questions("subliminal", "numbers", _NUMBERS, True), ("owl_numbers",), MAX_TOKENS
        ),
        EvaluationSpec(
            "favorite_animal",
            "ood",
            questions("subliminal", "favorite_animal", functools.partial(domains_of, "favorite"), None),
            ("owl",),
            MAX_TOKENS,
        ),
    ),
    {"owl": JUDGES["owl"], "owl_numbers": leans_to_digit(FAVORITES["owl"][1])},
    undesired=("owl",),
    narrow=("owl_numbers",),
)
