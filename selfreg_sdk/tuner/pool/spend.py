"""What a request of a configuration costs on average over new examples, and how surely.

A request for n samples pays its prompt once: mean cost(n) = base + n * each. Prompt lengths are known without a call;
how an endpoint bills them is learned from its first replies (some bill several times what a tokenizer counts).
Lengths of answers are learned arm by arm with the code of `surface`. The error formula is our own
derivation: of a mean over P examples, prompt and answers vary with the example, and together, since long problems get
long answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfreg_sdk.tuner.pool import surface
from selfreg_sdk.tuner.pool.grid import Bools, Floats, Grid, Ints
from selfreg_sdk.tuner.pool.surface import Belief, Likeness, Noise, Readings

LENGTHS = Likeness(
    level=0.0, choice=0.0, arm=0.3, trend=0.0, ordered=0.0, curve=0.3, cell=0.1, repeat=0.0, own_repeat=0.0
)
"""Answer lengths as multiples of their arm's mean: temperature may change them by a third. Set by hand, never swept."""
SPREAD = Noise(shared=0.5, single=0.4)
"""Of lengths in the same unit: over examples, and of one answer. Recorded exams have .5 to .6 over examples."""
UNSEEN_TOKENS = 250.0
"""Answer tokens expected of an arm never heard: a few sentences of reasoning."""
UNSEEN_DOUBT, UNSEEN_HOPE = 1.0, 0.1
"""Standard errors of that, as shares of it: now, and once every example is read."""
UNSEEN_BLUR = 0.5
"""Standard error of the ratio of billed to counted prompt tokens before the first reply."""
RATIO_VARIANCE = 0.02
"""Of that ratio over examples, added once to the measured one: one reply leaves 14 % of doubt."""
ALIKE, ALIKE_WEIGHT = 0.3, 5.0
"""Expected correlation of prompt and answer lengths, and its worth in examples. Without it 1 % broke the budget."""
LEAST_MEAN = 0.05
"""A cell's mean length is no smaller part of its arm's than this, whatever the surface says."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Prices of C cells, USD, (C,) each: per prompt token, per answer token, and per request beside them."""

    prompt: Floats
    answer: Floats
    request: Floats


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What was billed so far, parallel arrays (R,), one row for each (cell, example).

    Attributes:
        cell, example: of the row.
        tokens: mean answer tokens of a sample.
        billed: prompt tokens billed for one request.
    """

    cell: Ints
    example: Ints
    tokens: Floats
    billed: Floats


@dataclass(frozen=True, kw_only=True)
class Bill:
    """Mean cost of one request over new examples, USD, is ``base`` + n * ``each``; all attributes (C,).

    Attributes:
        known: whether the cell's arm was heard.
        prompt, output, joint: of that mean, the variance of the prompt's part, of one sample's part, and their
            covariance: what follows from how examples differ, USD².
        vague: standard error of the prompt's part while an arm's way of counting is not known.
        doubt: standard error of one sample's part from few readings; ``hope`` the same once every example is read.
    """

    base: Floats
    each: Floats
    known: Bools
    prompt: Floats
    output: Floats
    joint: Floats
    vague: Floats
    doubt: Floats
    hope: Floats

    def mean(self, n: Floats) -> Floats:
        """Expected USD per request, (C, N); ``n`` (1, N) or (C, 1)."""
        return np.asarray(self.base[:, None] + n * self.each[:, None])

    def error(self, n: Floats) -> Floats:
        """Standard error of that mean, USD, (C, N): √(prompt + 2n joint + n² output + vague² + (n doubt)²)."""
        return np.sqrt(self._examples(n) + self.vague[:, None] ** 2 + (n * self.doubt[:, None]) ** 2)

    def floor(self, n: Floats) -> Floats:
        """What the error falls to once every example is read, USD, (C, N)."""
        return np.sqrt(self._examples(n) + (n * self.hope[:, None]) ** 2)

    def _examples(self, n: Floats) -> Floats:
        return np.asarray(self.prompt[:, None] + 2 * n * self.joint[:, None] + n**2 * self.output[:, None])


@dataclass(frozen=True, kw_only=True)
class _Heard:
    """One arm, in tokens.

    Attributes:
        ratio: billed per counted prompt token; ``blur`` its standard error.
        alike: correlation of prompt and answer lengths.
        spread: variance of answers over examples, tokens².
        each, doubt, hope: (cells of the arm,) as in `Bill`, before prices.
    """

    ratio: float
    blur: float
    alike: float
    spread: float
    each: Floats
    doubt: Floats
    hope: Floats


class Costs:
    """Makes bills from replies. Arms without new replies are not computed again.

    Args:
        grid: C cells.
        counted: (C, P) prompt tokens of each example as they can be counted without a call.
        rates: of the cells.
        share: variance of a mean over the requests to come, in units of the variance over examples / P. 1: unlimited
            new requests like the examples, the right value in use. .5 broke the budget in 1.25 % of simulated searches.
    """

    def __init__(self, grid: Grid, counted: Floats, rates: Rates, *, share: float = 1.0) -> None:
        self._grid, self._counted, self._rates, self._share = grid, counted, rates, share
        still, slope = LENGTHS.over(grid, np.zeros(len(grid.cells)))
        self._belief = Belief(still=still, slope=slope, centre=np.ones(len(still)), kin=None, noise=SPREAD)
        self._known: dict[int, tuple[tuple[int, float], _Heard]] = {}

    def bill(self, replies: Replies) -> Bill:
        """Costs as known from these replies."""
        cells, examples = self._counted.shape
        ratio, blur, alike = np.ones(cells), np.full(cells, UNSEEN_BLUR), np.full(cells, ALIKE)
        each = np.full(cells, UNSEEN_TOKENS)
        doubt, hope, spread = UNSEEN_DOUBT * each, UNSEEN_HOPE * each, (SPREAD.shared * each) ** 2
        known = np.zeros(cells, bool)
        arm = self._grid.arm[replies.cell]
        for a in np.unique(arm):
            mine, ids = arm == a, np.nonzero(self._grid.arm == a)[0]
            heard = self._heard(int(a), mine, ids, replies)
            ratio[ids], blur[ids], alike[ids], spread[ids] = heard.ratio, heard.blur, heard.alike, heard.spread
            each[ids], doubt[ids], hope[ids] = heard.each, heard.doubt, heard.hope
            known[ids] = True
        prompts = ratio[:, None] * self._counted * self._rates.prompt[:, None]
        rate, part = self._rates.answer, self._share / examples
        vary = prompts.var(axis=1)
        return Bill(
            base=prompts.mean(axis=1) + self._rates.request,
            each=each * rate,
            known=known,
            prompt=vary * part,
            output=spread * rate**2 * part,
            joint=alike * np.sqrt(vary * spread) * rate * part,
            vague=blur * prompts.mean(axis=1),
            doubt=doubt * rate,
            hope=hope * rate,
        )

    def _heard(self, arm: int, mine: Bools, ids: Ints, replies: Replies) -> _Heard:
        mark = (int(mine.sum()), float(replies.tokens[mine].sum()))
        before = self._known.get(arm)
        if before is None or before[0] != mark:
            before = mark, self._learn(mine, ids, replies)
            self._known[arm] = before
        return before[1]

    def _learn(self, mine: Bools, ids: Ints, replies: Replies) -> _Heard:
        cell, example, tokens = replies.cell[mine], replies.example[mine], replies.tokens[mine]
        examples = self._counted.shape[1]
        said = self._counted[cell, example]
        ratio = max(float(replies.billed[mine].sum()), 1.0) / max(float(said.sum()), 1.0)
        heard = np.unique(example)
        off = replies.billed[mine] / np.maximum(said, 1.0) / ratio - 1.0
        blur = float(np.sqrt(((off**2).sum() + RATIO_VARIANCE) / len(off) / len(heard)))
        scale = max(float(tokens.mean()), 1.0)
        seen = Readings(cell=cell, n=np.ones_like(cell), example=example, score=tokens / scale)
        fit = surface.fit(self._grid, self._belief, seen, examples, ids, np.ones(len(ids), np.int64))
        spread = fit.noise.shared**2
        # A mean over the examples read stands for one over all: what the others may change is added.
        doubt = np.maximum(np.diag(fit.cover), 0.0) + spread * (1 / len(heard) - 1 / examples)
        hope = np.minimum(doubt, fit.noise.single**2 / examples)
        effect = np.bincount(example, tokens, examples)[heard] / np.bincount(example, minlength=examples)[heard]
        return _Heard(
            ratio=ratio,
            blur=blur,
            alike=_correlation(effect, self._counted[ids[0]][heard]),
            spread=spread * scale**2,
            each=np.maximum(fit.mean, LEAST_MEAN) * scale,
            doubt=scale * np.sqrt(doubt),
            hope=scale * np.sqrt(hope),
        )


def _correlation(answers: Floats, prompts: Floats) -> float:
    """Of lengths over the examples heard, shrunk to `ALIKE`, and never negative: that would be trusting a saving."""
    count = len(answers)
    if count <= 2 or answers.std() == 0 or prompts.std() == 0:
        return ALIKE
    weight = count / (count + ALIKE_WEIGHT)
    return weight * max(float(np.corrcoef(answers, prompts)[0, 1]), 0.0) + (1 - weight) * ALIKE
