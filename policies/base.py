"""What a policy is: a pure decision over facts that somebody else fetched.

A policy says which fact it misses, one at a time, and then proposes. It never waits, calls, reads a clock or a store, so the
same policy serves sync and async callers, and a fact that costs money (a plan) is only fetched when it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from policies.params import DecodingParams, Interval
from policies.plan import Plan
from policies.task import TaskKey

FactName = Literal["tuned_config", "plan", "server_heads"]
Source = Literal["caller", "static", "plan", "cached plan", "tuned", "heads", "default"]


@dataclass(frozen=True, kw_only=True)
class PlanFact:
    """A plan, and whether it had to be paid for now.

    Attributes:
        plan: the words.
        cached: read from the store, no planning call was made for this request.
        config_version: the stored version that holds it.
    """

    plan: Plan
    cached: bool
    config_version: int | None = None


@dataclass(frozen=True, kw_only=True)
class TunedFact:
    """A configuration measured for the task.

    Attributes:
        params: its numbers.
        config_version: the stored version that holds it.
        notes: what else it takes to run it as it was measured; no business of a policy.
    """

    params: DecodingParams
    config_version: int
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a request; ``known`` tells absent facts from facts nobody has looked for.

    Attributes:
        task: the request's task key.
        known: names of the facts that were looked for.
        plan, tuned_config: the facts, None if looked for and not there.
        server_heads: the server predicts temperature and top-p per token (arXiv 2510.26697).
    """

    task: TaskKey
    known: frozenset[FactName] = frozenset()
    plan: PlanFact | None = None
    tuned_config: TunedFact | None = None
    server_heads: bool = False

    def learn(self, name: FactName, value: Any) -> Facts:
        """The same facts and one more."""
        return replace(self, known=self.known | {name}, **{name: value})


@dataclass(frozen=True, kw_only=True)
class HeadBounds:
    """Limits inside which a server's heads may choose per token."""

    temperature: Interval | None = None
    top_p: Interval | None = None

    def as_dict(self) -> dict[str, dict[str, float]]:
        """The bounds as the ``selfreg`` request extension spells them."""
        bounds = {"temperature": self.temperature, "top_p": self.top_p}
        return {name: {"min": limit.low, "max": limit.high} for name, limit in bounds.items() if limit is not None}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a policy wants, and where it has it from.

    Attributes:
        params: wanted numbers.
        source: which kind of decision this is.
        plan: the words behind the numbers, if there are any.
        config_version: the stored configuration behind it, if there is one.
        heads: set when the server's heads shall decide temperature and top-p.
        notes: anything else worth keeping with the answer.
    """

    params: DecodingParams
    source: Source
    plan: Plan | None = None
    config_version: int | None = None
    heads: HeadBounds | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Policy(Protocol):
    """Decides the decoding parameters of one request from facts; pure, synchronous, never raises on facts."""

    def missing(self, facts: Facts) -> FactName | None:
        """The next fact to fetch before `propose` can answer, or None."""
        ...

    def propose(self, facts: Facts) -> Proposal | None:
        """What this policy wants, or None to leave the decision to the next policy."""
        ...
