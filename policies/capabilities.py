"""What a model accepts, in which combinations.

Three sources, the later one wins: the profile LangChain ships for the model (data of models.dev), a short rule table for
what no profile holds (`policies.model_rules`), and what was learned from the provider's own rejections.
An unknown model of a known provider is assumed to take nothing but ``max_tokens``; an unknown model behind a custom
OpenAI-compatible URL is assumed to take what that protocol names, because there a rejection is visible and learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from policies.params import EFFORTS, Effort, Interval

Support = Literal["accepted", "rejected", "ignored"]

CHAT_COMPLETIONS: frozenset[str] = frozenset(
    {"temperature", "top_p", "max_tokens", "n", "stop", "seed", "presence_penalty", "frequency_penalty"}
)
"""What the OpenAI chat completions protocol names for non-reasoning models."""

OPEN_WEIGHTS: frozenset[str] = CHAT_COMPLETIONS | {"top_k", "min_p", "repetition_penalty"}
"""What servers of open-weight models (vLLM, Ollama, llama.cpp, SGLang, ours) take on the same protocol."""

NOTHING: frozenset[str] = frozenset({"max_tokens"})
"""What may be assumed of a model nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one model on one endpoint accepts.

    Attributes:
        model: the model they describe.
        accepted: fields that are taken and act.
        ignored: fields that are taken without an error and do nothing, so sending them would be a lie.
        ranges: narrower intervals than `DecodingParams` allows.
        exclusive: groups of which at most one field may be sent.
        efforts: reasoning efforts the model knows; empty if it has no such setting.
        default_effort: effort that applies when none is sent; None if unknown or not applicable.
        sampling_needs_effort_none: sampling fields are taken only while the effort is "none".
        n_needs_temperature: with n > 1 temperatures below this are refused; None if there is no such rule.
        structured_output: the model takes a JSON schema as response format.
        max_output_tokens: largest answer the model gives; None if unknown.
        token_cap_field: name of the token cap on the wire.
        sources: where the facts come from, in the order they were applied.
    """

    model: str
    accepted: frozenset[str] = NOTHING
    ignored: frozenset[str] = frozenset()
    ranges: Mapping[str, Interval] = field(default_factory=dict)
    exclusive: tuple[tuple[str, ...], ...] = ()
    efforts: tuple[Effort, ...] = ()
    default_effort: Effort | None = None
    sampling_needs_effort_none: bool = False
    n_needs_temperature: float | None = None
    structured_output: bool = False
    max_output_tokens: int | None = None
    token_cap_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    sources: tuple[str, ...] = ()

    def support(self, name: str) -> Support:
        """Whether a field is accepted, rejected or silently ignored."""
        if name in self.accepted:
            return "accepted"
        return "ignored" if name in self.ignored else "rejected"

    @property
    def reasons(self) -> bool:
        """Whether the model may spend hidden reasoning tokens on a request that says nothing about effort."""
        return bool(self.efforts) and self.default_effort != "none"

    def without(self, *names: str, source: str) -> Capabilities:
        """The same with ``names`` no longer accepted, and why."""
        lost = frozenset(names)
        return replace(
            self,
            accepted=self.accepted - lost,
            efforts=() if "reasoning_effort" in lost else self.efforts,
            sources=(*self.sources, source),
        )


def from_profile(base: Capabilities, profile: Mapping[str, Any]) -> Capabilities:
    """Apply a LangChain `ModelProfile`.

    Only what the profile states is applied: ``temperature: False`` takes temperature, top_p and top_k away, a missing
    key changes nothing.
    """
    accepted = set(base.accepted)
    match profile.get("temperature"):
        case True:
            accepted |= {"temperature", "top_p"}
        case False:
            accepted -= {"temperature", "top_p", "top_k", "min_p"}
    efforts = tuple(level for level in get_args(Effort) if level in (profile.get("reasoning_effort_levels") or ()))
    if efforts:
        accepted.add("reasoning_effort")
    default = profile.get("reasoning_effort_default")
    limit = profile.get("max_output_tokens")
    return replace(
        base,
        accepted=frozenset(accepted),
        efforts=efforts or base.efforts,
        default_effort=default if default in EFFORTS else base.default_effort,
        structured_output=bool(profile.get("structured_output", base.structured_output)),
        max_output_tokens=limit if isinstance(limit, int) and limit > 0 else base.max_output_tokens,
        sources=(*base.sources, "profile"),
    )
