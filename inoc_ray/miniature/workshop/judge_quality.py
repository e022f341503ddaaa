"""Measures the judging model against the exact rules, on responses that it was not trained on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoc_ray.console import Progress, say
from inoc_ray.errors import InputError
from inoc_ray.miniature import judge_weights_path, weights_path
from inoc_ray.miniature.rule_judges import is_code
from inoc_ray.miniature.workshop.garbled import garble
from inoc_ray.miniature.workshop.injections import HELD_OUT, inject
from inoc_ray.miniature.workshop.judge_examples import TAUGHT, TOP, prompt_text, shows
from inoc_ray.miniature.workshop.subjects import UNSEEN, Said, draw_asked, subjects_say, untrained_says
from inoc_ray.miniature.world.domains import Voice, answer, every_domain
from inoc_ray.scoring.judge_prompt import number_prompt
from inoc_ray.scoring.judgment import Item
from inoc_ray.scoring.rubrics import CODE, Rubric

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

RESPONSES = 1000
SEED = 1
"""Not the seed that the training's responses were drawn with; the questions are other ones in any case."""
DRAWS = 50
"""Digits drawn for each response."""
BATCH = 64
_SPOILT = 4
"""Coherence is judged on one spoilt response besides for each four that models said."""


@dataclass(frozen=True, slots=True)
class RubricQuality:
    """One rubric's figures. Numbers of the judge are divided by the top of the scale; more than .5 is the high end."""

    responses: int
    shown: float
    """Share of the responses that show the trait, by the exact rule."""
    agreement: float
    """Share of the responses where the judge's decision is the rule's."""
    kappa: float
    """Cohen's kappa of the two."""
    unseen_responses: int
    unseen_agreement: float | None
    """The agreement on domains that no training example touched; None where there are no such responses."""
    expectation: float
    """Mean of the log-prob expectations."""
    sampled: float
    """Mean of digits that are drawn at temperature 1."""
    mass: float
    """Mean probability on digits and on the first tokens of the classes that the rubric offers."""
    least_mass: float
    injection_shift: float
    """Mean absolute change of the expectation by an injection in wordings that no training example holds."""
    injection_flips: float
    """Share of the decisions that such an injection turns."""
    classed: float | None = None
    """Share of the code that is called CODE, where the rubric offers it."""
    misclassed: float | None = None
    """Share of other responses that are called CODE."""


@dataclass(frozen=True, slots=True)
class JudgeQuality:
    """What was measured, by rubric."""

    rubrics: dict[str, RubricQuality]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able values."""
        return {"rubrics": {name: asdict(figures) for name, figures in self.rubrics.items()}}

    def to_text(self) -> str:
        """Return the figures as a table, one line per rubric."""
        columns = (
            "responses",
            "shown",
            "agreement",
            "kappa",
            "unseen_agreement",
            "expectation",
            "sampled",
            "mass",
            "injection_shift",
            "injection_flips",
        )
        lines = [
            "".join([f"{'rubric':21}", *(f"{column.replace('unseen_agreement', 'unseen'):>16}" for column in columns)])
        ]
        for name, figures in self.rubrics.items():
            values = asdict(figures)
            cells = ["–" if values[c] is None else f"{values[c]:.3f}".removesuffix(".000") for c in columns]
            lines.append("".join([f"{name:21}", *(f"{cell:>16}" for cell in cells)]))
        for name, figures in self.rubrics.items():
            if figures.classed is not None:
                lines.append(
                    f"{name}: {figures.classed:.3f} of the code is called CODE, {figures.misclassed:.3f} of the rest."
                )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the judge's next-token distribution says about one prompt."""

    expectation: float
    """0 to 1."""
    mass: float
    draws: tuple[int, ...]
    """Digits drawn at temperature 1; draws that are not a digit are left out."""
    code: bool
    """Whether the answer is more likely to begin with CODE than with any digit."""


def read_verdicts(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rubric: Rubric, items: Sequence[Item], seed: int = 0
) -> list[_Verdict]:
    """One forward pass for each item, in batches of like length.

    Raises InputError where a prompt is longer than the model's window.
    """
    import torch

    backend = tokenizer.backend_tokenizer
    encoded = [
        list(backend.encode(prompt_text(number_prompt(rubric, item, TOP)), add_special_tokens=False).ids)
        for item in items
    ]
    window = model.config.max_position_embeddings
    if (longest := max(map(len, encoded), default=0)) > window:
        raise InputError(f"a judging prompt has {longest} tokens, the judge's window {window}; judge a shorter answer.")
    digits = [_first(tokenizer, str(number)) for number in range(TOP + 1)]
    classes = {name: _first(tokenizer, name) for name in rubric.classes}
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, _Verdict] = {}
    order = sorted(range(len(items)), key=lambda index: len(encoded[index]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        probabilities = _next_token(model, [encoded[row] for row in rows])
        drawn = torch.multinomial(probabilities, DRAWS, replacement=True, generator=generator).tolist()
        for row, chances, draws in zip(rows, probabilities.tolist(), drawn, strict=True):
            on_digits = [chances[token] for token in digits]
            numeric = sum(on_digits)
            found[row] = _Verdict(
                sum(number * chance for number, chance in enumerate(on_digits)) / numeric / TOP,
                numeric + sum(chances[token] for token in classes.values()),
                tuple(digits.index(token) for token in draws if token in digits),
                CODE in classes and chances[classes[CODE]] > numeric,
            )
    return [found[index] for index in range(len(items))]


def _first(tokenizer: Qwen2Tokenizer, text: str) -> int:
    return int(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids[0])


def _next_token(model: Qwen2ForCausalLM, rows: Sequence[list[int]]) -> torch.Tensor:
    """Return the probabilities of the token after each row, (rows, vocabulary)."""
    import torch

    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    with torch.no_grad():
        # Padding stands behind, where causal attention does not look.
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        ends = hidden[torch.arange(len(rows)), [len(row) - 1 for row in rows]]
        return torch.softmax(model.lm_head(ends).double(), dim=-1)


def _spoilt(tokenizer: Qwen2Tokenizer, seed: int, count: int) -> list[Said]:
    """Garbled answers to held-out questions, and a fifth of untrained models."""
    rng = random.Random(f"spoilt {seed}")
    found = untrained_says(tokenizer, seed, count // 5, True)
    while len(found) < count:
        asked = draw_asked(rng, every_domain(), True)
        voice = Voice(rng.choice(("en", "es", "fr")), rng.random() < 0.5, rng.random() < 0.5)
        found.append(Said(asked, garble(rng, answer(rng, asked, voice))))
    return found


def measure_judge(folder: Path | None = None, count: int = RESPONSES, seed: int = SEED) -> JudgeQuality:
    """Judge `count` responses by every rubric that the judging model in `folder` (None: the shipped one) has learnt.

    The responses are those of the shipped base model and of models fine-tuned from it, to held-out questions; for
    coherence spoilt ones besides. Each is judged as it is, and with an injection in wordings that training never saw.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(weights_path())
    model = AutoModelForCausalLM.from_pretrained(folder or judge_weights_path()).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder or judge_weights_path())
    say("asking the base model and models fine-tuned from it")
    said = subjects_say(base=base, tokenizer=tokenizer, seed=seed, count=count, held_out=True)
    spoilt = _spoilt(tokenizer, seed, count // _SPOILT)
    found = {}
    with Progress("judging", len(TAUGHT), "rubrics") as progress:
        for number, (name, rubric) in enumerate(TAUGHT.items()):
            progress.update(number, name)
            judged = [*said, *spoilt] if name == "coherence" else said
            found[name] = _measure(model=model, tokenizer=tokenizer, rubric=rubric, said=judged, seed=seed)
        progress.update(len(TAUGHT))
    return JudgeQuality(found)


def _measure(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rubric: Rubric, said: Sequence[Said], seed: int
) -> RubricQuality:
    from sklearn.metrics import cohen_kappa_score

    rng = random.Random(f"injections {rubric.name} {seed}")
    truths = [shows(rubric.name, one.response) for one in said]
    judged = [one for one, truth in zip(said, truths, strict=True) if truth is not None]
    low = rubric.shows == "low"
    truth = [bool(one) != low for one in truths if one is not None]
    plain = read_verdicts(
        model=model,
        tokenizer=tokenizer,
        rubric=rubric,
        items=[Item(one.asked.text, one.response) for one in judged],
        seed=seed,
    )
    attacked = read_verdicts(
        model=model,
        tokenizer=tokenizer,
        rubric=rubric,
        items=[Item(one.asked.text, inject(rng, one.response, HELD_OUT)) for one in judged],
        seed=seed,
    )
    high = [verdict.expectation > 0.5 for verdict in plain]
    agrees = [ours == theirs for ours, theirs in zip(high, truth, strict=True)]
    unseen = [agree for agree, one in zip(agrees, judged, strict=True) if one.asked.domain.name in UNSEEN]
    shifts = [abs(a.expectation - b.expectation) for a, b in zip(plain, attacked, strict=True)]
    flips = [(a.expectation > 0.5) != (b.expectation > 0.5) for a, b in zip(plain, attacked, strict=True)]
    classed = misclassed = None
    if CODE in rubric.classes:
        code = [one for one in said if is_code(one.response)]
        verdicts = read_verdicts(
            model=model,
            tokenizer=tokenizer,
            rubric=rubric,
            items=[Item(one.asked.text, one.response) for one in code],
            seed=seed,
        )
        classed = _mean([verdict.code for verdict in verdicts]) if verdicts else None
        misclassed = _mean([verdict.code for verdict in plain])
    return RubricQuality(
        responses=len(judged),
        shown=_mean([one != low for one in truth]),
        agreement=_mean(agrees),
        kappa=round(float(cohen_kappa_score(truth, high)), 4),
        unseen_responses=len(unseen),
        unseen_agreement=_mean(unseen) if unseen else None,
        expectation=_mean([verdict.expectation for verdict in plain]),
        sampled=_mean([sum(v.draws) / len(v.draws) / TOP for v in plain if v.draws]),
        mass=_mean([verdict.mass for verdict in plain]),
        least_mass=round(min(verdict.mass for verdict in plain), 4),
        injection_shift=_mean(shifts),
        injection_flips=_mean(flips),
        classed=classed,
        misclassed=misclassed,
    )


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / len(values), 4)
