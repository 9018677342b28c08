"""The knowledge gradient against its definition, and the sizes of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from selfreg_sdk.tuner.pool.allocate import Front, Pace, after, gains
from selfreg_sdk.tuner.pool.grid import Floats

MEAN = np.array([0.5, 0.45, 0.2, 0.48])
ROOT = np.array([[0.1, 0.0, 0.0, 0.0], [0.05, 0.1, 0.0, 0.0], [0.0, 0.0, 0.15, 0.0], [0.09, 0.0, 0.0, 0.02]])
COVER = ROOT @ ROOT.T
NOISE = np.array([0.02, 0.08, 0.002, 0.04])


def front(**changes: Any) -> Front:
    given: dict[str, Any] = {
        "cell": np.arange(4),
        "n": np.ones(4, np.int64),
        "open": np.full(4, 20),
        "price": np.full(4, 1e-4),
        "heard": np.ones(4, bool),
        "warm": np.ones(4, bool),
        "mean": MEAN,
        "cover": COVER.copy(),
        "noise": 0.1,
        "total": 1.0,
    }
    return Front(**{**given, **changes})


def simulated(at: int, draws: int = 200_000) -> float:
    """The mean rise of the best posterior mean, by drawing block means and conditioning."""
    random = np.random.default_rng(at)
    off = random.normal(0, np.sqrt(COVER[at, at] + NOISE[at]), draws)
    moved = MEAN[:, None] + np.outer(COVER[:, at] / (COVER[at, at] + NOISE[at]), off)
    return float(moved.max(axis=0).mean() - MEAN.max())


def test_gains_are_what_a_simulation_gives() -> None:
    assert gains(MEAN, COVER, NOISE) == pytest.approx([simulated(j) for j in range(4)], abs=1e-3)


def test_a_block_leaves_the_posterior_that_conditioning_gives() -> None:
    precision = np.linalg.inv(COVER)
    precision[1, 1] += 1 / 0.02
    assert after(COVER, 1, 0.02) == pytest.approx(np.linalg.inv(precision), abs=1e-9)


def test_what_is_read_teaches_less_the_next_time() -> None:
    candidates = front()
    first = gains(candidates.mean, candidates.cover, NOISE)
    candidates.read(1, 5)
    assert candidates.open.tolist() == [20, 15, 20, 20]
    assert gains(candidates.mean, candidates.cover, NOISE)[1] < first[1]


def test_a_cheaper_block_is_preferred_and_thrift_zero_ignores_prices() -> None:
    alike: Floats = np.full(2, 0.5)
    twins = {"mean": alike, "cover": np.eye(2) * 0.01, "price": np.array([1e-3, 1e-4])}
    both = {name: getattr(front(), name)[:2] for name in ("cell", "n", "open", "heard", "warm")}
    candidates = front(**twins, **both)
    size, all_fit = np.full(2, 5), np.ones(2, bool)
    assert candidates.best(size, all_fit, 0.7) == 1
    assert candidates.best(size, all_fit, 0.0) == 0
    assert candidates.best(size, np.array([True, False]), 0.7) == 0
    assert candidates.best(size, ~all_fit, 0.7) is None
    assert candidates.best(0 * size, all_fit, 0.7) is None


def test_a_hopeless_front_still_reads_what_it_knows_least() -> None:
    candidates = front(mean=np.array([0.9, 0.1, 0.1, 0.1]), cover=np.diag([1e-9, 1e-8, 4e-8, 1e-8]))
    assert candidates.best(np.full(4, 5), np.ones(4, bool), 0.7) == 2


def test_sizes_of_blocks() -> None:
    pace = Pace()
    assert front().sizes(pace).tolist() == [10] * 4
    assert front(price=np.array([1e-4, 1.5e-3, 1e-2, 0.05])).sizes(pace).tolist() == [10, 6, 5, 1]
    assert front(warm=np.zeros(4, bool)).sizes(pace).tolist() == [5] * 4
    assert front(heard=np.zeros(4, bool)).sizes(pace).tolist() == [1] * 4
    assert front(open=np.array([0, 1, 7, 20])).sizes(pace).tolist() == [0, 1, 7, 10]


def test_free_models_can_be_ranked() -> None:
    candidates = front(price=np.zeros(4))
    assert candidates.sizes(Pace()).tolist() == [10] * 4
    assert candidates.best(candidates.sizes(Pace()), np.ones(4, bool), 0.7) is not None
