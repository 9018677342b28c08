"""The replayed exam as a tuning task: what a tuner is given and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bench.replay_data import PICO, Recorded
from bench.replay_scores import Metric

if TYPE_CHECKING:
    from bench.replay_client import Endpoint


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An example: ``text`` goes into the user message; ``answer`` is the right ballot (see `bench.replay_scores`)."""

    id: int
    text: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """USD: the mean that a request may cost, and what tuning may spend."""

    per_request: Decimal
    total: Decimal


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What a tuner chooses."""

    model: str
    prompt: str
    temperature: float
    n: int
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a tuner returns.

    Attributes:
        configuration: the chosen one, None if it has none to offer.
        spent: USD by its own books.
        tried: configurations it proposed.
        scored: those of them it has a full score of.
    """

    configuration: Configuration | None
    spent: Decimal
    tried: int
    scored: int


class Tuner(Protocol):
    """Finds a configuration with the endpoint's answers alone. Same seed, same result."""

    name: str

    def tune(
        self, problems: Sequence[Problem], budgets: Budgets, metric: Metric, seed: int, endpoint: Endpoint
    ) -> Found:
        """Choose a configuration for the problems. The endpoint has just been reset to the seed."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A model with a prompt that was recorded for it."""

    model: str
    prompt: str
    temperatures: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What everybody knows before the first call.

    Attributes:
        arms: the models with their prompts.
        prices: USD per prompt token and per completion token of each model.
        systems: each prompt's system message, which holds its marker.
        samples: the largest n.
        longest: a max_tokens that cuts nothing.
        counted: prompt tokens of (prompt, problem) by one model's tokenizer; a model's bill may differ by a factor.
    """

    arms: tuple[Arm, ...]
    prices: Mapping[str, tuple[Decimal, Decimal]]
    systems: Mapping[str, str]
    samples: int
    longest: int
    counted: Mapping[tuple[str, int], float]

    def messages(self, prompt: str, problem: Problem) -> list[dict[str, str]]:
        """What is sent for a prompt and a problem."""
        return [{"role": "system", "content": self.systems[prompt]}, {"role": "user", "content": problem.text}]


def offer(recorded: Recorded) -> Offer:
    """The task's space, prices and prompts."""
    arms: dict[tuple[str, str], list[float]] = {}
    for model, prompt, temperature in recorded.cells:
        arms.setdefault((model, prompt), []).append(temperature)
    prices = {
        model: (Decimal(int(row[0])) / PICO, Decimal(int(row[1])) / PICO)
        for (model, _, _), row in zip(recorded.cells, recorded.price, strict=True)
    }
    counted = {
        (prompt, problem): float(recorded.estimate[c, p])
        for c, (_, prompt, _) in enumerate(recorded.cells)
        for p, problem in enumerate(recorded.problems)
    }
    shortest = _shortest(recorded)
    longer = {
        prompt: max(counted[prompt, problem] - counted[shortest, problem] for problem in recorded.problems)
        for prompt in {arm[1] for arm in arms}
    }
    return Offer(
        arms=tuple(Arm(model=m, prompt=p, temperatures=tuple(ts)) for (m, p), ts in arms.items()),
        prices=prices,
        systems={name: f"[[prompt={name}]] {_filler(recorded, more)}" for name, more in longer.items()},
        samples=recorded.samples,
        longest=recorded.longest,
        counted=counted,
    )


def nearest(recorded: Sequence[float], temperature: float) -> float:
    """The recorded temperature that stands for a wanted one."""
    return min(recorded, key=lambda each: abs(each - temperature))


def problems_of(recorded: Recorded, places: Sequence[int]) -> list[Problem]:
    """Examples by their places on the problem axis."""
    shortest = next(i for i, cell in enumerate(recorded.cells) if cell[1] == _shortest(recorded))
    return [
        Problem(
            id=recorded.problems[p],
            text=f"[[problem={recorded.problems[p]}]] {_filler(recorded, recorded.estimate[shortest, p])}",
            answer=recorded.letters[int(recorded.key[p])],
        )
        for p in places
    ]


def _shortest(recorded: Recorded) -> str:
    at = int(recorded.estimate.mean(axis=1).argmin())
    return recorded.cells[at][1]


def _filler(recorded: Recorded, tokens: float) -> str:
    """A word per token, in place of texts that were not recorded.

    Words are so long that no model was billed more prompt tokens than the messages have bytes: some were billed more than ten
    times what others were (their requests were repeated), and a bound on a prompt's tokens by its bytes must hold here too.
    """
    width = math.ceil(float(np.max(recorded.prompt / recorded.estimate)))
    return " ".join(["w" * max(width - 1, 1)] * math.ceil(tokens))
