"""Reasoning: the last letters of several names, noted one by one and then joined.

Wants cold decoding: the steps are forced and one slip ruins the chain. Hand-written answers note a name's first
letter instead of its last with probability SLIP, and carry it on; references never do. An answer is accepted when
every step and the joined word are right.
"""

from __future__ import annotations

import re
from random import Random

from local_backend.tiny.families.base import Family, words
from policies.task import Aggregation

SLIP = 0.16
PEOPLE = words("Al Bo Cy Di Ed Flo Gus Hal Ida Jo Kim Lea Max Ned Ola Pam Ray Sam Tom Una Val Wes Xia Yan Zoe")
WORDINGS = (
    "Join the last letters of {names}.",
    "What do the last letters of {names} spell?",
    "Take the last letter of each: {names}.",
)
_FORM = re.compile(r"(?:Join|What do|Take) the last letters? of (?:each: )?([A-Z][A-Za-z, ]*)(?:\.| spell\?)")


def draw(random: Random, book: bool) -> str:
    """Four or five different names."""
    names = ", ".join(random.sample(PEOPLE, random.choice((4, 5))))
    return random.choice(WORDINGS).format(names=names)


def _read(prompt: str) -> list[str] | None:
    match = _FORM.fullmatch(prompt.strip())
    return re.findall(r"[A-Za-z]+", match[1]) if match else None


def solve(prompt: str, random: Random, by_hand: bool) -> str:
    """Every name with its last letter, then the letters joined."""
    names = _read(prompt)
    if names is None:
        raise ValueError(f"not a last-letters prompt: {prompt!r}")
    letters = [(name[0].lower() if by_hand and random.random() < SLIP else name[-1]) for name in names]
    steps = " ".join(f"{name}: {letter}." for name, letter in zip(names, letters, strict=True))
    return f"{steps} So {''.join(letters)}."


def check(prompt: str, answer: str) -> bool:
    """Every name in order with the right letter, and the right word."""
    return _read(prompt) is not None and answer.strip() == solve(prompt, Random(0), False)


def content(prompt: str) -> str:
    """The names in order."""
    return repr(_read(prompt))


FAMILY = Family(
    name="reasoning", aggregation=Aggregation(), draw=draw, solve=solve, check=check, content=content, slip=SLIP
)
