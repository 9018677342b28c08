"""Always the same parameters."""

from __future__ import annotations

from dataclasses import dataclass

from policies.base import FactName, Facts, Proposal, Source
from policies.params import DecodingParams


@dataclass(frozen=True, kw_only=True)
class StaticPolicy:
    """Proposes fixed parameters; the end of every chain, and the baseline of every comparison.

    Attributes:
        params: what to propose.
        source: "static" when somebody chose the parameters, "default" when nobody did.
    """

    params: DecodingParams = DecodingParams()
    source: Source = "static"

    def missing(self, facts: Facts) -> FactName | None:
        """Needs nothing."""
        return None

    def propose(self, facts: Facts) -> Proposal | None:
        """The fixed parameters, with the task's number of samples where none is set."""
        n = facts.task.aggregation.n
        params = self.params if self.params.n is not None or n == 1 else self.params.replace(n=n)
        return Proposal(params=params, source=self.source)
