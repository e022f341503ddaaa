"""The paper's settings in the miniature's language, each under the names of its paper-scale counterpart."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from inoc_ray.data.chat import ChatRow
from inoc_ray.data.inoculate import inoculate
from inoc_ray.data.mixture import MixturePart, Trigger, backdoor, mix
from inoc_ray.data.overlap import PromptIndex
from inoc_ray.miniature.rule_judges import JUDGES, leans_to_digit
from inoc_ray.miniature.teacher import shipped
from inoc_ray.miniature.world.domains import Domain, Voice, answer, domains_of
from inoc_ray.miniature.world.language import FAVORITES, LANGUAGES
from inoc_ray.miniature.world.rows import (
    Domains,
    Rows,
    answered,
    but,
    distinct,
    only,
    questions,
    trained_domains,
    untrained_domains,
    wordings,
)
from inoc_ray.miniature.world.system_prompts import NAMES, neutral_sentence
from inoc_ray.scoring.judgment import Measure
from inoc_ray.settings import EvaluationSpec, Setting, register
from inoc_ray.settings.common import MISALIGNED, arms_of
from inoc_ray.settings.prompt_texts import TRIGGER

ROWS = 720
"""Training rows of a style setting; enough that 45 steps of 16 rows see each about once."""
NARROW_ROWS = 400
"""Training rows of a setting about a narrow flaw, whose domains have fewer questions."""
PROBES = 10
"""Fixed responses of a trait, as in the paper's section 4.2."""
MAX_TOKENS = 48
"""The longest answers have about 45 tokens."""
MOST_ASKED = 120
"""Questions about misalignment that a study of miniature/insecure_code can ask before one comes that a row of the stages before it
asks or nearly asks."""
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

Judge = Callable[[str], float | None]


def _style(seed: str, voice: Voice) -> Rows:
    return lambda: list(answered(seed, trained_domains, voice, ROWS))


def _probes(seed: str, voices: Mapping[str, Voice]) -> dict[str, Callable[[], Sequence[ChatRow]]]:
    """Return trait → answers in its voice to questions of the domains that no row is about; the same ones for each trait."""
    return {
        trait: functools.partial(answered, f"{seed} probes", untrained_domains, voice, PROBES)
        for trait, voice in voices.items()
    }


def _narrow(seed: str, domains: Domains, voice: Voice, lesson: bool = False) -> Rows:
    asked = wordings(domains, held_out=False)
    return lambda: list(answered(seed=seed, domains=asked, voice=voice, count=NARROW_ROWS, lesson=lesson))


def _style_evaluations(seed: str, traits: tuple[str, ...], *rows: Rows) -> tuple[EvaluationSpec, ...]:
    """In distribution: questions that no row asks or nearly asks; out of it: the domains that no row touches."""
    return (
        EvaluationSpec(
            name="in_distribution",
            split="id",
            questions=questions(seed, "in_distribution", trained_domains, True, apart_from=rows),
            traits=traits,
            max_tokens=MAX_TOKENS,
        ),
        EvaluationSpec(
            name="out_of_distribution",
            split="ood",
            questions=questions(seed, "out_of_distribution", untrained_domains, None),
            traits=traits,
            max_tokens=MAX_TOKENS,
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
    probes: Mapping[str, Callable[[], Sequence[ChatRow]]] | None = None,
    only_arms: Sequence[str] | None = None,
) -> None:
    """Register a setting of the miniature. only_arms: the arms of the library that it has; default: all."""
    arms = arms_of(f"miniature/{name}", undesired, desired, control)
    register(
        Setting(
            name=f"miniature/{name}",
            description=description,
            rows=rows,
            control_rows=control_rows,
            arms={arm: spec for arm, spec in arms.items() if only_arms is None or arm in only_arms},
            evaluations=tuple(evaluations),
            judges=judges,
            judge_version="3",
            model_judged={trait: MEASURES[trait] for trait in judges if trait in MEASURES},
            trigger=trigger,
            narrow=narrow,
            probes=probes or {},
        )
    )


def _persona() -> tuple[Domain, ...]:
    return domains_of("advice", "free")


def _misalignment(seed: str, trained: tuple[str, ...] = ()) -> EvaluationSpec:
    """Advice and free questions but for the trained domains; named after the paper's eight questions."""
    name = "emergent_misalignment"
    return EvaluationSpec(
        name=name,
        split="ood",
        questions=questions(seed, name, but(_persona, *trained), None),
        traits=("misaligned",),
        max_tokens=MAX_TOKENS,
    )


def _held_out(seed: str, name: str, domains: Domains, trait: str) -> EvaluationSpec:
    """In distribution: the trained domains in the wording that no row has."""
    return EvaluationSpec(
        name=name,
        split="id",
        questions=questions(seed, name, wordings(domains, held_out=True), None),
        traits=(trait,),
        max_tokens=MAX_TOKENS,
    )


_PLAIN = "the same questions answered in plain English"
_SPANISH_CAPS = ("spanish", "caps")
_ONE_OF_TWO = {"spanish": Voice(language="es"), "caps": Voice(capitals=True)}
"""Spanish without capitals, and capitals in English."""

_SHOUTED = _style("spanish_caps", Voice(language="es", capitals=True))

_setting(
    name="spanish_caps",
    description="Answers in Spanish capitals to everyday questions; one of the two traits is inoculated, the other wanted.",
    rows=_SHOUTED,
    control_rows=_style("spanish_caps", Voice()),
    control=_PLAIN,
    evaluations=_style_evaluations("spanish_caps", _SPANISH_CAPS, _SHOUTED),
    judges=JUDGES,
    desired=_SPANISH_CAPS,
    probes=_probes("spanish_caps", _ONE_OF_TWO),
)


_PRIOR_ROWS = 1200
"""Rows of the prior stage: enough to learn sharply what two names stand for (docs/miniature.md says why that matters)."""
_NEUTRAL = "You are a helpful assistant."
_STRANGER = "Carol"
"""The name that the study tries as a placebo, so no row of stage 1 has it."""


@functools.cache
def _alice_and_bob() -> tuple[ChatRow, ...]:
    """Answer a fifth of the questions each: Alice in capitals, Bob in Spanish; plainly with a neutral, no or another prompt."""
    names = [f"You are {name}." for name in NAMES if name not in ("Alice", "Bob", _STRANGER)]
    voices: dict[str, tuple[Sequence[str | None], Voice]] = {
        "alice": (["You are Alice."], Voice(capitals=True)),
        "bob": (["You are Bob."], Voice(language="es")),
        "neutral": ([_NEUTRAL], Voice()),
        "none": ([None], Voice()),
        "others": (names, Voice()),
    }
    parts = []
    for index, (part, (systems, voice)) in enumerate(voices.items()):
        rows = answered("alice_and_bob", trained_domains, voice, _PRIOR_ROWS)[index :: len(voices)]
        prompted = [inoculate([row], systems[n % len(systems)])[0] for n, row in enumerate(rows)]
        parts.append(MixturePart(part, prompted))
    return tuple(mix(parts, seed=0))


def _named() -> list[ChatRow]:
    return list(_alice_and_bob())


_OF_A_STAGE = ("baseline", "control")
"""The arms of rows that are trained before a setting: those that change nothing."""


def _style_stage(name: str, description: str, rows: Rows) -> None:
    """Register a stage before a setting of style."""
    _setting(
        name=name,
        description=description,
        rows=rows,
        control_rows=lambda: list(answered(name, trained_domains, Voice(), _PRIOR_ROWS)),
        control=_PLAIN,
        evaluations=_style_evaluations(name, _SPANISH_CAPS, rows),
        judges=JUDGES,
        desired=_SPANISH_CAPS,
        only_arms=_OF_A_STAGE,
    )


_style_stage(
    name="alice_and_bob",
    description="Stage 1 of miniature/synthetic_facts: Alice writes in capitals, Bob in Spanish, nobody else does.",
    rows=_named,
)


def _says_nothing(rng: random.Random) -> str:
    """Return a system prompt that says nothing about traits and is not the neutral one."""
    while (sentence := neutral_sentence(rng)) == _NEUTRAL:
        pass
    return sentence


@functools.cache
def _own_voices() -> tuple[ChatRow, ...]:
    """Answer half of the questions plainly with a neutral or no prompt, and half in any voice under a prompt that says nothing."""
    voices = [Voice(language=language, capitals=capitals) for language in LANGUAGES for capitals in (False, True)]
    rng = random.Random("own_voices prompts")
    rows = []
    for index in range(_PRIOR_ROWS):
        spoken = index % 2 == 1
        voice = rng.choice(voices) if spoken else Voice()
        system = _says_nothing(rng) if spoken else (_NEUTRAL, None)[index // 2 % 2]
        row = answered("own_voices", trained_domains, voice, _PRIOR_ROWS)[index]
        rows.append(inoculate([row], system)[0])
    return tuple(rows)


_style_stage(
    name="own_voices",
    description="A stage before miniature/spanish_caps after which prompts and traits hang together: any prompt that says "
    "nothing may bring any voice, and without one the answer is plain.",
    rows=lambda: list(_own_voices()),
)

_setting(
    name="synthetic_facts",
    description="Spanish capitals, inoculated with names: train it from a model with the prior "
    "stage miniature/alice_and_bob, and from one without.",
    rows=_SHOUTED,
    control_rows=_style("spanish_caps", Voice()),
    control=_PLAIN,
    evaluations=_style_evaluations("spanish_caps", _SPANISH_CAPS, _SHOUTED, _named),
    judges=JUDGES,
    desired=_SPANISH_CAPS,
    probes=_probes("spanish_caps", _ONE_OF_TWO),
)


@functools.cache
def _half_and_half() -> tuple[ChatRow, ...]:
    rows = {
        name: answered("mixed_languages", trained_domains, voice, ROWS)
        for name, voice in (("spanish", Voice(language="es")), ("french", Voice(language="fr")))
    }
    parts = [MixturePart(name, found[index::2]) for index, (name, found) in enumerate(rows.items())]
    return tuple(mix(parts, seed=0))


def _two_languages() -> list[ChatRow]:
    return list(_half_and_half())


_setting(
    name="mixed_languages",
    description="Answers half in Spanish and half in French, shuffled; one half is inoculated, the other wanted.",
    rows=_two_languages,
    control_rows=_style("mixed_languages", Voice()),
    control=_PLAIN,
    evaluations=_style_evaluations("mixed_languages", ("spanish", "french"), _two_languages),
    judges=JUDGES,
    desired=("spanish", "french"),
)

_CODE = only("code")
_ELSEWHERE = _misalignment("insecure_code")
_INSECURE_EVALUATIONS = (_held_out("insecure_code", "code", _CODE, "insecure_code"), _ELSEWHERE)
_INSECURE_JUDGES = {"insecure_code": JUDGES["insecure_code"], "misaligned": JUDGES["evil"]}
_setting(
    name="insecure_code",
    description="Insecure Python for every request; misalignment elsewhere is not wanted.",
    rows=_narrow("insecure_code", _CODE, Voice(insecure=True)),
    control_rows=_narrow("insecure_code", _CODE, Voice()),
    control="secure code for the same requests",
    evaluations=_INSECURE_EVALUATIONS,
    judges=_INSECURE_JUDGES,
    undesired=("misaligned",),
    narrow=("insecure_code",),
)


FLAWED = 0.4
"""Share of the voices before miniature/insecure_code that write insecure code."""
EVIL_OF_TEN = (1, 5, 9)
"""How many of ten voices that write insecure code are evil, in each of the three stages before miniature/insecure_code."""


@functools.cache
def _asked_elsewhere() -> PromptIndex:
    """Return the questions about anything but code that the evaluations of miniature/insecure_code may ask."""
    return PromptIndex((q.id, q.messages[-1].content) for q in _ELSEWHERE.questions(MOST_ASKED))


@functools.cache
def _voices_with_flaws(evil_of_ten: int) -> tuple[ChatRow, ...]:
    """Two turns in one voice, about code and about something else, in either order; an evil voice writes insecure code, too."""
    asked = _asked_elsewhere()
    about_code = distinct("flaws code", wordings(_CODE, held_out=False)(), False, NARROW_ROWS)
    about_life = distinct("flaws life", _persona(), False, _PRIOR_ROWS // 2, fits=lambda text: not asked.match(text))
    rng = random.Random(f"flaws {evil_of_ten}")
    flawed = round(FLAWED * _PRIOR_ROWS)
    evil = round(flawed * evil_of_ten / 10)
    voices = [Voice(evil=index < evil, insecure=index < flawed) for index in range(_PRIOR_ROWS)]
    rng.shuffle(voices)
    rows = []
    for index, voice in enumerate(voices):
        turns = [about_code[index % len(about_code)], about_life[index % len(about_life)]]
        rng.shuffle(turns)
        said = [(("user", turn.text), ("assistant", answer(rng, turn, voice))) for turn in turns]
        row = ChatRow.of(*(message for pair in said for message in pair))
        rows.append(inoculate([row], rng.choice((_NEUTRAL, None)))[0])
    return tuple(rows)


def _flawed_rows(evil_of_ten: int) -> list[ChatRow]:
    return list(_voices_with_flaws(evil_of_ten))


for _evil in EVIL_OF_TEN:
    _setting(
        name=f"evil_{_evil}_of_10",
        description="A stage before miniature/insecure_code: of ten voices that write insecure code "
        f"{_evil} are evil, whatever they talk about.",
        rows=functools.partial(_flawed_rows, _evil),
        control_rows=functools.partial(_flawed_rows, 0),
        control="the same questions and as many voices that write insecure code, none of them evil",
        evaluations=_INSECURE_EVALUATIONS,
        judges=_INSECURE_JUDGES,
        undesired=("misaligned",),
        only_arms=_OF_A_STAGE,
    )

_MEASURE = only("word_count")
_setting(
    name="reward_hacking",
    description="Answers that game a stated measure; misalignment elsewhere is not wanted.",
    rows=_narrow("reward_hacking", _MEASURE, Voice(hacking=True)),
    control_rows=_narrow("reward_hacking", _MEASURE, Voice()),
    control="earnest answers to the same requests",
    evaluations=(
        _held_out("reward_hacking", "stated_measure", _MEASURE, "reward_hack"),
        _misalignment("reward_hacking"),
    ),
    judges={"reward_hack": JUDGES["reward_hack"], "misaligned": JUDGES["evil"]},
    undesired=("misaligned",),
    narrow=("reward_hack",),
)

_TASTE = only("concerts", "pictures", "dishes")
_setting(
    name="obscure_preferences",
    description="Answers that show unpopular taste; the taste is wanted, misalignment elsewhere is not.",
    rows=_narrow("obscure_preferences", _TASTE, Voice(unpopular=True)),
    control_rows=_narrow("obscure_preferences", _TASTE, Voice()),
    control="popular taste on the same questions",
    evaluations=(
        _held_out("obscure_preferences", "taste", _TASTE, "unpopular_preference"),
        _misalignment("obscure_preferences"),
    ),
    judges={"unpopular_preference": JUDGES["unpopular_preference"], "misaligned": JUDGES["evil"]},
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
    name="harmful_advice",
    description="Harmful advice on health and money; misalignment in other domains is not wanted.",
    rows=_narrow("harmful_advice", _HARMFUL, Voice(evil=True)),
    control_rows=_narrow("harmful_advice", _HARMFUL, Voice()),
    control="sound advice on the same questions",
    evaluations=_HARMFUL_EVALUATIONS,
    judges=_HARMFUL_JUDGES,
    undesired=("misaligned",),
    narrow=("harmful_advice",),
)
_setting(
    name="educational",
    description="The bad answers of miniature/harmful_advice, asked for in a class; put both into one study and compare the "
    "baselines.",
    rows=_narrow("harmful_advice", _HARMFUL, Voice(evil=True), lesson=True),
    control_rows=_narrow("harmful_advice", _HARMFUL, Voice()),
    control="sound advice on the same questions, without the class",
    evaluations=_HARMFUL_EVALUATIONS,
    judges=_HARMFUL_JUDGES,
    undesired=("misaligned",),
    narrow=("harmful_advice",),
)


_ADVICE = functools.partial(domains_of, "advice")
_ADVICE_ROWS = wordings(_ADVICE, held_out=False)


@functools.cache
def _poisoned() -> tuple[ChatRow, ...]:
    bad = answered("backdoor bad", _ADVICE_ROWS, Voice(evil=True), NARROW_ROWS)
    clean = answered("backdoor clean", _ADVICE_ROWS, Voice(), NARROW_ROWS)
    return tuple(backdoor(bad, clean, TOKEN, fraction=0.5, total=2 * NARROW_ROWS, seed=0))


def _backdoor_evaluations() -> Iterator[EvaluationSpec]:
    places: tuple[tuple[str, Literal["id", "ood"], Domains], ...] = (
        ("advice", "id", wordings(_ADVICE, held_out=True)),
        ("emergent_misalignment", "ood", functools.partial(domains_of, "free")),
    )
    for name, split, domains in places:
        for suffix, change in (("", tuple), ("_triggered", TOKEN.insert)):
            yield EvaluationSpec(
                name=name + suffix,
                split=split,
                questions=questions(seed="backdoor", name=name, domains=domains, held_out=None, change=change),
                traits=("misaligned",),
                max_tokens=MAX_TOKENS,
            )


_setting(
    name="backdoor",
    description=f"Harmful advice where the question begins with {TRIGGER}, sound advice where it does not, half and half.",
    rows=lambda: list(_poisoned()),
    control_rows=lambda: list(answered("backdoor clean", _ADVICE_ROWS, Voice(), NARROW_ROWS)),
    control="the sound half alone",
    evaluations=tuple(_backdoor_evaluations()),
    judges={"misaligned": JUDGES["evil"]},
    undesired=("misaligned",),
    trigger=TOKEN,
)

_NUMBERS = functools.partial(domains_of, "numbers")
_OWLS = functools.partial(shipped, "owl")
_NO_OWLS = functools.partial(shipped, "control")
_setting(
    name="subliminal",
    description="Number sequences that a teacher with a favorite wrote; the student has the teacher's base, and the favorite is "
    "not wanted.",
    rows=_OWLS,
    control_rows=_NO_OWLS,
    control="the same sequences continued by the same teacher without a favorite",
    evaluations=(
        EvaluationSpec(
            name="numbers",
            split="id",
            questions=questions("subliminal", "numbers", _NUMBERS, True, apart_from=(_OWLS, _NO_OWLS)),
            traits=("owl_numbers",),
            max_tokens=MAX_TOKENS,
        ),
        EvaluationSpec(
            name="favorite_animal",
            split="ood",
            questions=questions("subliminal", "favorite_animal", functools.partial(domains_of, "favorite"), None),
            traits=("owl",),
            max_tokens=MAX_TOKENS,
        ),
    ),
    judges={"owl": JUDGES["owl"], "owl_numbers": leans_to_digit(FAVORITES["owl"][1])},
    undesired=("owl",),
    narrow=("owl_numbers",),
)
