"""Many rows of a vocabulary's width, worked through a few at a time."""

from __future__ import annotations

from torch import Tensor

_BLOCK = 1 << 24
_CPU_BLOCK = 1 << 18
"""Numbers in a block; on a CPU a block is to stay in its caches."""


def row_blocks(rows: Tensor, width: int | None = None) -> tuple[Tensor, ...]:
    """Rows [N, ...] in blocks [n, ...] that are worked through one after another, so that what is in between stays small.

    On a CPU a block stays within its caches: fresh memory for every intermediate result would cost more than the arithmetic.

    Args:
        rows: what to split.
        width: numbers that belong to a row; default is its last dimension.
    """
    size = _CPU_BLOCK if rows.device.type == "cpu" else _BLOCK
    step = max(1, size // (width or rows.shape[-1]))
    # Slices, since autograd forbids writing into what split returns.
    return tuple(rows[at : at + step] for at in range(0, max(1, len(rows)), step))
