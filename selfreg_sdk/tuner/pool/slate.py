"""The configurations that keep a budget, each with what is expected of it, and why one of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfreg_sdk.tuner.pool import choose
from selfreg_sdk.tuner.pool.choose import Caution
from selfreg_sdk.tuner.pool.grid import Bools, Floats, Ints
from selfreg_sdk.tuner.pool.spend import Bill
from selfreg_sdk.tuner.pool.task import PoolTask, Winner


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Who may stand on a slate, parallel arrays (A,): cell, n and view, its cost, and the probability of its budget."""

    cell: Ints
    n: Ints
    view: Ints
    cost: Floats
    cost_error: Floats
    keep: Floats


@dataclass(frozen=True, kw_only=True)
class Slate:
    """Entries with their scores.

    Attributes:
        entries: A of them, those of the first view first.
        mean, error: expected score and its standard deviation, (A,), in units of the metric's range, 1 best.
        value: what they are compared by, (A,): score, less doubt of a view, times `Entries.keep` to the power weight.
    """

    entries: Entries
    mean: Floats
    error: Floats
    value: Floats

    @property
    def best(self) -> int | None:
        """The entry to use, the first of equals; None of none."""
        return int(self.value.argmax()) if len(self.value) else None

    def among(self, cells: Bools) -> Slate:
        """The entries of some cells, (C,); what is expected of them stays as it was."""
        at = np.nonzero(cells[self.entries.cell])[0]
        entries = Entries(**{name: column[at] for name, column in vars(self.entries).items()})
        parts = {name: getattr(self, name)[at] for name in ("mean", "error", "value")}
        return replace(self, entries=entries, **parts)

    def winner(self, at: int, task: PoolTask) -> Winner:
        """An entry in the metric's unit."""
        entries = self.entries
        return Winner(
            cell=int(entries.cell[at]),
            n=int(entries.n[at]),
            score=task.score(float(self.mean[at])),
            error=float(self.error[at]) * (task.high - task.low),
            cost=float(entries.cost[at]),
            cost_error=float(entries.cost_error[at]),
            keep=float(entries.keep[at]),
            view=int(entries.view[at]),
        )

    def shortlist(self, count: int) -> Ints:
        """The first ``count`` entries by value; of each (cell, view) its best n, as others differ little from it."""
        order: dict[tuple[int, int], int] = {}
        for at in np.argsort(-self.value, kind="stable"):
            order.setdefault((int(self.entries.cell[at]), int(self.entries.view[at])), int(at))
        return np.array(list(order.values())[:count], np.int64)


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a configuration stands where it stands.

    Attributes:
        rank: 1 is the one to use.
        winner: it, and what is expected of it.
        margin: score above the next of the ranking, in the metric's unit; more is better in either mode. None of the last.
        ahead: probability that it is better than the next; None of the last.
    """

    rank: int
    winner: Winner
    margin: float | None
    ahead: float | None


def entries(
    bills: Sequence[Bill], offered: Bools, budget: float, top: int, caution: Caution, sizes: Sequence[int] = ()
) -> Entries:
    """All that are known to fit a budget.

    Args:
        bills: one for each view.
        offered: (V, C) whether a cell may be used with a view.
        budget: USD a request may cost on average.
        top: the largest n.
        sizes: the n that may be used; empty is all.
    """
    parts = []
    for view, (bill, may) in enumerate(zip(bills, offered, strict=True)):
        keep = np.where(may[:, None], choose.kept(bill, budget, top, caution, sizes), 0.0)
        cell, n = choose.offers(keep, caution)
        cost = bill.base[cell] + n * bill.each[cell]
        error = bill.error(np.arange(1, top + 1, dtype=float)[None, :])[cell, n - 1]
        parts.append((cell, n, np.full(len(cell), view), cost, error, keep[cell, n - 1]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Entries(**dict(zip(("cell", "n", "view", "cost", "cost_error", "keep"), columns, strict=True)))


def slate(rows: Entries, mean: Floats, error: Floats, added: tuple[Floats, Floats, Floats], caution: Caution) -> Slate:
    """Entries with their scores.

    Args:
        mean, error: of each entry as its samples are drawn, (A,).
        added: by its view, (A,) each: mean, error, and what it is compared by.
    """
    gain, doubt, worth = added
    return Slate(
        entries=rows,
        mean=mean + gain,
        error=np.hypot(error, doubt),
        value=choose.value(mean + worth, rows.keep, caution),
    )


def explain(found: Slate, order: Ints, cover: Floats, doubt: Floats, task: PoolTask) -> tuple[Reason, ...]:
    """Why entries stand where they stand.

    Args:
        order: the entries, the best first, (K,).
        cover: covariance of their scores as their samples are drawn, (K, K).
        doubt: standard error of what their views add, (K,).
    """
    unit = task.high - task.low
    reasons = []
    for rank, at in enumerate(order):
        margin = ahead = None
        if rank + 1 < len(order):
            then = order[rank + 1]
            lead = float(found.mean[at] - found.mean[then])
            variance = cover[rank, rank] + cover[rank + 1, rank + 1] - 2 * cover[rank, rank + 1]
            if found.entries.view[at] != found.entries.view[then]:
                variance += doubt[rank] ** 2 + doubt[rank + 1] ** 2
            margin = lead * unit
            ahead = 0.5 * (1 + math.erf(lead / math.sqrt(max(2 * float(variance), 1e-18))))
        reasons.append(Reason(rank=rank + 1, winner=found.winner(int(at), task), margin=margin, ahead=ahead))
    return tuple(reasons)
