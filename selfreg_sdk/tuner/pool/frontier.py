"""What more money per request buys: the best configurations by score and cost, and the best one for any budget.

All of it is read off the pool of a finished or running search, at no cost: `PoolSearch.best` answers for any budget.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from selfreg_sdk.tuner.pool.grid import Bools, Floats
from selfreg_sdk.tuner.pool.method import PoolSearch
from selfreg_sdk.tuner.pool.task import Winner

Label = TypeVar("Label", bound=Hashable)

MOST = 12
"""Points of a frontier: more are no choice but a list."""
_BUDGETS = 24
"""Budgets asked, evenly spaced on a logarithmic scale."""
_NORMAL = 1.96
"""Standard deviations of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """A configuration and what is expected of it on new examples; intervals are of 95 %.

    Attributes:
        budget: USD per request for which it is the one to use.
        winner: it; its ``keep`` is the probability of keeping this budget.
        low, high: of the expected score, within the metric's range.
        cost_low, cost_high: of the expected mean cost per request, USD.
        seconds: median time of its requests, if known. A view that cuts answers makes them shorter than that.
        certain_cost, certain_score: see `certain`.
        certified: whether the budget is kept for certain, and not only by what the model of the surface believes.
    """

    budget: float
    winner: Winner
    low: float
    high: float
    cost_low: float
    cost_high: float
    seconds: float | None
    certain_cost: float
    certain_score: float
    certified: bool


def frontier(
    search: PoolSearch, *, seconds: Floats | None = None, cells: Bools | None = None, most: int = MOST
) -> tuple[FrontierPoint, ...]:
    """The configurations worth their money, cheapest first: none costs as much as another and scores no better.

    Budgets reach from the cheapest configuration heard to the dearest that was read; what is read of configurations beyond
    the search's own budget is little, and shrunk accordingly.

    Args:
        seconds: (C, P) time of the requests of each cell and example, NaN where there is none; or (C,).
        cells: (C,) which may be chosen; None is all.
        most: of so many points those that raise the score least are left out; the search's own choice never is.
    """
    own = search.best(cells=cells)
    asked = [(search.task.budget, own), *((b, search.best(b, cells=cells)) for b in _budgets(search, cells))]
    found: dict[tuple[int, int, int], tuple[Winner, float]] = {}
    for budget, won in asked:
        if won is not None:
            key = won.cell, won.n, won.view
            found.setdefault(key, (won, budget))
    kept = _undominated(search, list(found.values()), own)
    while len(kept) > max(most, 1):
        scores = [_units(search, won) for won, _ in kept]
        gains = np.diff(scores, prepend=-1.0)
        del kept[next(int(at) for at in np.argsort(gains) if not _same(kept[at][0], own))]
    return tuple(_point(search, won, budget, seconds) for won, budget in kept)


def at(
    search: PoolSearch, budget: float, *, seconds: Floats | None = None, cells: Bools | None = None
) -> FrontierPoint | None:
    """The configuration to use where a request may cost ``budget`` USD on average; None where none is known to fit."""
    won = search.best(budget, cells=cells)
    return None if won is None else _point(search, won, budget, seconds)


def by_label(
    search: PoolSearch, labels: Sequence[Label], *, budget: float | None = None, seconds: Floats | None = None
) -> dict[Label, FrontierPoint | None]:
    """The best configuration within a budget of the cells of each label, for example of each model.

    Args:
        labels: one for each cell.
        budget: USD per request; None is the search's.
    """
    asked = search.task.budget if budget is None else budget
    slate, found = search.slate(asked), {}
    for label in dict.fromkeys(labels):
        mine = slate.among(np.array([own == label for own in labels]))
        best = mine.best
        found[label] = None if best is None else _point(search, mine.winner(best, search.task), asked, seconds)
    return found


def _undominated(
    search: PoolSearch, found: list[tuple[Winner, float]], own: Winner | None
) -> list[tuple[Winner, float]]:
    """Those that score better than all that cost no more; never against the search's own choice."""
    mine = None if own is None else (own.cost, _units(search, own))
    kept: list[tuple[Winner, float]] = []
    best = -np.inf
    for won, budget in sorted(found, key=lambda pair: (pair[0].cost, -_units(search, pair[0]))):
        score = _units(search, won)
        against = mine is not None and not _same(won, own) and (won.cost <= mine[0]) == (score >= mine[1])
        if score > best and not against:
            kept.append((won, budget))
            best = score
    return kept


def certain(search: PoolSearch, won: Winner) -> tuple[float, float]:
    """What is proven of a configuration: its mean cost at most, in USD, and its mean score at worst.

    Proven like all that `PoolSearch.hopeless` counts, whatever the surface believes; infinite cost, or the end of the
    metric's range, where nothing is. It takes hundreds of examples to come near to what is expected.
    """
    pool, view = search.pool, search.viewing
    read = np.nonzero(pool.taken[won.cell] >= won.n)[0]
    score = np.full(pool.taken.shape[1], np.nan)
    score[read] = view.score(won.view, np.full(len(read), won.cell), read, np.full(len(read), won.n))
    cost, units = search.proofs.certain(won.cell, won.n, view.tokens(won.view)[won.cell], score)
    return cost, search.task.score(max(units, 0.0))


def _budgets(search: PoolSearch, cells: Bools | None) -> Floats:
    """Budgets at which something may be had, from the cheapest configuration heard to the dearest read."""
    bills, caution = search.bills(), search.method.caution
    most = search.pool.taken.max(axis=1)
    heard = (most > 0) if cells is None else (most > 0) & cells
    if not heard.any():
        return np.zeros(0)
    one, top = np.ones((1, 1)), np.minimum(most, search.task.top).astype(float)[:, None]
    least = min(float((bill.mean(one) + 2 * bill.error(one))[heard].min()) for bill in bills)
    dearest = max(float((bill.mean(top) + 2 * bill.error(top))[heard].max()) for bill in bills)
    low, high = least / (1 + caution.slack), dearest
    return np.geomspace(low, high, _BUDGETS) if 0 < low < high else np.array([value for value in (high,) if value > 0])


def _units(search: PoolSearch, won: Winner) -> float:
    return float(search.task.units(np.array(won.score)))


def _same(left: Winner, right: Winner | None) -> bool:
    return right is not None and (left.cell, left.n, left.view) == (right.cell, right.n, right.view)


def _point(search: PoolSearch, won: Winner, budget: float, seconds: Floats | None) -> FrontierPoint:
    task, wide = search.task, _NORMAL * won.error
    certain_cost, certain_score = certain(search, won)
    times = np.atleast_1d(np.asarray(seconds[won.cell], float)) if seconds is not None else np.zeros(0)
    times = times[np.isfinite(times)]
    return FrontierPoint(
        budget=float(budget),
        winner=won,
        low=min(max(won.score - wide, task.low), task.high),
        high=min(max(won.score + wide, task.low), task.high),
        cost_low=max(won.cost - _NORMAL * won.cost_error, 0.0),
        cost_high=won.cost + _NORMAL * won.cost_error,
        seconds=float(np.median(times)) if len(times) else None,
        certain_cost=certain_cost,
        certain_score=certain_score,
        certified=certain_cost <= (1 + search.method.caution.slack) * budget,
    )
