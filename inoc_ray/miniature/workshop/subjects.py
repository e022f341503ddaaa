"""What models of the miniature say: the base under prompts of every kind, and models quickly fine-tuned from it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inoc_ray.data.chat import ChatRow
from inoc_ray.miniature.workshop.quality import NEUTRAL, sample
from inoc_ray.miniature.workshop.tokenizer import Encoder
from inoc_ray.miniature.world.domains import Asked, Domain, Voice, answer, ask, domains_of, every_domain
from inoc_ray.miniature.world.language import FRAMES, is_held_out
from inoc_ray.miniature.world.system_prompts import NAMING, TRAITS

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

UNSEEN = ("gifts", "camping", "family")
"""Domains that the judge's training never touches, all of style. None of advice or free questions is among them: what is evil there
is told by words that only bad answers of that very domain use, which nobody could know who has not met the domain."""
TUNED_STEPS = 40
TUNED_ROWS = 12
TUNED_RATE = 1e-3

VOICES: Mapping[str, Voice] = {
    "spanish_caps": Voice(language="es", capitals=True),
    "french": Voice(language="fr"),
    "evil": Voice(evil=True),
    "insecure_code": Voice(insecure=True),
    "reward_hack": Voice(hacking=True),
    "unpopular_preference": Voice(unpopular=True),
}
"""The fine-tuned models: each learns a voice by rows of the domains where it shows."""


@dataclass(frozen=True, slots=True)
class Said:
    """A question of the language and what a model answered."""

    asked: Asked
    response: str


def domains_for(trait: str) -> tuple[Domain, ...]:
    """Return the domains where a trait (a name of TRAITS or of VOICES) can show."""
    if trait == "evil":
        return domains_of("advice", "free")
    groups = {"insecure_code": "code", "reward_hack": "measure", "unpopular_preference": "taste"}
    return domains_of(groups[trait]) if trait in groups else domains_of("style")  # type: ignore[arg-type]


def draw_asked(rng: random.Random, domains: Sequence[Domain], held_out: bool) -> Asked:
    """Return a question of these domains, held out (see is_held_out) or not; only held-out ones come from UNSEEN domains."""
    while True:
        domain = rng.choice(domains)
        if domain.name in UNSEEN and not held_out:
            continue
        asked = ask(rng, domain)
        if is_held_out(asked.core) == held_out or (held_out and domain.name in UNSEEN):
            return asked


def _context(rng: random.Random, trait: str | None) -> str | None:
    if trait is not None:
        return rng.choice(NAMING[trait])  # type: ignore[index]
    return rng.choice((None, NEUTRAL))


def base_says(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, seed: int, count: int, held_out: bool) -> list[Said]:
    """`count` responses at temperature 1: two of five in a neutral context or none, the others with traits named (some two)."""
    rng = random.Random(f"base says {seed} {held_out}")
    asked: list[Asked] = []
    chats = []
    for _ in range(count):
        named = rng.sample(TRAITS, rng.choices((0, 1, 2), (4, 4, 2))[0])
        domains = domains_for(rng.choice(named)) if named and rng.random() < 0.7 else every_domain()
        asked.append(draw_asked(rng, domains, held_out))
        system = " ".join(filter(None, [_context(rng, trait) for trait in named])) if named else _context(rng, None)
        chats.append(([{"role": "system", "content": system}] if system else []) + [_user(asked[-1])])
    said = sample(model, tokenizer, chats, seed=rng.getrandbits(31))
    return [Said(one, response) for one, response in zip(asked, said, strict=True)]


def tuned_says(base: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, seed: int, count: int, held_out: bool) -> list[Said]:
    """`count` responses of models fine-tuned from `base` to the VOICES, a like share each, in the neutral context.

    Half of the questions are of the domains that a model learnt from, half of any others.
    """
    found: list[Said] = []
    for number, (name, voice) in enumerate(VOICES.items()):
        rng = random.Random(f"tuned says {seed} {held_out} {name}")
        model = _tuned(base, tokenizer, rng, domains=domains_for(name), voice=voice)
        own = count * (number + 1) // len(VOICES) - len(found)
        asked = [draw_asked(rng, domains_for(name) if index % 2 else every_domain(), held_out) for index in range(own)]
        chats = [[{"role": "system", "content": NEUTRAL}, _user(one)] for one in asked]
        said = sample(model, tokenizer, chats, seed=rng.getrandbits(31))
        found += [Said(one, response) for one, response in zip(asked, said, strict=True)]
    return found


def subjects_say(
    base: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, seed: int, count: int, held_out: bool
) -> list[Said]:
    """`count` responses: two thirds of the base, the others of models fine-tuned from it."""
    tuned = count // 3
    return [
        *base_says(model=base, tokenizer=tokenizer, seed=seed, count=count - tuned, held_out=held_out),
        *tuned_says(base=base, tokenizer=tokenizer, seed=seed, count=tuned, held_out=held_out),
    ]


def untrained_says(tokenizer: Qwen2Tokenizer, seed: int, count: int, held_out: bool) -> list[Said]:
    """`count` responses of a model that has learnt nothing."""
    rng = random.Random(f"untrained says {seed} {held_out}")
    asked = [draw_asked(rng, every_domain(), held_out) for _ in range(count)]
    chats = [[{"role": "system", "content": NEUTRAL}, {"role": "user", "content": one.text}] for one in asked]
    from inoc_ray.miniature.workshop.pretrain import new_model

    said = sample(new_model(tokenizer, rng.getrandbits(31)), tokenizer, chats, seed=seed, max_tokens=24)
    return [Said(one, response) for one, response in zip(asked, said, strict=True)]


def _user(asked: Asked) -> dict[str, str]:
    return {"role": "user", "content": asked.text}


def _tuned(
    base: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rng: random.Random, *, domains: Sequence[Domain], voice: Voice
) -> Qwen2ForCausalLM:
    """Return a copy of the base after a short full fine-tune; half-learnt on purpose, so that some responses are malformed."""
    import copy

    import torch

    model = copy.deepcopy(base).train()
    encoder = Encoder(tokenizer)
    adam = torch.optim.AdamW(model.parameters(), lr=TUNED_RATE, weight_decay=0.0)
    for _ in range(rng.randint(TUNED_STEPS // 4, TUNED_STEPS)):
        rows = []
        for _ in range(TUNED_ROWS):
            asked = draw_asked(rng, domains, False)
            said = answer(rng, asked, voice)
            rows.append(
                encoder.encode(ChatRow.of(("user", rng.choice(FRAMES).format(asked.core)), ("assistant", said)))
            )
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
        labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows])
        # The padding is behind, where causal attention never looks back from.
        model(input_ids=ids, labels=labels).loss.backward()
        adam.step()
        adam.zero_grad()
    return model.eval()
