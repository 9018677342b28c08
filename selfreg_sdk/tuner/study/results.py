"""What a tuning says on its way and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from selfreg_sdk.tuner.measuring.compare import Comparison
from selfreg_sdk.tuner.measuring.measured import Measured
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.trials import Ending, Trial
from selfreg_sdk.tuner.study.cascade_check import CheckedCascade
from selfreg_sdk.tuner.task.spec import Method

Phase = Literal["search", "check", "done"]
Advice = Literal["use the winner", "keep the baseline", "nothing fits"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration with what is expected of it on new examples.

    Attributes:
        config: it, with "model", "prompt" and "n".
        aggregation: how its samples become one answer, like "vote of 5".
        score: in the metric's unit; ``low`` and ``high`` hold the truth 95 times in 100, as far as the model of the
            search is right; None where a method tells none.
        cost: mean USD of a request, likewise.
        keep: probability that the mean cost keeps the budget of a request; None where a method tells none.
        seconds: median of a request; None if nobody measured it.
        examples: on how many it was tried; 0 where what is known of similar ones stands for it.
        budget: USD per request for which it is the one to use; None where a method tells none.
    """

    config: Point
    aggregation: str
    score: float
    low: float | None
    high: float | None
    cost: float
    cost_low: float | None
    cost_high: float | None
    keep: float | None
    seconds: float | None
    examples: int
    budget: float | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a tuning is.

    Attributes:
        spent: USD that this study paid so far, by this worker's knowledge; ``total`` is its cap.
        requests: sent or found in the journal.
        samples: of answers.
        configurations: scored so far: cells and numbers of samples, or trials.
        best: the configuration that would be returned now.
        seconds: since the start of this call.
    """

    phase: Phase
    spent: Decimal
    total: Decimal
    requests: int
    samples: int
    configurations: int
    best: Candidate | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The end of a tuning.

    Attributes:
        study: its name, under which it is resumed.
        verdict: what to do; ``reason`` why, in sentences for people.
        winner: the best configuration that the search found; None where nothing is known to fit the budget.
        measured, baseline: winner and baseline on the held-out examples; None where there are none, or no winner.
        checked: one against the other.
        frontier: configurations of which none is better and cheaper than another, the cheapest first.
        per_model: the best configuration of each model that has one.
        versions: model to the id of its version in the store; empty if nothing was saved.
        spent: USD in all, by all workers, held-out examples and scoring included.
        total: the cap.
        ending: why the search ended.
        configurations: how many were scored.
        trials: of method "ecooptigen", in order.
        notes: what else to know.
        cascade: one that was tried on the held-out examples, too. If it is used, the verdict is about it.
    """

    study: str
    task: str
    method: Method
    verdict: Advice
    reason: str
    winner: Candidate | None
    measured: Measured | None
    baseline: Measured | None
    checked: Comparison | None
    frontier: tuple[Candidate, ...]
    per_model: Mapping[str, Candidate]
    versions: Mapping[str, int]
    spent: Decimal
    total: Decimal
    ending: Ending
    configurations: int
    trials: tuple[Trial, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    cascade: CheckedCascade | None = None


@dataclass(frozen=True, kw_only=True)
class Quote:
    """What a tuning would do; nothing was sent.

    Attributes:
        configurations: how many there are to choose from; None for infinitely many.
        first: model to the USD that one request of it can cost at most, with the most samples on the longest prompt.
        worst: USD that everything can cost at most: the cap.
        aside: of that, kept for the check on held-out examples.
        examples, holdout: how many are searched on, and how many the winner and the baseline are checked on.
        baseline: the configuration to beat.
        notes: what else to know.
    """

    study: str
    task: str
    method: Method
    configurations: int | None
    first: Mapping[str, Decimal]
    worst: Decimal
    aside: Decimal
    inference_budget: Decimal | None
    examples: int
    holdout: int
    baseline: Point
    notes: tuple[str, ...] = ()
