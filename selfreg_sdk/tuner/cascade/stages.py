"""What recorded samples say about each stage that a cascade may have, example by example.

As a first stage a configuration has a chance to pass the filter on an example, and an expected score where it does; both are
means over ways to have drawn n of its recorded samples. Nothing is bought for it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from selfreg_sdk.tuner.pool.grid import Floats, Ints
from selfreg_sdk.tuner.pool.task import PoolTask, Taken
from selfreg_sdk.tuner.scoring.metrics import Metric, elected
from selfreg_sdk.tuner.scoring.scoring import Mark
from selfreg_sdk.tuner.search.drawing import Sample
from selfreg_sdk.tuner.task.filters import Answers, Filter, reaches

SIZES = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30)
"""Numbers of samples that stages are tried with; what lies between is much like its neighbours."""

_ARRANGEMENTS = 8
"""Ways to draw n of the recorded samples that a first stage is averaged over."""
_TOGETHER = 16
"""Answers that a filter with a process or a function looks at at the same time."""


Expected = Callable[[Ints, Ints], Floats]
"""From cells and n, (A,) each, to the scores expected on new examples, in units of the metric's range."""


class Recorded(Taken, Protocol):
    """Samples bought so far, themselves too."""

    def samples(self, cell: int, example: int) -> Sequence[Sample]:
        """In the order drawn."""
        ...

    def marks(self, cell: int, example: int) -> Sequence[Mark]:
        """Of these samples."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Second:
    """A configuration that answers whatever comes. Arrays are (P,), NaN where it was not asked n times.

    Attributes:
        cell, n: it.
        prompt: number of its prompt. Both stages get the caller's, so those of a cascade have the same.
        expected: score on new examples, in units of the metric's range, 1 best, as the surface has it.
        score: mean over ways to have drawn n of the samples, in the same units.
        cost: USD of one request.
    """

    cell: int
    n: int
    prompt: int
    expected: float
    score: Floats
    cost: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class First:
    """A configuration and a level of the filter. Arrays are (P,), NaN where it was not asked n times.

    Attributes:
        cell, n, prompt, expected, score, cost: as of `Second`.
        level: from which on its answer passes.
        passes: chance of that.
        kept: expected score where it passes, times that chance; in units of the metric's range.
    """

    cell: int
    n: int
    prompt: int
    expected: float
    score: Floats
    level: float
    passes: Floats
    kept: Floats
    cost: Floats


async def stages(
    task: PoolTask,
    pool: Recorded,
    metric: Metric,
    gate: Filter,
    prompts: Sequence[int] | Ints,
    expected: Expected,
    *,
    sizes: Iterable[int] = SIZES,
    least: int = 10,
    band: float = 0.05,
    single: tuple[int, int] | None = None,
    seed: int = 0,
) -> tuple[tuple[First, ...], tuple[Second, ...]]:
    """Every stage that enough recorded samples speak about; the same for the same pool and seed.

    Args:
        task: what was tuned.
        pool: what was bought.
        metric: what n samples are worth.
        gate: the filter. One with a process or a function sees each distinct answer once; what fails there does not pass.
        prompts: (C,) number of each cell's prompt.
        expected: `PoolSearch.expected`.
        sizes: numbers of samples, n.
        least: examples that a configuration must have been asked n times.
        band: how far below the best of no higher cost the expected score of a stage may lie; others are left out.
        single: the best single configuration, (cell, n), which is never left out.
        seed: of the arrangements.
    """
    reader = _Reader(task, pool, metric, gate, seed)
    asked = [
        (cell, n, examples)
        for cell in (int(c) for c in np.nonzero((pool.taken > 0).sum(axis=1) >= least)[0])
        for n in sorted(set(sizes))
        if len(examples := [int(i) for i in np.nonzero(pool.taken[cell] >= n)[0]]) >= least
    ]
    means: dict[tuple[int, int], float] = {}
    for size in {n for _, n, _ in asked}:  # each from a fit of its own, which reads all cells at that n
        cells = np.array([cell for cell, n, _ in asked if n == size])
        told = expected(cells, np.full(len(cells), size))
        means |= {(int(cell), size): float(mean) for cell, mean in zip(cells, told, strict=True)}
    costs = {(cell, n): reader.cost(cell, n, examples) for cell, n, examples in asked}
    near = _near(means, {key: float(np.nanmean(cost)) for key, cost in costs.items()}, prompts, band)
    firsts: list[First] = []
    seconds: list[Second] = []
    for cell, n, examples in asked:
        if (cell, n) not in near and (cell, n) != single:
            continue
        about: dict[str, Any] = {"cell": cell, "n": n, "prompt": int(prompts[cell]), "expected": means[cell, n]}
        about |= {"cost": costs[cell, n], "score": reader.score(cell, n, examples)}
        seconds.append(Second(**about))
        if np.nanmean(costs[cell, n]) < task.budget:
            firsts += [First(**about, **parts) for parts in await reader.passing(cell, n, examples)]
    return tuple(firsts), tuple(seconds)


def _near(
    means: Mapping[tuple[int, int], float],
    costs: Mapping[tuple[int, int], float],
    prompts: Sequence[int] | Ints,
    band: float,
) -> set[tuple[int, int]]:
    """Those near the frontier of cost and expected score of their prompt: others are beaten by one that costs no more."""
    best: dict[int, float] = {}
    near = set()
    for key in sorted(costs, key=costs.__getitem__):
        prompt = int(prompts[key[0]])
        best[prompt] = max(best.get(prompt, -math.inf), means[key])
        if means[key] >= best[prompt] - band:
            near.add(key)
    return near


def chosen(metric: Metric, ballots: Sequence[str | None], scores: Sequence[float]) -> int:
    """Index of the sample that is the answer, as the metric makes one of several."""
    if metric.aggregation == "vote":
        return elected(ballots)
    if metric.aggregation == "best":
        best = max(scores) if metric.mode == "max" else min(scores)
        return scores.index(best)
    return 0


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The samples of a cell on an example: what was said, its scores, its ballots as marked, and as a vote casts them."""

    texts: tuple[str | None, ...]
    scores: tuple[float, ...]
    marked: tuple[str | None, ...]
    cast: tuple[str | None, ...]


class _Reader:
    """Reads stages off a pool."""

    def __init__(self, task: PoolTask, pool: Recorded, metric: Metric, gate: Filter, seed: int) -> None:
        self._task, self._pool, self._metric, self._gate, self._seed = task, pool, metric, gate, seed
        self._levels: dict[tuple[str | None, ...], float] = {}
        self._seen: dict[tuple[int, int], _Seen] = {}

    def cost(self, cell: int, n: int, examples: list[int]) -> Floats:
        rates, cost = self._task.rates, self._blank()
        prompts = self._pool.billed[cell, examples] * rates.prompt[cell]
        cost[examples] = rates.request[cell] + prompts + n * self._pool.tokens[cell, examples] * rates.answer[cell]
        return cost

    def score(self, cell: int, n: int, examples: list[int]) -> Floats:
        score = self._blank()
        for i in examples:
            seen = self._samples(cell, i)
            score[i] = self._metric.expected(seen.scores, seen.marked, sizes=(n,))[n]
        return self._task.units(score)

    async def passing(self, cell: int, n: int, examples: list[int]) -> list[dict[str, Any]]:
        """The filter's levels with ``passes`` and ``kept``."""
        drawn = {i: self._arrangements(cell, i, n) for i in examples}
        if not self._gate.cheap:
            await self._measure([self._answers(cell, i, order) for i in examples for order in drawn[i]])
        found = {level: (self._blank(), self._blank()) for level in self._gate.levels}
        for i in examples:
            seen = self._samples(cell, i)
            worth, reached = np.empty(len(drawn[i])), np.empty(len(drawn[i]))
            for at, order in enumerate(drawn[i]):
                worth[at] = self._metric.of([seen.scores[k] for k in order], [seen.marked[k] for k in order])
                reached[at] = self._level(self._answers(cell, i, order))
            worth = self._task.units(worth)
            for level, (passes, kept) in found.items():
                through = np.array([reaches(float(one), level) for one in reached])
                passes[i], kept[i] = through.mean(), (through * worth).mean()
        return [{"level": level, "passes": passes, "kept": kept} for level, (passes, kept) in found.items()]

    def _arrangements(self, cell: int, example: int, n: int) -> list[tuple[int, ...]]:
        """Ways to draw n of the samples; the first is what was drawn."""
        count = int(self._pool.taken[cell, example])
        # Each way is another question to a function that sees all samples: that one is asked about what was drawn.
        ways = 1 if self._gate.reads_all and not self._gate.cheap else _ARRANGEMENTS
        drawn = [tuple(range(n))]
        if math.comb(count, n) > 1:
            source = random.Random(f"{self._seed}/{cell}/{example}/{n}")
            drawn += [tuple(source.sample(range(count), n)) for _ in range(ways - 1)]
        return drawn

    def _answers(self, cell: int, example: int, order: Sequence[int]) -> Answers:
        seen = self._samples(cell, example)
        ballots = tuple(seen.cast[k] for k in order)
        at = chosen(self._metric, ballots, [seen.scores[k] for k in order])
        return Answers(texts=tuple(seen.texts[k] for k in order), ballots=ballots, chosen=at)

    def _samples(self, cell: int, example: int) -> _Seen:
        if (cell, example) not in self._seen:
            samples, marks = self._pool.samples(cell, example), self._pool.marks(cell, example)
            texts = tuple(sample.text or None for sample in samples)
            marked = tuple(mark.ballot for mark in marks)
            # What has no text has no say, though its mark has a ballot: as where the cascade runs.
            cast = tuple(None if text is None else ballot for text, ballot in zip(texts, marked, strict=True))
            scores = tuple(mark.score for mark in marks)
            self._seen[cell, example] = _Seen(texts=texts, scores=scores, marked=marked, cast=cast)
        return self._seen[cell, example]

    def _key(self, answers: Answers) -> tuple[str | None, ...]:
        return answers.texts if self._gate.reads_all else (answers.texts[answers.chosen],)

    def _level(self, answers: Answers) -> float:
        """What the filter measures; where that failed nothing is reached."""
        if self._gate.cheap:
            level = self._gate.passes(answers).level
            return -math.inf if level is None else level
        return self._levels[self._key(answers)]

    async def _measure(self, asked: Sequence[Answers]) -> None:
        """Ask a filter with a process or a function about all answers that it has not seen."""
        new = {self._key(answers): answers for answers in asked if self._key(answers) not in self._levels}
        slots = asyncio.Semaphore(_TOGETHER)

        async def measure(answers: Answers) -> float:
            async with slots:
                level = (await self._gate.apasses(answers)).level
            return -math.inf if level is None else level

        self._levels |= zip(new, await asyncio.gather(*map(measure, new.values())), strict=True)

    def _blank(self) -> Floats:
        return np.full(self._task.counted.shape[1], np.nan)
