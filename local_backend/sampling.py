"""From logits to a token: the exact nucleus, the draw, the penalties, and random numbers that belong to a row.

Every row brings its own settings and its own random numbers, and no row's arithmetic depends on another's, so the same seed
gives the same text alone and in a crowd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from local_backend.blocks import row_blocks

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_SORTED = 1024
"""Vocabulary up to which sorting all of it is quicker than a histogram; at 32,000 tokens it takes several times as long."""
_BINS = 2048
_SPAN = 32.0
"""Nats below the likeliest token that the bins of a nucleus cover: what lies deeper weighs less than float32 can tell of 1."""


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


def _summing_dtype(x: Tensor) -> torch.dtype:
    """What a mass over a whole vocabulary is summed in; Apple's GPUs know no float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def nucleus_mask(logits: Tensor, top_p: Tensor) -> Tensor:
    """The nucleus of each row: the fewest likeliest tokens whose mass reaches top_p (Holtzman et al. 2020).

    Args:
        logits: [..., V], already divided by the temperature.
        top_p: [...]; at 1 and above every token is kept, and however small it is, the likeliest one is.

    Returns:
        bool [..., V]; of tokens with equal logits those with the smaller ids are kept.
    """
    shape, width = logits.shape, logits.shape[-1]
    logits, top_p = logits.reshape(-1, width).float(), top_p.reshape(-1, 1).float()
    keep = _nucleus_by_sorting(logits, top_p) if width <= _SORTED else _nucleus_by_histogram(logits, top_p)
    return (keep | (top_p >= 1)).reshape(shape)


def _nucleus_by_sorting(logits: Tensor, top_p: Tensor) -> Tensor:
    """The nucleus by its definition: logits [N, V] and top_p [N, 1] to bool [N, V]."""
    descending, tokens = logits.sort(dim=-1, descending=True, stable=True)
    weight = descending.softmax(dim=-1)
    keep = weight.cumsum(dim=-1, dtype=_summing_dtype(weight)) - weight < top_p
    keep[:, 0] = True
    return torch.zeros_like(keep).scatter_(1, tokens, keep)


def _nucleus_by_histogram(logits: Tensor, top_p: Tensor) -> Tensor:
    """The same, and nothing is sorted but the tokens around the border: a histogram of the masses over the logits finds it."""
    # Nats below the likeliest. A row of NaN becomes a flat one: it must not break an index, and its neighbours not at all.
    depth = (logits.amax(dim=-1, keepdim=True) - logits).nan_to_num_(nan=0.0, posinf=torch.inf)  # [N, V]
    weight = (-depth).exp().to(_summing_dtype(depth))
    place = (depth * (_BINS / _SPAN)).clamp_(max=_BINS - 1).long()
    mass = weight.new_zeros(len(depth), _BINS).scatter_add_(1, place, weight)
    reached = mass.cumsum(dim=-1)
    wanted = torch.where(top_p < 1, top_p, 0.0) * reached[:, -1:]
    border = (reached < wanted).sum(dim=-1, keepdim=True).clamp_(max=_BINS - 1)  # [N, 1], the bin of the last token
    inside = place == border
    size = inside.sum(dim=-1, keepdim=True)
    near = depth.masked_fill(~inside, torch.inf).topk(int(size.max()), largest=False).values  # [N, K], ascending
    sums = (reached - mass).gather(1, border) + (-near).exp().cumsum(dim=-1, dtype=weight.dtype)
    count = (1 + (sums < wanted).sum(dim=-1, keepdim=True)).minimum(size)
    deepest = near.gather(1, count - 1)
    keep = depth <= deepest
    room = count - (near < deepest).sum(dim=-1, keepdim=True)  # for tokens exactly as deep as the last
    if bool(((near == deepest).sum(dim=-1, keepdim=True) > room).any()):
        level = depth == deepest
        keep &= ~level | (level.cumsum(dim=-1) <= room)
    return keep


def top_k_mask(logits: Tensor, top_k: Tensor) -> Tensor:
    """The k likeliest tokens of each row, and whatever is exactly as likely as the last of them, as Hugging Face keeps it.

    Args:
        logits: [..., V].
        top_k: int64 [...]; 0 keeps every token.

    Returns:
        bool [..., V].
    """
    width = logits.shape[-1]
    on = (top_k > 0) & (top_k < width)
    count = torch.where(on, top_k, 1).unsqueeze(-1)
    lowest = logits.topk(int(count.max())).values.gather(-1, count - 1)
    return (logits >= lowest) | ~on.unsqueeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats: [..., V] to [...]; banned tokens (-inf) count for nothing."""
    return torch.special.entr(logits.float().softmax(dim=-1)).sum(dim=-1)


def decoding_logits(logits: Tensor, *, temperature: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor) -> Tensor:
    """Logits of the distribution that a token is drawn from: tempered, then truncated.

    Truncation follows Hugging Face's order (temperature, then top_k, top_p, min_p): top_p keeps the smallest
    set of the likeliest tokens whose mass reaches it, always at least one token; min_p keeps what has at
    least that share of the likeliest token's probability.

    Args:
        logits: [B, V]; -inf bans a token.
        temperature: [B], >= 0; at 0 the likeliest token alone is left, whatever the rest says.
        top_p: [B] in [0, 1]; 1 is off.
        top_k: int64 [B]; 0 is off.
        min_p: [B] in [0, 1]; 0 is off.

    Returns:
        float32 [B, V], -inf for what is cut.
    """
    logits = logits.float()
    warm = temperature > 0
    # One question for all, because every answer waits for the device.
    asked = torch.stack([each.any() for each in (~warm, top_k > 0, top_p < 1, min_p > 0)])
    any_greedy, any_top_k, any_top_p, any_min_p = asked.tolist()
    heat = torch.where(warm, temperature, 1.0).float().unsqueeze(1)
    # Shifting before dividing keeps tiny temperatures finite at the top.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / heat
    if any_greedy:
        best = torch.ones_like(scaled, dtype=torch.bool).scatter_(1, logits.argmax(dim=-1, keepdim=True), False)
        scaled = scaled.masked_fill(best & ~warm.unsqueeze(1), -torch.inf)
    if any_top_k:
        scaled = scaled.masked_fill(~top_k_mask(scaled, top_k), -torch.inf)
    if any_top_p:
        scaled = scaled.masked_fill(~nucleus_mask(scaled, top_p), -torch.inf)
    if any_min_p:
        scaled = scaled.masked_fill(scaled < min_p.float().log().unsqueeze(1), -torch.inf)
    return scaled


def sample_tokens(
    logits: Tensor,
    *,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
    uniforms: Tensor,
) -> Tensor:
    """Draw one token per row from its tempered, truncated distribution (`decoding_logits`): int64 [B].

    Args:
        logits, temperature, top_p, top_k, min_p: as there.
        uniforms: [B] in [0, 1), from `row_uniforms`.
    """
    columns = (logits, temperature, top_p, top_k, min_p, uniforms)
    blocks = zip(*(row_blocks(column, logits.shape[-1]) for column in columns), strict=True)
    return torch.cat([_sample(*block) for block in blocks])


def _sample(
    logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor, uniforms: Tensor
) -> Tensor:
    """`sample_tokens` of a block of rows."""
    if not bool((temperature > 0).any()):
        return logits.argmax(dim=-1)
    scaled = decoding_logits(logits, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    return draw(scaled, uniforms)


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row from softmax(logits), by inverse CDF in the order of the token ids: int64 [B].

    Not in the order of their probabilities: sorting a vocabulary costs more than everything else here, and two tokens that
    are nearly equally likely would change places with the rounding of a larger batch.

    Args:
        logits: [B, V]; -inf bans a token.
        uniforms: [B] in [0, 1).
    """
    weight = logits.float().softmax(dim=-1)
    cdf = weight.cumsum(dim=-1, dtype=_summing_dtype(weight))
    total = cdf[:, -1:]
    # Rounding must not lift a draw onto the total: the token found there could be a banned one.
    at = (uniforms.unsqueeze(1) * total).minimum(torch.nextafter(total, torch.zeros_like(total)))
    # A row of NaN has no such token, and must not take its neighbours down with an index out of range.
    return torch.searchsorted(cdf, at, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


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
