"""The first policy that has something to say decides."""

from __future__ import annotations

from dataclasses import dataclass

from policies.base import FactName, Facts, Policy, Proposal
from policies.params import DecodingParams
from policies.planned import PlannedPolicy
from policies.static import StaticPolicy
from policies.tuned import TunedPolicy


@dataclass(frozen=True)
class ChainPolicy:
    """Asks its policies in order; facts a later policy needs are not fetched once an earlier one decides.

    Attributes:
        policies: in order of preference.
    """

    policies: tuple[Policy, ...]

    def missing(self, facts: Facts) -> FactName | None:
        """The fact the first undecided policy misses."""
        for policy in self.policies:
            if name := policy.missing(facts):
                return name
            if policy.propose(facts) is not None:
                return None
        return None

    def propose(self, facts: Facts) -> Proposal | None:
        """The first proposal."""
        return next((proposal for policy in self.policies if (proposal := policy.propose(facts)) is not None), None)


def default_chain(defaults: DecodingParams) -> ChainPolicy:
    """What was measured for the task, else a plan, else the defaults."""
    return ChainPolicy((TunedPolicy(), PlannedPolicy(), StaticPolicy(params=defaults, source="default")))
