"""Extraction: an order in a sentence becomes a JSON object.

Wants cold decoding: keys, braces and values are all forced. Hand-written answers swap the two digits of a number
with probability SLIP; references never do.
"""

from __future__ import annotations

import json
import re
from random import Random

from local_backend.tiny.families.base import Family, words
from policies.task import Aggregation

SLIP = 0.15
BUYERS = words("Anna Ben Clara David Emma Felix Greta Hugo Iris Jan Karl Lena Mia Nico Olga Paul Rosa Theo Vera Willi")
ITEMS = words("apples books chairs cups doors eggs flags hats jars keys lamps maps nails pens plates rings shoes toys")
WORDINGS = (
    "Make JSON: {who} orders {qty} {item} at {eur} euros, room {room}.",
    "Extract as JSON: room {room}, {who}, {qty} {item} for {eur} euros.",
    "JSON please: {qty} {item}, {eur} euros each, for {who} in room {room}.",
)
_FORMS = tuple(
    re.compile(
        re.escape(wording)
        .replace(r"\{who\}", "(?P<who>[A-Z][a-z]+)")
        .replace(r"\{item\}", "(?P<item>[a-z]+)")
        .replace(r"\{qty\}", r"(?P<qty>\d\d)")
        .replace(r"\{eur\}", r"(?P<eur>\d\d)")
        .replace(r"\{room\}", r"(?P<room>\d\d)")
    )
    for wording in WORDINGS
)


def draw(random: Random, book: bool) -> str:
    """A buyer, an item and three two-digit numbers."""
    numbers = {name: random.randint(1, 9) * 10 + random.randint(1, 9) for name in ("qty", "eur", "room")}
    return random.choice(WORDINGS).format(who=random.choice(BUYERS), item=random.choice(ITEMS), **numbers)


def _read(prompt: str) -> dict[str, str | int] | None:
    for form in _FORMS:
        if match := form.fullmatch(prompt.strip()):
            found = match.groupdict()
            return {key: int(text) if text.isdigit() else text for key, text in sorted(found.items())}
    return None


def solve(prompt: str, random: Random, by_hand: bool) -> str:
    """The object on one line, keys in a fixed order."""
    record = _read(prompt)
    if record is None:
        raise ValueError(f"not an order: {prompt!r}")
    written: dict[str, str | int] = {}
    for key in ("who", "item", "qty", "eur", "room"):
        value = record[key]
        if isinstance(value, int) and by_hand and random.random() < SLIP:
            value = int(str(value)[::-1])
        written[key] = value
    return json.dumps(written, separators=(",", ":"))


def check(prompt: str, answer: str) -> bool:
    """Valid JSON that equals the record, whatever its order and spacing."""
    record = _read(prompt)
    if record is None:
        return False
    try:
        # repr keeps 12 apart from 12.0 and "12".
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and repr(dict(sorted(found.items()))) == repr(record)


def content(prompt: str) -> str:
    """The record."""
    return repr(_read(prompt))


FAMILY = Family(
    name="extraction", aggregation=Aggregation(), draw=draw, solve=solve, check=check, content=content, slip=SLIP
)
