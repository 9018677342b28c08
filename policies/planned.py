"""HAG's idea for models one cannot train: a plan in words, made before the answer, turned into numbers."""

from __future__ import annotations

from dataclasses import dataclass

from policies.base import FactName, Facts, Proposal
from policies.numbers import numbers


@dataclass(frozen=True, kw_only=True)
class PlannedPolicy:
    """Proposes what the plan's words mean in the table; silent when there is no plan."""

    def missing(self, facts: Facts) -> FactName | None:
        """Needs the plan."""
        return None if "plan" in facts.known else "plan"

    def propose(self, facts: Facts) -> Proposal | None:
        """The plan in numbers."""
        fact = facts.plan
        if fact is None:
            return None
        return Proposal(
            params=numbers(fact.plan, facts.task.aggregation),
            source="cached plan" if fact.cached else "plan",
            plan=fact.plan,
            config_version=fact.config_version,
        )
