"""What a method has found, in the same words for all methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from policies import Aggregation
from selfreg_sdk.tuner.cascade.config import CascadeCandidate
from selfreg_sdk.tuner.scoring.metrics import Metric
from selfreg_sdk.tuner.search.search import Mode
from selfreg_sdk.tuner.search.trials import Ending, Trial
from selfreg_sdk.tuner.study.results import Candidate


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The end of a search; attributes as of `Tuned`, but ``spent``.

    Attributes:
        cascade: worth a check beside the winner, where the task looks for one.
        spent: USD for what was asked, the same for every worker; None where that is not known of everything.
    """

    winner: Candidate | None
    per_model: Mapping[str, Candidate]
    frontier: tuple[Candidate, ...]
    ending: Ending
    configurations: int
    spent: Decimal | None
    cascade: CascadeCandidate | None = None
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SoFar:
    """How far a search is; attributes as of `Progress`."""

    spent: Decimal
    requests: int
    samples: int
    configurations: int
    best: Candidate | None


class Tell(Protocol):
    """Is told how far a search is; whether it wants to know the best is asked first, as that takes a fit."""

    @property
    def curious(self) -> bool:
        """Whether it is time to tell the best configuration so far."""
        ...

    def __call__(self, so_far: SoFar) -> None:
        """Tell it."""
        ...


def aggregation_of(metric: Metric, n: int) -> str:
    """How n samples become one answer; of one sample it is the first, whatever the metric."""
    return str(Aggregation(kind=metric.aggregation, n=n)) if n > 1 else str(Aggregation())


def pareto(candidates: Iterable[Candidate], mode: Mode) -> tuple[Candidate, ...]:
    """Those of which none is better and cheaper than another, the cheapest first."""
    sign = 1.0 if mode == "max" else -1.0
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda one: (one.cost, -sign * one.score)):
        if not found or sign * candidate.score > sign * found[-1].score:
            found.append(candidate)
    return tuple(found)
