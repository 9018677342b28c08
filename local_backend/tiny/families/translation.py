"""Translation: a few English words into Pig Latin.

Wants cold decoding: every letter is forced. Hand-written answers end a word in "ya" instead of "ay" with
probability SLIP, the slip of a hurried hand; references never do.
"""

from __future__ import annotations

import re
from random import Random

from local_backend.tiny.families.base import Family, words
from policies.task import Aggregation

SLIP = 0.17
WORDS = words(
    "apple arrow autumn old open only under over iron island uncle eagle early empty evening "
    "bird black bread bridge bring brown cake cat chair cheese child clean clock cloud cold corn cup dark day dog door "
    "draw dream drum dry fast field fish flag flower fox free fresh friend frog full game garden glass gold grass green "
    "ground hand happy hat heavy hill home horse house jump key king kite lake lamp leaf light lion little long milk "
    "moon morning mouse music night paper path pear pen place plant plate rain read red ring river road rock room round "
    "salt school ship shoe short silver sing sky sleep slow small smile snow soft song spring star stone storm street "
    "strong summer sun swim table tall thin train tree truck wall warm water white wind window winter wolf wood"
)
WORDINGS = ("Say in Pig Latin: {words}", "Translate into Pig Latin: {words}", 'Put "{words}" into Pig Latin.')
_TASK = re.compile(r'(?:Say in|Translate into) Pig Latin: ([a-z ]+)|Put "([a-z ]+)" into Pig Latin\.')
_WORD = re.compile(r"([^aeiou]*)([a-z]+)")


def draw(random: Random, book: bool) -> str:
    """Three or four different words."""
    chosen = " ".join(random.sample(WORDS, random.choice((3, 4))))
    return random.choice(WORDINGS).format(words=chosen)


def _read(prompt: str) -> list[str] | None:
    match = _TASK.fullmatch(prompt.strip())
    return (match[1] or match[2]).split() if match else None


def pig_latin(word: str) -> str:
    """Leading consonants move to the end before "ay"; a leading vowel gets "way"."""
    match = _WORD.fullmatch(word)
    head, tail = (match[1], match[2]) if match else ("", word)
    return f"{tail}{head}ay" if head else f"{tail}way"


def solve(prompt: str, random: Random, by_hand: bool) -> str:
    """The words translated one by one."""
    chosen = _read(prompt)
    if chosen is None:
        raise ValueError(f"not a Pig Latin prompt: {prompt!r}")
    done = [pig_latin(word) for word in chosen]
    return " ".join(f"{word[:-2]}ya" if by_hand and random.random() < SLIP else word for word in done)


def check(prompt: str, answer: str) -> bool:
    """Every word right."""
    chosen = _read(prompt)
    return chosen is not None and answer.strip() == " ".join(map(pig_latin, chosen))


def content(prompt: str) -> str:
    """The words in order."""
    return repr(_read(prompt))


FAMILY = Family(
    name="translation", aggregation=Aggregation(), draw=draw, solve=solve, check=check, content=content, slip=SLIP
)
