"""What a call used, in tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens billed for one attempt, as the provider counted them.

    Attributes:
        prompt_tokens: input tokens, cached ones included.
        completion_tokens: output tokens over all n samples, reasoning included.
        reasoning_tokens: the part of completion_tokens that was hidden reasoning.
        cached_tokens: the part of prompt_tokens read from the provider's prompt cache.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens
