"""What came of what a searcher proposed, and of a whole search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.search import Mode

Fate = Literal["scored", "over_budget", "pruned", "failed", "unfinished"]
Ending = Literal["budget", "trials", "space", "idle"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one proposal.

    Attributes:
        id: of the proposal.
        point: what was tried.
        fate: scored = within the budget per request and valued; over_budget = measured to be dearer; pruned = known to be
            dearer without a call; failed = a call, a scorer or the configuration itself; unfinished = the total ran out.
        value: the mean over the examples, of scored trials alone.
        mean_cost: USD per request, of scored trials, and of others that saw all examples at full n.
        spent: USD for this trial.
        reason: one phrase for a person, where something went wrong.
    """

    id: int
    point: Point
    fate: Fate
    value: float | None = None
    mean_cost: Decimal | None = None
    spent: Decimal = Decimal(0)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The end of a search.

    Attributes:
        best: the scored trial with the best value, of equals the cheapest, then the earliest; None if no configuration
            was within budget.
        trials: all of them, in order.
        spent: USD in all.
        ending: budget = the total is spent; trials = as many as wanted; space = the searcher has no more; idle = it proposes
            only what is known to be too dear.
    """

    best: Trial | None
    trials: tuple[Trial, ...]
    spent: Decimal
    ending: Ending


def best_trial(trials: Iterable[Trial], mode: Mode) -> Trial | None:
    """The scored trial with the best value, of equals the cheapest, then the earliest; None if there is none."""
    sign = 1.0 if mode == "max" else -1.0
    scored = [
        (sign * trial.value, -(trial.mean_cost or 0), -trial.id, trial) for trial in trials if trial.value is not None
    ]
    return max(scored, key=lambda entry: entry[:3])[3] if scored else None
