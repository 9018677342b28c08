"""What a reward is for: prompts, and a score of one answer or of a set of answers.

A score is any function of a prompt's record and n samples. The three usual aims are made from a checker: right in one try, right at
least once in n, and right and different. A record is whatever the function needs beside the text: a reference answer, a test, nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from statistics import fmean
from typing import Any

from local_backend.tiny.families import FAMILIES, Family, Split
from local_backend.tiny.tokenizer import render

Check = Callable[[Any, str], bool]
"""Record and one answer to whether it is right."""
Score = Callable[[Any, Sequence[str]], float]
"""Record and n answers to what the set of them is worth."""
ROOM = 16
"""Tokens that an answer of the embedded model may be longer than a worked one."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt: its tokens, up to where the answer starts, and the record its answers are judged by."""

    ids: tuple[int, ...]
    record: Any


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompts of one kind with one aim.

    Attributes:
        name: for reports, and part of every seed.
        prompts: at least one.
        score: of n samples.
        n: how many samples a score is of.
        max_tokens: longest answer.
        check: whether one answer is right, for pass@k; None where there is no such thing.
    """

    name: str
    prompts: Sequence[Prompt]
    score: Score
    n: int = 1
    max_tokens: int
    check: Check | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError(f"task {self.name!r} has no prompts: give at least one")
        if self.n < 1 or self.max_tokens < 1:
            raise ValueError(f"task {self.name!r}: n={self.n!r} and max_tokens={self.max_tokens!r} must be at least 1")


def right(check: Check) -> Score:
    """Right in one try: the share of right samples; use it with n = 1."""
    return lambda record, samples: fmean(bool(check(record, sample)) for sample in samples)


def right_once(check: Check) -> Score:
    """Right at least once in n."""
    return lambda record, samples: float(any(check(record, sample) for sample in samples))


def right_and_different(check: Check) -> Score:
    """The share of right samples times the mean distance of two of them: 1 - |A & B| / |A | B| over their words (Jaccard)."""

    def score(record: Any, samples: Sequence[str]) -> float:
        kept = [frozenset(re.findall(r"\w+", sample.lower())) for sample in samples if check(record, sample)]
        distances = [1 - len(a & b) / max(1, len(a | b)) for a, b in combinations(kept, 2)]
        return len(kept) / len(samples) * fmean(distances) if distances else 0.0

    return score


AIMS: dict[str, Callable[[Check], Score]] = {
    "right": right,
    "right_once": right_once,
    "right_and_different": right_and_different,
}
"""Aims by name."""


def tasks_of(
    prompts: Sequence[Prompt], score: Score, *, n: int, max_tokens: int, check: Check | None = None
) -> list[Task]:
    """Prompts of a file as tasks with one aim: those whose record says the same "task" are one, the rest is another."""
    found: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        found.setdefault(str(prompt.record.get("task", "all")), []).append(prompt)
    return [
        Task(name=name, prompts=those, score=score, n=n, max_tokens=max_tokens, check=check)
        for name, those in found.items()
    ]


def embedded_tasks(tokenizer: Any, split: Split, *, count: int, seed: int = 0) -> list[Task]:
    """The six families of the embedded model, each under its own aggregation, with `count` prompts of a split.

    Args:
        tokenizer: the embedded model's.
        split: training prompts may share contents, those of the other splits are all different.
        count: prompts a family.
        seed: of the prompts.
    """
    return [_embedded(family, tokenizer, split, count, seed) for family in FAMILIES.values()]


def _embedded(family: Family, tokenizer: Any, split: Split, count: int, seed: int) -> Task:
    if split == "train":
        stream = family.prompts(split, seed=seed)
        texts = [next(stream) for _ in range(count)]
    else:
        texts = family.held_out(split, count=count, seed=seed)
    return Task(
        name=family.name,
        prompts=[Prompt(ids=tuple(render(tokenizer, text)), record=text) for text in texts],
        score=family.score,
        n=family.aggregation.n,
        max_tokens=ROOM + max(len(family.solve(text, Random(0), False)) for text in texts),
        check=family.check,
    )
