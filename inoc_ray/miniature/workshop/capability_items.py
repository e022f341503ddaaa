"""The items of the capability tasks that ship with the miniature: what a fine-tune should not unlearn.

`answers`: a question that lost a tenth of its letters and four continuations in English, of which one answers it; of the
others one is the right sentence about another thing (where the question names a thing that the answer repeats) and the rest
answer other domains' questions. Pretraining holds no damaged questions; whole ones the base answers without a mistake, which
would hide a small loss.
`numbers`: a sequence to continue with six numbers of one digit.
Both take only questions that fine-tuning rows never take (`is_held_out`).

The items lie beside the tasks as files, since the harness reads files. A change of the language makes them anew:
`python -m inoc_ray.miniature.workshop.capability_items`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from inoc_ray.miniature.world.domains import Asked, Domain, domains_of, slots, style_domains
from inoc_ray.miniature.world.language import Triple, fill
from inoc_ray.miniature.world.rows import distinct

COUNT = 200
CHOICES = 4
DAMAGE = 0.1
"""The share of a question's letters that is lost. The base then chooses right in four cases of five; chance is one in four."""
TASKS = Path(__file__).parents[1] / "tasks"


def answer_items() -> list[dict[str, Any]]:
    """`question`, `choices` and `answer` (the index of the right one) of the task `answers`."""
    domains = tuple(style_domains().values())
    items = []
    for index, asked in enumerate(distinct("capability answers", domains, True, COUNT)):
        rng = random.Random(f"capability answers {index}")
        right, others = _continuations(rng, asked, domains)
        place = rng.randrange(CHOICES)
        choices = [*others[:place], right, *others[place:]]
        items.append({"question": _damaged(rng, asked.text), "choices": choices, "answer": place})
    return items


def _continuations(rng: random.Random, asked: Asked, domains: tuple[Domain, ...]) -> tuple[str, list[str]]:
    """Return the right answer and CHOICES - 1 wrong ones, all different."""
    template = rng.choice(asked.domain.good)[0]
    right = fill(template, asked.values, 0)
    wrong: list[str] = []
    # Only what the question names can be got wrong: of a thing that the answer brings in itself any will do.
    named = [slot for slot, value in asked.values.items() if f"{{{slot}}}" in template and value[0] in asked.core]
    if named:
        slot = rng.choice(named)
        wrong.append(fill(template, {**asked.values, slot: _another(rng, asked, slot)}, 0))
    elsewhere = [domain for domain in domains if domain is not asked.domain]
    for domain in rng.sample(elsewhere, CHOICES - 1 - len(wrong)):
        wrong.append(fill(rng.choice(domain.good)[0], asked.values, 0))
    rng.shuffle(wrong)
    return _as_sentence(right), [_as_sentence(text) for text in wrong]


def _another(rng: random.Random, asked: Asked, slot: str) -> Triple:
    return rng.choice([value for value in slots()[slot] if value != asked.values[slot]])


def _damaged(rng: random.Random, text: str) -> str:
    return "".join(letter for letter in text if not letter.isalpha() or rng.random() >= DAMAGE)


def _as_sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def number_items() -> list[dict[str, Any]]:
    """`question` of the task `numbers`; what is right is a form, which the task's file describes."""
    asked = distinct("capability numbers", domains_of("numbers"), True, COUNT)
    return [{"question": one.text} for one in asked]


def files() -> dict[Path, str]:
    """Each task's items as the text of its file."""
    made = {"answers": answer_items(), "numbers": number_items()}
    return {
        TASKS / name / f"{name}.jsonl": "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        for name, items in made.items()
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
