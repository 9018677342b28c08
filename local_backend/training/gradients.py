"""The gradient of a batch, with the logits of a few positions in memory at a time.

A loss reaches the heads through two numbers a position, T and P. So each piece of logits is reduced to the losses and their slopes
by T and P; the logits go, the heads' own graph (features and 256 hidden units a position) stays, and when the whole batch has been
seen and the means over sequences can be taken, one backward pass takes the slopes into the weights.

Two sizes of piece: the output embedding is a matrix product that wants many positions, the losses are elementwise over the
vocabulary, hold some ten buffers and gain nothing from size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from local_backend.heads import Heads
from local_backend.training.data import Batch
from local_backend.training.losses import LossConfig, position_losses
from local_backend.training.readout import Readout

_PARTS = 32
"""Pieces of a chunk of logits that the losses take one after another."""


def chunk_positions(vocabulary: int, chunk_mib: int) -> int:
    """Positions whose float32 logits fill a chunk."""
    return max(_PARTS, chunk_mib * 2**20 // (4 * vocabulary))


def pieces(readout: Readout, hidden: Tensor, *, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Hidden states [N, H] to final logits, piece by piece: (which of the N, logits [n, V]).

    Args:
        readout: the base.
        hidden: on its device.
        chunk: positions that the output embedding takes at once.
    """
    part = max(1, chunk // _PARTS)
    for start in range(0, len(hidden), chunk):
        logits = readout.logits(hidden[start : start + chunk])
        for offset in range(0, len(logits), part):
            piece = slice(start + offset, start + min(offset + part, len(logits)))
            yield piece, logits[offset : offset + part]
        del logits


def add_gradients(
    heads: Heads, readout: Readout, hidden: Tensor, batch: Batch, config: LossConfig, *, chunk: int, share: float
) -> dict[str, float]:
    """Add a batch's gradient to the heads' own: of the sum over its sequences of `share` times the mean over counted positions.

    A sequence without a counted position adds nothing; the published mean over nothing is not a number.

    Args:
        heads: whose gradients grow.
        readout: their base.
        hidden: [N, H], of the batch's supervised positions.
        batch: on the base's device.
        config: the losses.
        chunk: positions that the output embedding takes at once.
        share: weight of each sequence.

    Returns:
        `loss_NAME` of each loss, times `share` already; the sums of T and P; the number of positions.
    """
    names = loss_names(config, heads)
    # What outlives a piece is allocated before the first: small blocks left among large ones that come and go would keep a CPU's
    # heap from ever shrinking.
    temperature = heads.temperature(hidden)
    seen = temperature.detach()
    view = hidden.new_empty(len(hidden), heads.config.view_size, dtype=torch.float32)
    values, counted, by_temperature, by_top_p = torch.zeros(4, len(names), len(hidden), device=hidden.device)
    for piece, logits in pieces(readout, hidden, chunk=chunk):
        view[piece] = heads.view(logits, seen[piece])
        with torch.no_grad():
            top_p = heads.top_p(hidden[piece], seen[piece], view[piece])
        # Leaves of their own: the slopes stop here, and the graph over the vocabulary dies with this piece.
        leaves = seen[piece].clone().requires_grad_(), top_p.requires_grad_()
        found = position_losses(config, logits, batch.labels[piece], *leaves, batch.uniforms[piece])
        for row, name in enumerate(names):
            slopes = torch.autograd.grad(found[name].values.sum(), leaves, allow_unused=True, materialize_grads=True)
            values[row, piece], counted[row, piece] = found[name].values.detach(), found[name].counted.float()
            by_temperature[row, piece], by_top_p[row, piece] = slopes
        # A view keeps its whole chunk, which must be gone before the next one comes.
        del found, logits
    top_p = heads.top_p(hidden, seen, view)
    weight = share * counted / per_sequence(counted.T, batch).clamp(min=1)[batch.row].T
    reached = [
        (decided, (weight * slope).sum(dim=0))
        for decided, slope in ((temperature, by_temperature), (top_p, by_top_p))
        if decided.requires_grad
    ]
    torch.autograd.backward([decided for decided, _ in reached], [slope for _, slope in reached])
    losses = (weight * values).sum(dim=1).tolist()
    return {
        **{f"loss_{name}": loss for name, loss in zip(names, losses, strict=True)},
        "temperature_sum": float(seen.sum()),
        "top_p_sum": float(top_p.detach().sum()),
        "positions": float(len(hidden)),
    }


def loss_names(config: LossConfig, heads: Heads) -> tuple[str, ...]:
    """The losses that have a head to train: one head alone is trained on its own loss alone, as published."""
    if config.form == "joint":
        return ("joint",)
    trained = {"temperature": heads.temp_head, "top_p": heads.top_p_head}
    return tuple(name for name, head in trained.items() if head is not None)


def per_sequence(values: Tensor, batch: Batch) -> Tensor:
    """Sums of values [N, ...] over each sequence's positions, [B, ...]."""
    return values.new_zeros(batch.size, *values.shape[1:]).index_add_(0, batch.row, values)
