"""The pool of method "pool" on a journal: arrays for the search, texts and marks for whoever reads more off them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol

import numpy as np

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.journal import Bought
from selfreg_sdk.tuner.pool.cells import Cells
from selfreg_sdk.tuner.pool.grid import Floats, Ints
from selfreg_sdk.tuner.pool.task import Fate, Request
from selfreg_sdk.tuner.pool.views import Cut, cut, shared_tokens
from selfreg_sdk.tuner.scoring.metrics import Metric
from selfreg_sdk.tuner.scoring.scoring import Mark, Scoring, ScoringError
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.drawing import Drawn, DrawRequest, Sample

Messages = Mapping[str, Sequence[Sequence[Mapping[str, str]]]]
"""Prompt name to the filled-in messages of every example."""


class Purchases(Protocol):
    """The part of `selfreg_sdk.tuner.journal.journal.Journal` that is needed here."""

    def worst(
        self, config: Point, messages: Sequence[Mapping[str, str]], count: int, example: Example | None = None
    ) -> Decimal:
        """USD that one request can cost at most, marking its samples included."""
        ...

    async def purchase(self, requests: Sequence[DrawRequest], *, mark: bool, parallel: int) -> list[Bought]:
        """Carry out independent requests, or find them; in order."""
        ...


@dataclass
class _Read:
    """What one cell got on one example; ``cuts`` the same samples through each view but the first."""

    samples: list[Sample] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    cuts: dict[int, list[Cut]] = field(default_factory=dict)


class Samples:
    """Everything bought of a task's cells: a `Pool` whose purchases are awaited, and `Seen` through its views.

    Arrays are (C, P): ``taken``, ``tokens`` and ``billed`` as of `Pool`; ``times`` seconds of the last request, NaN unknown.

    Args:
        journal: the door to money, and what was bought before.
        cells: C cells.
        examples: P examples.
        messages: of the examples, by prompt.
        metric: what the samples of an example are worth.
        alone: of models whose every sample is a call of its own, and so pays its prompt: what a prompt token costs in
            answer tokens.
        rule: scores answers cut short without a call; None where that costs money, and then only what cuts nothing is
            offered.
        span: range of scores that the search goes by; None does not look.
        parallel: calls in flight at once.
    """

    def __init__(
        self,
        journal: Purchases,
        cells: Cells,
        examples: Sequence[Example],
        messages: Messages,
        metric: Metric,
        *,
        alone: Mapping[str, float] | None = None,
        rule: Scoring | None = None,
        span: tuple[float, float] | None = None,
        parallel: int = 1,
    ) -> None:
        self._journal, self._cells, self._metric, self._parallel = journal, cells, metric, parallel
        self._examples, self._messages = tuple(examples), messages
        shape = len(cells.configs), len(self._examples)
        self.taken: Ints = np.zeros(shape, np.int64)
        self.tokens: Floats = np.zeros(shape)
        self.billed: Floats = np.zeros(shape)
        self.paid = self._counted = Decimal(0)
        self.requests = self.failed = self.refused = 0
        self.last_failure = ""
        self._alone, self._rule, self._span = dict(alone or {}), rule, span
        self.views = cells.views
        self._view_tokens = {view: np.zeros(shape) for view in range(1, len(cells.views))}
        self._view_changed = {
            view: np.where(cells.viewable[view][:, None], np.zeros(shape), np.nan) for view in self._view_tokens
        }
        self._prompts_alone: dict[tuple[int, int], float] = {}
        self._cut_marks: dict[tuple[str, str], Mark | None] = {}
        self._read: dict[tuple[int, int], _Read] = {}
        self.times: Floats = np.full(shape, np.nan)
        self._worst: dict[int, Floats] = {}
        self._scores: dict[tuple[int, int, int], float] = {}

    @property
    def spent(self) -> float:
        """USD, summed in the order of asking, without attempts of which nobody knows how they ended.

        So a search that was broken off and is run again sees the same; ``paid`` holds everything.
        """
        return float(self._counted)

    def worst(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        """The most that one request of each (cell, example, n) can cost, USD; never below what is reserved for it."""
        cells, examples, sizes = np.broadcast_arrays(cell, example, n)
        result = np.empty(cells.shape)
        for size in np.unique(sizes):
            table = self._worst.setdefault(int(size), np.full(self.taken.shape, np.nan))
            here = sizes == size
            rows, columns = cells[here], examples[here]
            new = np.isnan(table[rows, columns])
            for c, p in {(int(c), int(p)) for c, p in zip(rows[new], columns[new], strict=True)}:
                config = self._cells.configs[c]
                messages, of = self._messages[config["prompt"]][p], self._examples[p]
                table[c, p] = _not_below(self._journal.worst(config, messages, int(size), of))
            result[here] = table[rows, columns]
        return result

    def score(self, cell: Ints, example: Ints, n: Ints) -> Floats:
        """The metric on the first n samples of each (cell, example), (R,); NaN where there are fewer."""
        return np.array([self._score(int(c), int(p), int(k)) for c, p, k in zip(cell, example, n, strict=True)], float)

    async def abuy(self, requests: Sequence[Request]) -> list[Fate]:
        """Carry out independent requests.

        Raises:
            ConfigError: a score is out of range.
            SelfregError: the endpoint is out of reach, or refuses a setting; what was bought is in the journal.
        """
        bought = await self._journal.purchase(
            [self._draw(request) for request in requests], mark=True, parallel=self._parallel
        )
        self.requests += len(requests)
        fates = [self._note(request, one) for request, one in zip(requests, bought, strict=True)]
        if self._view_tokens:
            await self._look([request for request, fate in zip(requests, fates, strict=True) if fate == "bought"])
        return fates

    def buy(self, requests: Sequence[Request]) -> list[Fate]:
        """`abuy` where no event loop runs."""
        return asyncio.run(self.abuy(requests))

    def view_tokens(self, view: int) -> Floats:
        """(C, P) mean answer tokens of the samples taken, as cut by a view."""
        return self._view_tokens[view] if view else self.tokens

    def view_changed(self, view: int) -> Floats:
        """(C, P) share of the samples taken that a view changes; NaN where its settings cannot be sent."""
        return self._view_changed[view] if view else np.zeros(self.taken.shape)

    def view_score(self, view: int, cell: Ints, example: Ints, n: Ints) -> Floats:
        """The metric on the first n samples of each (cell, example) as cut, (R,); NaN where that is not known."""
        rows = zip(cell.tolist(), example.tolist(), n.tolist(), strict=True)
        return np.array([self._view_score(view, *row) for row in rows], float)

    def samples(self, cell: int, example: int) -> Sequence[Sample]:
        """The samples of a cell on an example, in the order they were drawn."""
        read = self._read.get((cell, example))
        return tuple(read.samples) if read else ()

    def marks(self, cell: int, example: int) -> Sequence[Mark]:
        """Their scores."""
        read = self._read.get((cell, example))
        return tuple(read.marks) if read else ()

    @property
    def drawn(self) -> int:
        """All samples."""
        return int(self.taken.sum())

    def _draw(self, request: Request) -> DrawRequest:
        config = self._cells.configs[request.cell]
        return DrawRequest(
            config=config,
            messages=self._messages[config["prompt"]][request.example],
            example=self._examples[request.example],
            start=int(self.taken[request.cell, request.example]),
            count=request.n,
        )

    def _note(self, request: Request, bought: Bought) -> Fate:
        self.paid += bought.cost
        drawing = bought.cost - bought.marking
        self._counted += bought.marking + (drawing if bought.drawn is None else min(drawing, bought.drawn.cost))
        if bought.fate != "bought" or bought.drawn is None or bought.marks is None:
            if bought.fate == "refused":
                self.refused += 1
            else:
                self.failed += 1
                self.last_failure = bought.reason
            return "failed" if bought.fate == "bought" else bought.fate
        for mark in bought.marks:
            if self._span is not None and not self._span[0] <= mark.score <= self._span[1]:
                raise ConfigError(
                    f"a score of {mark.score:g} lies outside of [{self._span[0]:g}, {self._span[1]:g}], on which the search "
                    f"believes scores to lie; write their range under the metric, like 'range: [0, 10]', and give name=: what "
                    f"was bought is found again"
                )
        at = request.cell, request.example
        read = self._read.setdefault(at, _Read())
        read.samples += _counted(bought.drawn)
        read.marks += bought.marks
        old, new = int(self.taken[at]), len(bought.drawn.samples)
        tokens, prompt = float(bought.drawn.output_tokens), float(bought.drawn.prompt_tokens)
        share = self._alone.get(self._cells.configs[request.cell]["model"])
        if share is not None:  # its prompt is a part of every sample, in answer tokens of the same price
            self._prompts_alone[at] = prompt * share
            tokens, prompt = tokens + prompt * share * new, 0.0
        self.tokens[at] = (self.tokens[at] * old + tokens) / (old + new)
        self.billed[at] = prompt
        self.taken[at] = old + new
        if bought.seconds is not None:
            self.times[at] = bought.seconds
        return "bought"

    async def _look(self, requests: Sequence[Request]) -> None:
        """Cut the new samples by every view, and score what is left of them."""
        new: dict[tuple[str, str], tuple[str, Example]] = {}
        for cell, example in dict.fromkeys((request.cell, request.example) for request in requests):
            read = self._read[cell, example]
            for view in self._view_tokens:
                known = read.cuts.setdefault(view, [])
                known += [cut(sample, self.views[view]) for sample in read.samples[len(known) :]]
                share = self._prompt_share(cell, example)
                self._view_tokens[view][cell, example] = sum(each.tokens for each in known) / len(known) + share
                if self._cells.viewable[view, cell]:
                    self._view_changed[view][cell, example] = sum(each.changed for each in known) / len(known)
                for each in known:
                    key = self._examples[example].id, each.text
                    if each.changed and key not in self._cut_marks:
                        new[key] = each.text, self._examples[example]
        marks = await asyncio.gather(*(self._cut_mark(*each) for each in new.values()))
        self._cut_marks.update(zip(new, marks, strict=True))

    async def _cut_mark(self, text: str, example: Example) -> Mark | None:
        if self._rule is None:
            return None
        try:
            return await self._rule.score(text, example)
        except ScoringError:
            return None

    def _prompt_share(self, cell: int, example: int) -> float:
        """What the prompt adds to the tokens of each sample, where it is paid for each."""
        return self._prompts_alone.get((cell, example), 0.0)

    def _view_score(self, view: int, cell: int, example: int, n: int) -> float:
        read = self._read.get((cell, example))
        if read is None or len(read.samples) < n:
            return math.nan
        if not view:
            return self._score(cell, example, n)
        marks: list[Mark] = []
        for whole, left in zip(read.marks[:n], read.cuts[view][:n], strict=True):
            mark = self._cut_marks[self._examples[example].id, left.text] if left.changed else whole
            if mark is None:
                return math.nan
            marks.append(mark)
        return self._metric.of([mark.score for mark in marks], [mark.ballot for mark in marks])

    def _score(self, cell: int, example: int, n: int) -> float:
        known = self._scores.get((cell, example, n))
        if known is None:
            marks = self.marks(cell, example)[:n]
            if len(marks) < n or not n:
                return math.nan
            known = self._metric.of([mark.score for mark in marks], [mark.ballot for mark in marks])
            self._scores[cell, example, n] = known
        return known


def _counted(drawn: Drawn) -> Sequence[Sample]:
    """Its samples, each with its tokens."""
    if all(sample.tokens is not None for sample in drawn.samples):
        return drawn.samples
    shares = shared_tokens([sample.text for sample in drawn.samples], drawn.output_tokens)
    return [replace(sample, tokens=tokens) for sample, tokens in zip(drawn.samples, shares, strict=True)]


def _not_below(amount: Decimal) -> float:
    """The nearest float that is not less."""
    value = float(amount)
    return value if Decimal(value) >= amount else math.nextafter(value, math.inf)
