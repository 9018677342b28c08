"""Per-row sampling: logits and one decoding setting per row in, one token per row out.

Every row brings its own settings and its own random numbers, and all rows take the same arithmetic path, so
a row's token never depends on its neighbours: the same seed gives the same text alone and in a crowd.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # int64 shifts are arithmetic; the mask makes them logical.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix(x: Tensor) -> Tensor:
    """The splitmix64 output function (Steele, Lea and Flood 2014) on int64 bit patterns."""
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def row_uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """One number in [0, 1) per row, a pure function of (seed, position).

    Args:
        seeds: int64 [B], any value.
        positions: int64 [B], index of the token being drawn in its row.

    Returns:
        float32 [B] with 24 random bits, on the device of `seeds`.
    """
    mixed = _splitmix(_splitmix(seeds) ^ (positions * _GOLDEN))
    return _shift_right(mixed, 40).to(torch.float32) * 2.0**-24


def sample_tokens(
    logits: Tensor,
    *,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
    uniforms: Tensor,
) -> Tensor:
    """Draw one token per row from its tempered, truncated distribution.

    Truncation follows Hugging Face's order (temperature, then top_k, top_p, min_p): top_p keeps the smallest
    prefix of the sorted tokens whose mass reaches it, always at least one token; min_p keeps what has at
    least that share of the likeliest token's probability. The draw is the inverse CDF of the sorted rest.

    Args:
        logits: [B, V]; -inf bans a token.
        temperature: [B], >= 0; 0 takes the argmax and ignores the rest.
        top_p: [B] in (0, 1]; 1 is off.
        top_k: int64 [B]; 0 is off.
        min_p: [B] in [0, 1]; 0 is off.
        uniforms: [B] in [0, 1), from `row_uniforms`.

    Returns:
        int64 [B].
    """
    logits = logits.float()
    greedy = logits.argmax(dim=-1)
    if not bool((temperature > 0).any()):
        return greedy
    heat = torch.where(temperature > 0, temperature, 1.0).float().unsqueeze(1)
    # Shifting before dividing keeps tiny temperatures finite at the top.
    ordered, tokens = (logits - logits.amax(dim=-1, keepdim=True)).div(heat).sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    within_k = (top_k.unsqueeze(1) <= 0) | (rank < top_k.unsqueeze(1))
    weight = torch.softmax(ordered.masked_fill(~within_k, -torch.inf), dim=-1)
    before = weight.cumsum(dim=-1) - weight
    keep = (before < top_p.unsqueeze(1)) | (top_p.unsqueeze(1) >= 1)
    keep &= weight >= min_p.unsqueeze(1) * weight[:, :1]
    keep[:, 0] = True
    cdf = (weight * keep).cumsum(dim=-1)
    drawn = torch.searchsorted(cdf, uniforms.float().unsqueeze(1) * cdf[:, -1:], right=True)
    # Rounding may push a draw past the last kept token; the kept ones are a prefix of the positive ones.
    last = ((weight > 0) & keep).sum(dim=-1, keepdim=True) - 1
    sampled = tokens.gather(1, drawn.minimum(last)).squeeze(1)
    return torch.where(temperature > 0, sampled, greedy)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Repetition penalty as in Hugging Face (CTRL, arXiv 1909.05858).

    Args:
        logits: [B, V].
        seen: bool [B, V], true where the token is in the prompt or in the text so far.
        penalty: [B], > 0; 1 is off, larger discourages.

    Returns:
        [B, V]; of the seen tokens, positive logits divided by the penalty and negative ones multiplied.
    """
    factor = penalty.unsqueeze(1)
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def penalise_presence_frequency(logits: Tensor, counts: Tensor, presence: Tensor, frequency: Tensor) -> Tensor:
    """Presence and frequency penalties as OpenAI defines them.

    Args:
        logits: [B, V].
        counts: int [B, V], how often each token occurs in the text so far, without the prompt.
        presence: [B], subtracted once from every token that occurred.
        frequency: [B], subtracted once per occurrence.

    Returns:
        [B, V].
    """
    return logits - presence.unsqueeze(1) * (counts > 0) - frequency.unsqueeze(1) * counts
