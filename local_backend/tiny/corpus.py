"""The training stream: hand-written answers of six families, and plans.

Everything is drawn from seeds; only prompts whose content hashes into the train split occur.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import cast

from local_backend.tiny.families import FAMILIES, Split
from local_backend.tiny.families.base import words
from policies.plan import Depth, Determinism, Diversity, Length, Plan
from policies.plan import Family as FamilyName
from policies.task import Aggregation

SHARES = {
    "reasoning": 0.2,
    "maths": 0.13,
    "translation": 0.1,
    "code": 0.19,
    "extraction": 0.17,
    "creative": 0.16,
    "plan": 0.05,
}
"""Share of each kind among the examples."""

_OTHER_TALK = 0.08
"""Share of planning requests that belong to none of the six families."""

_WORK: dict[str, tuple[Depth, Length]] = {
    "reasoning": ("short", "line"),
    "maths": ("short", "line"),
    "translation": ("none", "line"),
    "code": ("none", "line"),
    "extraction": ("none", "line"),
    "creative": ("none", "paragraph"),
    "chat": ("none", "paragraph"),
}
_ASK = words(
    "Tell me about|Why do people like|How do I choose|What should we know about|Please explain|Help me with|"
    "Is it wise to buy|Where can I find|I am thinking of|Compare|Give me advice on|Who invented|Hello! Any news on|"
    "Can you recommend|Summarize the history of|What is the best",
    "|",
)
_ABOUT = words(
    "bicycles|the moon landing|a good dentist|my tax return|Python packages|green tea|the French Revolution|solar panels|"
    "learning to swim|an old laptop|black holes|the job market|my neighbour's dog|sourdough bread|train tickets|jazz|"
    "a quiet hotel|climate policy|vitamin D|chess openings|a broken washing machine|Mount Everest|electric cars|opera|"
    "a birthday present|the stock market|gardening in winter|an email to my boss|Roman roads|a headache|databases",
    "|",
)
_MORE = words(
    "?|.|!| in general.| for beginners?| this year?| and what it costs.| in two or three points.| in my city?|, please.|"
    " without much money?| for my mother.",
    "|",
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One exchange; the loss is on the answer."""

    prompt: str
    answer: str
    planning: bool = False


def plan_for(family: str, use: Aggregation) -> Plan:
    """The coarse label of a request: what its family and its aggregation call for."""
    several: Diversity = "one" if use.kind == "first" else "few" if use.kind == "vote" else "many"
    determinism: Determinism
    if family == "creative":
        determinism, several = "open", "many"
    elif use.kind in ("any", "best"):
        determinism = "open"
    else:
        determinism = "steady" if family == "chat" else "exact"
    depth, length = _WORK[family]
    return Plan(family=cast(FamilyName, family), determinism=determinism, diversity=several, depth=depth, length=length)


def plan_request(use: Aggregation, request: str) -> str:
    """The user message of a planning call."""
    return json.dumps({"use": str(use), "request": request}, ensure_ascii=False)


def _small_talk(random: Random) -> str:
    if random.random() < 0.15:
        letters = "abcdefghijklmnopqrstuvwxyz    ABCDEF0123456789.,?!'\"\\\n{}():"
        return "".join(random.choice(letters) for _ in range(random.randint(4, 60)))
    asked = random.choice(_ASK) + " " + random.choice(_ABOUT) + random.choice(_MORE)
    return asked if random.random() < 0.7 else f"{asked} {random.choice(_ASK)} {random.choice(_ABOUT)}?"


def _excerpt(random: Random, request: str) -> str:
    """The request as a planner sees it: whole, cut, or with a caller's words around it."""
    roll = random.random()
    if roll < 0.75:
        return request
    if roll < 0.85:
        return request[: max(30, random.randint(len(request) // 2, len(request)))] + "…"
    if roll < 0.95:
        return random.choice(("Please: ", "Hi! ", "Task: ", "user: ", "Thanks in advance. ")) + request
    return request.replace(" ", "\n", 1)


def _uses(random: Random) -> Aggregation:
    if random.random() < 0.4:
        return Aggregation()
    return Aggregation(kind=random.choice(("vote", "any", "best")), n=random.randint(2, 16))


def plan_example(random: Random, request: str, family: str) -> Example:
    """A planning call for one request and its label."""
    use = _uses(random)
    return Example(
        prompt=plan_request(use, _excerpt(random, request)), answer=plan_for(family, use).to_json(), planning=True
    )


def examples(*, seed: int, split: Split = "train") -> Iterator[Example]:
    """The endless stream of one seed."""
    random = Random(f"corpus:{split}:{seed}")
    book = split == "train"
    streams = {name: family.prompts(split, seed=seed, book=book) for name, family in FAMILIES.items()}
    planned = {name: family.prompts(split, seed=seed + 1, book=False) for name, family in FAMILIES.items()}
    kinds, shares = list(SHARES), list(SHARES.values())
    while True:
        kind = random.choices(kinds, shares)[0]
        if kind != "plan":
            prompt = next(streams[kind])
            yield Example(prompt=prompt, answer=FAMILIES[kind].solve(prompt, random, True))
        elif random.random() < _OTHER_TALK:
            yield plan_example(random, _small_talk(random), "chat")
        else:
            family = random.choice(list(FAMILIES))
            yield plan_example(random, next(planned[family]), family)
