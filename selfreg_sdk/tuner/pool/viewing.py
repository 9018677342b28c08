"""A pool through its views: what each of them would be billed, and what it does to the score."""

from __future__ import annotations

from typing import Any

import numpy as np

from selfreg_sdk.tuner.pool import view_effects
from selfreg_sdk.tuner.pool.grid import Bools, Floats, Ints
from selfreg_sdk.tuner.pool.spend import Bill, Costs, Replies
from selfreg_sdk.tuner.pool.task import Pool, PoolTask
from selfreg_sdk.tuner.pool.view_effects import Effects, Pairs, Prejudice
from selfreg_sdk.tuner.pool.views import Seen, View


class Viewing:
    """Reads a pool. Without ``seen`` there is one view, how samples are drawn, and nothing else is computed.

    Args:
        share: of `Costs`.
    """

    def __init__(self, task: PoolTask, pool: Pool, seen: Seen | None, *, share: float, prejudice: Prejudice) -> None:
        self._task, self._pool, self._seen, self._prejudice = task, pool, seen, prejudice
        self.views: tuple[View, ...] = (View(),) if seen is None else seen.views
        self._costs = [Costs(task.grid, task.counted, task.rates, share=share) for _ in self.views]
        self._arms = int(task.grid.arm.max()) + 1
        self._before: tuple[tuple[Any, ...], Effects] = (), view_effects.none(self._arms)

    def bills(self) -> tuple[Bill, ...]:
        """Costs as known now, one for each view."""
        cell, example = np.nonzero(self._pool.taken)
        billed = self._pool.billed[cell, example]

        def bill(view: int, costs: Costs) -> Bill:
            tokens = self.tokens(view)[cell, example]
            return costs.bill(Replies(cell=cell, example=example, tokens=tokens, billed=billed))

        return tuple(bill(view, costs) for view, costs in enumerate(self._costs))

    def effects(self) -> Effects:
        """What each view adds to the score of each arm, from every sample taken."""
        if self._seen is None or len(self.views) == 1:
            return self._before[1]
        mark = int(self._pool.taken.sum()), float(self._pool.tokens.sum())
        if self._before[0] != mark:
            self._before = mark, self._learned(self._seen)
        return self._before[1]

    def least_tokens(self) -> Floats:
        """(C, P) answer tokens through the view that leaves least."""
        return np.asarray(np.min([self.tokens(view) for view in range(len(self.views))], axis=0))

    def tokens(self, view: int) -> Floats:
        """(C, P) mean answer tokens of the samples taken, through a view."""
        if self._seen is None or view == 0:
            return self._pool.tokens
        tokens = self._seen.view_tokens(view)
        return np.where(np.isfinite(tokens), tokens, self._pool.tokens)

    def score(self, view: int, cell: Ints, example: Ints, n: Ints) -> Floats:
        """The metric on the first n samples of each (cell, example), through a view, (R,); NaN where not known."""
        score = np.array(self._pool.score(cell, example, n), float)
        if self._seen is None or view == 0:
            return score
        changed = np.asarray(self._seen.view_changed(view), float)[cell, example]
        cut = np.nonzero(changed > 0)[0]
        if len(cut):
            score[cut] = self._seen.view_score(view, cell[cut], example[cut], n[cut])
        return np.where(np.isfinite(changed), score, np.nan)

    def offered(self, effects: Effects) -> Bools:
        """(V, C) whether a cell may be used with a view."""
        return effects.offered[:, self._task.grid.arm]

    def _learned(self, seen: Seen) -> Effects:
        cell, example = np.nonzero(self._pool.taken)
        n = np.minimum(self._pool.taken[cell, example], self._task.top)
        whole = self._task.units(np.asarray(self._pool.score(cell, example, n), float))
        told = np.isfinite(whole)
        cell, example, n, whole = cell[told], example[told], n[told], whole[told]
        arm = self._task.grid.arm[cell]
        parts = [self._first()]
        for view in range(1, len(self.views)):
            changed = np.asarray(seen.view_changed(view), float)[cell, example]
            gain = self._task.units(self.score(view, cell, example, n)) - whole
            pairs = Pairs(arm=arm, example=example, whole=whole, changed=changed, gain=gain)
            parts.append(view_effects.effect(pairs, self._arms, self._prejudice))
        return view_effects.stacked(parts)

    def _first(self) -> tuple[Floats, Floats, Bools]:
        nothing = np.zeros(self._arms)
        return nothing, nothing, np.full(self._arms, self.views[0].offered)


def likeliest(cells: Ints, value: Floats) -> Ints:
    """Of rows with a cell and a value, the row of each cell with the highest value, the first of equals, by cell."""
    order = np.lexsort((-value, cells))
    _, first = np.unique(cells[order], return_index=True)
    return np.asarray(order[first], np.int64)
