"""Maths: three two-digit numbers added in written columns, answered by vote.

The work is forced, but a vote forgives some slips, so this family bears more heat than the other chains.
Hand-written answers carry a slip (a column one too high or too low, carried on) with probability SLIP per column;
references carry none.
"""

from __future__ import annotations

import re
from random import Random

from local_backend.tiny.families.base import Family
from policies.task import Aggregation

SLIP = 0.13
WORDINGS = ("What is {a}+{b}+{c}?", "Add {a}, {b} and {c}.", "Work out the sum of {a}, {b} and {c}.")
_NUMBER = re.compile(r"\d+")
_FORM = re.compile(r"What is \d\d\+\d\d\+\d\d\?|(?:Add|Work out the sum of) \d\d, \d\d and \d\d\.")


def draw(random: Random, book: bool) -> str:
    """Three numbers from 11 to 59."""
    a, b, c = (random.randint(11, 59) for _ in range(3))
    return random.choice(WORDINGS).format(a=a, b=b, c=c)


def _read(prompt: str) -> list[int] | None:
    return [int(n) for n in _NUMBER.findall(prompt)] if _FORM.fullmatch(prompt.strip()) else None


def _column(parts: list[int], random: Random, by_hand: bool) -> tuple[str, int]:
    total = sum(parts)
    if by_hand and random.random() < SLIP:
        total += random.choice((-1, 1)) if total else 1
    return f"{'+'.join(map(str, parts))}={total}", total


def _add(a: int, b: int, random: Random, by_hand: bool) -> tuple[str, int]:
    ones_text, ones = _column([a % 10, b % 10], random, by_hand)
    carry = [1] if ones > 9 else []
    tens_text, tens = _column([a // 10, b // 10, *carry], random, by_hand)
    total = tens * 10 + ones % 10
    return f"{ones_text}, {tens_text}: {total}", total


def solve(prompt: str, random: Random, by_hand: bool) -> str:
    """Ones, then tens with the carry, twice; the sum stands last."""
    numbers = _read(prompt)
    if numbers is None:
        raise ValueError(f"not a sum: {prompt!r}")
    total, lines = numbers[0], []
    for number in numbers[1:]:
        text, total = _add(total, number, random, by_hand)
        lines.append(text)
    return "\n".join(lines)


def verdict(answer: str) -> str | None:
    """The last number of the answer."""
    numbers = _NUMBER.findall(answer)
    return numbers[-1] if numbers else None


def check(prompt: str, answer: str) -> bool:
    """The last number is the sum."""
    numbers, said = _read(prompt), verdict(answer)
    return numbers is not None and said is not None and len(said) < 9 and int(said) == sum(numbers)


def content(prompt: str) -> str:
    """The numbers in order."""
    return repr(_read(prompt))


FAMILY = Family(
    name="maths",
    aggregation=Aggregation(kind="vote", n=3),
    draw=draw,
    solve=solve,
    check=check,
    content=content,
    verdict=verdict,
    slip=SLIP,
)
