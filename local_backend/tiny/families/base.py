"""What a task family is: prompts, worked answers, a checker that reads the prompt alone, and a score.

Families are small on purpose but differ in what decoding they want. Long forced chains want a cold sampler,
any-of-many and many-different want a hot one, and several answers mix free choices with forced steps.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from policies.task import Aggregation

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of task, as plain functions over text.

    Attributes:
        name: one of the plan's families.
        aggregation: how n samples become one score; for "best" `score_set` judges the whole set.
        draw: a random prompt. With True it comes as from an exercise book, which favours the usual kinds; with
            False all kinds are even.
        solve: a worked answer to a prompt. With True it is written by hand: habits in free choices, and honest
            slips at the family's rate. With False it is a reference, always accepted.
        check: whether one answer is right, from the prompt's text alone; false for a foreign prompt.
        content: what the prompt asks, without its wording; decides the split.
        verdict: the part of an answer that votes; None if it has none.
        score_set: in [0, 1], for aggregation "best" only.
        slip: rate of honest slips per place in hand-written answers, for the record.
    """

    name: str
    aggregation: Aggregation
    draw: Callable[[Random, bool], str]
    solve: Callable[[str, Random, bool], str]
    check: Callable[[str, str], bool]
    content: Callable[[str], str]
    slip: float
    verdict: Callable[[str], str | None] = lambda answer: answer
    score_set: Callable[[str, Sequence[str]], float] | None = None

    def score(self, prompt: str, samples: Sequence[str]) -> float:
        """Score n samples under the family's aggregation, in [0, 1].

        first and any: 1 if the first, or any, sample is right. vote: 1 if the first answer among those with the
        most common verdict is right. best: the family's own score of the set.

        Raises:
            ValueError: no samples.
        """
        if not samples:
            raise ValueError(f"{self.name}: no samples to score; give at least one")
        kind = self.aggregation.kind
        if self.score_set is not None:
            return self.score_set(prompt, samples)
        if kind == "any":
            return float(any(self.check(prompt, sample) for sample in samples))
        if kind == "vote":
            verdicts = [self.verdict(sample) for sample in samples]
            votes = Counter(verdict for verdict in verdicts if verdict is not None)
            if not votes:
                return 0.0
            # Counter keeps first-seen order among ties.
            return float(self.check(prompt, samples[verdicts.index(votes.most_common(1)[0][0])]))
        return float(self.check(prompt, samples[0]))

    def split_of(self, prompt: str) -> Split:
        """The split a prompt belongs to: a hash of its content, so wordings of one task never straddle."""
        digest = hashlib.blake2b(f"{self.name}:{self.content(prompt)}".encode(), digest_size=4).digest()
        tenth = int.from_bytes(digest, "big") % 10
        return "test" if tenth == 0 else "validation" if tenth == 1 else "train"

    def prompts(self, split: Split, *, seed: int, book: bool = False) -> Iterator[str]:
        """An endless, seeded stream of prompts of one split; contents may recur."""
        random = Random(f"{self.name}:{split}:{seed}:{book}")
        while True:
            prompt = self.draw(random, book)
            if self.split_of(prompt) == split:
                yield prompt

    def held_out(self, split: Split, *, count: int, seed: int = 0) -> list[str]:
        """`count` prompts of one split, no two with the same content.

        Raises:
            ValueError: the split has too few contents.
        """
        found: dict[str, str] = {}
        idle = 0
        for prompt in self.prompts(split, seed=seed):
            if len(found) == count:
                break
            before = len(found)
            found.setdefault(self.content(prompt), prompt)
            idle = 0 if len(found) > before else idle + 1
            if idle > 2_000:
                raise ValueError(f"{self.name}: split {split!r} has about {len(found)} tasks, {count!r} were asked for")
        return list(found.values())


def zipf_choice(random: Random, options: Sequence[str], exponent: float) -> str:
    """One option, the i-th with probability proportional to i**-exponent: an author's habit."""
    weights = [rank**-exponent for rank in range(1, len(options) + 1)]
    return random.choices(options, weights)[0]


def words(text: str, separator: str | None = None) -> tuple[str, ...]:
    """A word list written as one text."""
    return tuple(text.split(separator))
