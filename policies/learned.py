"""Leave temperature and top-p to the server's heads (AutoDeco, arXiv 2510.26697)."""

from __future__ import annotations

from dataclasses import dataclass

from policies.base import FactName, Facts, HeadBounds, Proposal
from policies.params import DecodingParams


@dataclass(frozen=True, kw_only=True)
class LearnedPolicy:
    """Proposes no numbers but bounds, when the server has heads; silent otherwise.

    Attributes:
        bounds: inside which the heads may choose.
    """

    bounds: HeadBounds = HeadBounds()

    def missing(self, facts: Facts) -> FactName | None:
        """Needs to know whether the server has heads."""
        return None if "server_heads" in facts.known else "server_heads"

    def propose(self, facts: Facts) -> Proposal | None:
        """Bounds for the heads, and the task's number of samples."""
        if not facts.server_heads:
            return None
        n = facts.task.aggregation.n
        return Proposal(params=DecodingParams(n=n if n > 1 else None), source="heads", heads=self.bounds)
