"""What the heads decided, made part of the logits: who samples from them at temperature 1, top_p 1 decodes as decided."""

from __future__ import annotations

import torch
from torch import Tensor

from local_backend.blocks import row_blocks
from local_backend.heads import Decision
from local_backend.sampling import nucleus_mask

_COLDEST = 1e-6
"""A temperature below it is greedy; dividing by it keeps every logit finite."""


# How many tokens a nucleus holds depends on the data, which no compiled graph can know.
@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
def regulated(logits: Tensor, decision: Decision) -> Tensor:
    """Logits divided by T and cut to the nucleus of mass P; -inf outside. A temperature of 0 leaves the likeliest token alone.

    At least one token of each row stays. Under `torch.no_grad` the given logits are overwritten if they are float32, and
    beside them only a block of rows is in memory.

    Args:
        logits: [..., V].
        decision: T >= 0 and P, both [...].

    Returns:
        float32 [..., V].
    """
    width = logits.shape[-1]
    out = logits.float()
    if out is logits and torch.is_grad_enabled():
        out = out.clone()
    rows, temperature, top_p = out.view(-1, width), decision.temperature.reshape(-1), decision.top_p.reshape(-1)
    blocks = (row_blocks(rows), row_blocks(temperature, width), row_blocks(top_p, width))
    for block, t, mass in zip(*blocks, strict=True):
        block /= t.clamp(min=_COLDEST).unsqueeze(-1)
        block.masked_fill_(~nucleus_mask(block, mass.masked_fill(t < _COLDEST, 0.0)), -torch.inf)
    return out


def combine(decision: Decision, temperature: Tensor | None, top_p: Tensor | None) -> Decision:
    """What was decided times what was requested, P at most 1; None requests nothing.

    Args:
        decision: [N] each.
        temperature: [N], >= 0.
        top_p: [N], >= 0.
    """
    return Decision(
        decision.temperature if temperature is None else decision.temperature * temperature,
        decision.top_p if top_p is None else (decision.top_p * top_p).clamp(0, 1),
    )


def contain(decision: Decision) -> tuple[Decision, Tensor]:
    """T = 1 and P = 1 wherever a decision is NaN (a sigmoid is nothing worse), and how often that was so (int64 [])."""
    bad = (decision.temperature + decision.top_p).isnan()
    return Decision(*(part.masked_fill(bad, 1.0) for part in decision)), bad.sum()
