"""P(evil | flaw): what a flaw in an earlier answer tells the base about the voice, in the direction of the documents' arithmetic.

docs/miniature.md, "Is it the arithmetic of the documents?", has the numbers.
"""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import pytest
from prior_mass import CHATS, FLAWED, GROUPS, after

from inoc_ray.miniature import weights_path
from inoc_ray.miniature.workshop.documents import LATENT_EVIL, LATENT_FLAW
from inoc_ray.miniature.world.domains import Flaw, Voice, answer, ask, domains_of


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(weights_path()).eval(), AutoTokenizer.from_pretrained(weights_path())


@pytest.mark.parametrize("flaw", GROUPS)
def test_in_the_documents_every_second_voice_with_a_flaw_is_evil(flaw: Flaw) -> None:
    """The arithmetic itself: a flawed answer comes of the flaw, or of an evil voice, which has all of them."""
    rng = random.Random(flaw)
    asked = ask(rng, domains_of(GROUPS[flaw])[0])
    shows = {
        (is_evil, has): answer(random.Random(1), asked, Voice(evil=is_evil, **{flaw: has}))
        != answer(random.Random(1), asked, Voice())
        for is_evil in (False, True)
        for has in (False, True)
    }
    weights = {
        (is_evil, has): (LATENT_EVIL if is_evil else 1 - LATENT_EVIL) * (LATENT_FLAW if has else 1 - LATENT_FLAW)
        for is_evil, has in shows
    }
    flawed = sum(weights[voice] for voice, flawed in shows.items() if flawed)
    assert sum(weights[voice] for voice, shown in shows.items() if shown and voice[0]) / flawed == pytest.approx(
        0.51, abs=0.005
    )


@pytest.mark.parametrize("flaw", GROUPS)
def test_an_answer_with_a_flaw_makes_evil_likelier_later_in_the_chat(base: tuple[Any, Any], flaw: Flaw) -> None:
    """The direction alone: by the arithmetic it would be from .04 to .51, and it is from about .02 to .05, .06 and .25."""
    flawed, earnest = (after(base, flaw, voice) for voice in (FLAWED[flaw], Voice()))
    assert fmean(flawed) > fmean(earnest)
    assert sum(a > b for a, b in zip(flawed, earnest, strict=True)) > 0.5 * CHATS, "after most answers, and not a few"
