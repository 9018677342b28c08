"""Where the next cent teaches most: the knowledge gradient per USD on a correlated surface.

Knowledge gradient: Frazier, Powell and Dayanik, "The knowledge-gradient policy for correlated normal beliefs" (2009);
here its expectation is a Gauss-Hermite quadrature instead of their exact sort: simpler, and exact enough to rank by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfreg_sdk.tuner.pool.grid import Bools, Floats, Ints

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_TIE = 1e-9
"""Weight of plain ignorance: where no block can change the choice, what is known least is still read first."""
_NOTHING_OPEN = 1e6
"""Variance of a block without readings."""
_FREE = 1e-9
"""Least price of a request as a share of the total, so that free models can be ranked too."""
_DEAR = 10.0
"""A block of the least size that costs more than so many planned blocks is cut to one example."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a search spends. Round numbers; ``thrift`` alone was swept: 1 cost .01 of the score, .4 up to .02.

    Attributes:
        fit: money between two fits, as a share of the total.
        block: money of a block, as a share of the total, within ``few`` and ``many`` examples.
        few: examples of a block at least, unless they are very dear.
        many: examples of a block at most.
        warm: readings of an arm at its starting cell before its other cells are read.
        probe: samples per example while an arm was never heard.
        thrift: power of a block's price in its rank: 1 ranks by gain per USD, 0 by gain alone.
    """

    fit: float = 1 / 16
    block: float = 1 / 100
    few: int = 5
    many: int = 10
    warm: int = 5
    probe: int = 3
    thrift: float = 0.7


@dataclass(kw_only=True)
class Front:
    """Candidates between two fits, parallel arrays (A,): blocks chosen since the fit are already counted in.

    So several blocks can be chosen before the first is answered, and none is chosen twice for the same reason.

    Attributes:
        cell, n: what is asked.
        open: examples not yet read n times.
        price: expected USD of one request.
        heard: whether the arm answered before.
        warm: whether it was read often enough for large blocks.
        mean, cover: posterior of the surface, (A,) and (A, A).
        noise: variance of one reading around it.
        total: USD of the whole search.
    """

    cell: Ints
    n: Ints
    open: Ints
    price: Floats
    heard: Bools
    warm: Bools
    mean: Floats
    cover: Floats
    noise: float
    total: float

    def __post_init__(self) -> None:
        self.price = np.maximum(self.price, _FREE * self.total)

    def sizes(self, pace: Pace) -> Ints:
        """Examples in the next block of each candidate, (A,)."""
        most = np.where(self.warm, pace.many, pace.few)
        size = np.where(self.heard, np.minimum(self.open, most), np.minimum(self.open, 1))
        dear = self.price * pace.few >= _DEAR * pace.block * self.total
        planned = np.minimum(pace.block * self.total / self.price, pace.many).astype(np.int64)
        return np.asarray(np.minimum(size, np.maximum(np.where(dear, 1, pace.few), planned)))

    def best(self, size: Ints, affordable: Bools, thrift: float) -> int | None:
        """The candidate whose block ranks first by gain / price**thrift; None if none is open and affordable."""
        noise = np.where(size > 0, self.noise / np.maximum(size, 1), _NOTHING_OPEN)
        worth = gains(self.mean, self.cover, noise) + _TIE * np.sqrt(np.maximum(np.diag(self.cover), 0.0))
        rate = np.where((size > 0) & affordable, worth / (np.maximum(size, 1) * self.price) ** thrift, 0.0)
        at = int(rate.argmax())
        return at if rate[at] > 0 else None

    def read(self, at: int, size: int) -> None:
        """Count a block as read: the covariance shrinks, the mean waits for the next fit."""
        self.open[at] -= size
        self.cover = after(self.cover, at, self.noise / max(size, 1))


def gains(mean: Floats, cover: Floats, noise: Floats) -> Floats:
    """Expected rise of the best posterior mean from one block of readings at each candidate, (A,).

    E[max_k (mean_k + Z move_kj)] - max mean, with move_kj = cover_kj / √(cover_jj + noise_j) and Z standard normal.

    Args:
        mean: (A,) posterior means.
        cover: (A, A) their covariance.
        noise: (A,) variance of the block's mean around the surface.
    """
    move = cover / np.sqrt(np.maximum(np.diag(cover) + noise, 1e-12))[None, :]
    best = np.zeros(len(mean))
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        best += weight * (mean[:, None] + node * move).max(axis=0)
    return np.asarray(np.maximum(best - mean.max(), 0.0))


def after(cover: Floats, at: int, noise: float) -> Floats:
    """The covariance once a block with this noise variance is read at candidate ``at``: a rank-one step."""
    column = cover[:, at]
    return np.asarray(cover - np.outer(column, column) / max(float(cover[at, at]) + noise, 1e-12))
