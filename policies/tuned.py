"""A configuration that was measured for this task (EcoOptiGen, arXiv 2303.04673)."""

from __future__ import annotations

from dataclasses import dataclass

from policies.base import FactName, Facts, Proposal


@dataclass(frozen=True, kw_only=True)
class TunedPolicy:
    """Proposes the stored configuration of the task; silent when nothing was tuned."""

    def missing(self, facts: Facts) -> FactName | None:
        """Needs the tuned configuration."""
        return None if "tuned_config" in facts.known else "tuned_config"

    def propose(self, facts: Facts) -> Proposal | None:
        """The stored parameters as they were measured."""
        fact = facts.tuned_config
        if fact is None:
            return None
        return Proposal(params=fact.params, source="tuned", config_version=fact.config_version, notes=fact.notes)
