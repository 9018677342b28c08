"""What is known of a model, as LangChain's model profiles say it."""

from __future__ import annotations

from langchain_core.language_models import ModelProfile

from policies import Capabilities

_ASSUMED = frozenset({"protocol", "unknown-model"})
"""Sources that are no knowledge of the model, only what may be tried."""


def profile_of(known: Capabilities) -> ModelProfile | None:
    """The profile; None where the capabilities are only assumed. What nobody knows is left out."""
    if _ASSUMED.issuperset(known.sources):
        return None
    # With a gate, temperature is taken only where reasoning is off by default: a profile has no word for conditions.
    gated = known.sampling_needs_effort_none and known.default_effort != "none"
    profile = ModelProfile(temperature="temperature" in known.accepted and not gated)
    if known.efforts:
        profile |= {"reasoning_output": True, "reasoning_effort_levels": list(known.efforts)}
        if known.default_effort is not None:
            profile["reasoning_effort_default"] = known.default_effort
    if known.structured_output:
        profile["structured_output"] = True
    if known.max_output_tokens is not None:
        profile["max_output_tokens"] = known.max_output_tokens
    return profile
