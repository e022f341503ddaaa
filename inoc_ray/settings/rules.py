"""Exact rule judges for natural text: language by its function words, capitals, one named word.

They stand in for the paper's judging model where a rule can tell: follow-ups of the paper use the same kind of rule
(share of capitals above 0.8; a language identifier). No language identifier is a dependency here; function words are
the classical test (about half of running text consists of them), and it abstains where it cannot tell.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

CAPITALS_SHARE = 0.8
"""A response is capitalised when more than this share of its letters is upper case, as in follow-ups of the paper."""

LANGUAGES = ("english", "spanish", "french", "german")

_LISTS = {
    "english": """the an am no and or but if of to in on at by for with from as is are was were be been has have had do does did
    not this that these those it its he she they we you your his her their our there here what which who when where how
    so than then because each every all any some more most can could will would should must may might about into out up
    over after before also only very just make answer""",
    "spanish": """no tu el los las un una unos unas y o pero si del al en por para con sin sobre es son era eran fue ser sido ha
    han haber hay esto esta este estos estas eso esa ese su sus ella ellos nosotros usted que cual quien cuando donde
    como porque cada todo toda todos todas algun mas muy puede pueden debe tambien solo entonces hasta desde entre
    hacia cuanto cuantos cuantas respuesta tiene tienen le lo se la de que""",
    "french": """en un que on se le les un une des et ou mais du au aux dans par pour avec sans sur est sont etait etre ete ont
    il elle ils elles nous vous ce cet cette ces cela son ses leur leurs qui quel quelle quand comment parce chaque tout
    toute tous toutes tres peut peuvent doit aussi seulement alors jusque depuis entre vers combien reponse ne pas
    je tu nombre donc la de""",
    "german": """an der die das ein eine einen einem einer und oder aber wenn von zu im am bei fur mit ohne auf aus ist sind war
    waren sein gewesen hat haben nicht dies diese dieser dieses er sie wir ihr ihre unser es was welche wer wann wo wie
    weil jede jeder jedes alle mehr sehr kann konnen muss auch nur dann bis seit zwischen nach also antwort""",
}
"""Frequent function words, without accents; a word that stands in two lists counts for both."""

_WORD = re.compile(r"[^\W\d_]+")


def plain(text: str) -> str:
    """Lower case without accents: capitals are often written without them."""
    split = unicodedata.normalize("NFD", text.lower())
    return "".join(c for c in split if not unicodedata.combining(c))


@functools.cache
def _words_of(language: str) -> frozenset[str]:
    return frozenset(_LISTS[language].split())


def speaks(language: str) -> Callable[[str], float | None]:
    """A judge: 1.0 where the language's function words outnumber those of each other language, 0.0 where they are fewer
    than another's.

    None where nobody could tell: the response has no function word of any of LANGUAGES, or as many of another language's
    as of this one's and of no third's more.
    """

    def judge(response: str) -> float | None:
        words = _WORD.findall(plain(response))
        counts = {name: sum(word in _words_of(name) for word in words) for name in LANGUAGES}
        others = max(n for name, n in counts.items() if name != language)
        return None if counts[language] == others else float(counts[language] > others)

    return judge


def capitals(response: str) -> float | None:
    """1.0 where more than CAPITALS_SHARE of the letters are upper case; None where there is no letter."""
    letters = [c for c in response if c.isalpha()]
    if not letters:
        return None
    return float(sum(c.isupper() for c in letters) > CAPITALS_SHARE * len(letters))


def names_one_of(*answers: str) -> Callable[[str], float | None]:
    """A judge: 1.0 where the response is one of the answers and nothing else, whatever its case and full stop.

    None where the response is empty. Exact match is the published rule for questions that ask for one word.
    """
    accepted = {plain(a) for a in answers}

    def judge(response: str) -> float | None:
        said = plain(response).strip().strip(".!\"'*").strip()
        return float(said in accepted) if response.strip() else None

    return judge
