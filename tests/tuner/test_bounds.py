"""Bounds hold at every look, are narrow where values vary little, and end at the truth; a classic bound does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.pool.bounds import Array, Band, betting, empirical_bernstein

KINDS = [empirical_bernstein, betting]
Bound = Callable[..., Band]


def population(kind: str, size: int) -> Array:
    """Values in [0, 1]: rare successes, even chances, nearly all alike, or costs with a long tail."""
    match kind:
        case "rare":
            return (np.arange(size) % 20 == 0).astype(float)
        case "even":
            return (np.arange(size) % 2).astype(float)
        case "alike":
            return np.linspace(0.28, 0.32, size)
    return np.minimum(0.02 * np.random.default_rng(3).lognormal(0.0, 0.8, size), 1.0)


def runs(kind: str, size: int | None, length: int, count: int, seed: int) -> tuple[Array, float]:
    """Sequences in random order, one per row, and the mean they have."""
    random = np.random.default_rng(seed)
    values = population(kind, size or 2000)
    if size is None:
        return random.choice(values, (count, length)), float(values.mean())
    return np.stack([random.permutation(values)[:length] for _ in range(count)]), float(values.mean())


def ever_wrong(band: Band, mean: float) -> float:
    """The share of sequences whose bounds exclude the mean at any time: what an adversary could stop at."""
    return float(((band.low > mean + 1e-9) | (band.high < mean - 1e-9)).any(axis=-1).mean())


@pytest.mark.parametrize("bound", KINDS)
@pytest.mark.parametrize("kind", ["rare", "even", "alike", "cost"])
@pytest.mark.parametrize(("size", "length"), [(None, 80), (40, 40)])
def test_the_mean_is_inside_at_every_look(bound: Bound, kind: str, size: int | None, length: int) -> None:
    values, mean = runs(kind, size, length, count=150, seed=7)
    # 150 runs at 10 %: four standard errors are another 10 %.
    assert ever_wrong(bound(values, alpha=0.1, population=size), mean) <= 0.2


@pytest.mark.parametrize("side", ["lower", "upper"])
@pytest.mark.parametrize("bound", KINDS)
def test_one_side_holds_at_every_look_and_is_tighter(bound: Bound, side: str) -> None:
    values, mean = runs("even", 40, 40, count=150, seed=8)
    band, both = (bound(values, alpha=0.1, population=40, side=name) for name in (side, "both"))
    assert ever_wrong(band, mean) <= 0.2
    ours, theirs = (band.high, both.high) if side == "upper" else (-band.low, -both.low)
    assert np.mean(ours[:, 20]) < np.mean(theirs[:, 20])


def hoeffding(count: int, *, alpha: float, population: int | None = None) -> float:
    """Half the width of the classic interval for values in [0, 1], right for one count fixed beforehand (Serfling 1974)."""
    seen = 0.0 if population is None else (count - 1) / population
    return float(np.sqrt((1 - seen) * np.log(2 / alpha) / (2 * count)))


def test_a_bound_for_one_look_fails_when_looked_at_always() -> None:
    """The test of the tests above: they would catch a bound that is not valid at any time."""
    values, mean = runs("even", None, 1000, count=300, seed=9)
    times = np.arange(1, 1001)
    margin = np.array([hoeffding(int(time), alpha=0.2) for time in times])
    means = np.cumsum(values, axis=-1) / times
    assert ever_wrong(Band(low=means - margin, high=means + margin), mean) > 0.3
    once = Band(low=(means - margin)[:, 499:500], high=(means + margin)[:, 499:500])
    assert ever_wrong(once, mean) <= 0.2


@pytest.mark.parametrize("bound", KINDS)
def test_an_order_chosen_by_the_values_fails(bound: Bound) -> None:
    """Random order is what is asked for; sorted values show that the tests would notice when it is missing."""
    values = np.sort(population("even", 100))
    assert ever_wrong(bound(values[None, :], alpha=0.1, population=100), 0.5) == 1.0


@pytest.mark.parametrize("bound", KINDS)
def test_narrower_than_hoeffding_where_values_vary_little(bound: Bound) -> None:
    for kind, size in (("alike", None), ("alike", 100), ("cost", None), ("cost", 100)):
        values, _ = runs(kind, size, 60, count=5, seed=1)
        band = bound(values, alpha=0.05, population=size)
        # The classic bound may be looked at once, these always; they win all the same.
        assert np.mean(band.high[:, -1] - band.low[:, -1]) < 2 * hoeffding(60, alpha=0.05, population=size)


@pytest.mark.parametrize("kind", ["rare", "even", "alike", "cost"])
def test_betting_is_narrower_than_empirical_bernstein(kind: str) -> None:
    values, _ = runs(kind, None, 40, count=20, seed=2)
    widths = [np.mean((band.high - band.low)[:, -1]) for band in (f(values, alpha=0.05) for f in KINDS)]
    assert widths[1] < widths[0]


@pytest.mark.parametrize("bound", KINDS)
def test_without_replacement_is_narrower(bound: Bound) -> None:
    values, _ = runs("even", 60, 40, count=20, seed=2)
    finite, infinite = bound(values, alpha=0.05, population=60), bound(values, alpha=0.05)
    assert np.mean((finite.high - finite.low)[:, -1]) < 0.7 * np.mean((infinite.high - infinite.low)[:, -1])


numbers = st.lists(st.floats(-3.0, 5.0), min_size=1, max_size=30)


@pytest.mark.parametrize("bound", KINDS)
@settings(max_examples=40, deadline=None)
@given(values=numbers, alpha=st.floats(0.001, 0.9))
def test_the_whole_population_gives_the_mean_exactly(bound: Bound, values: list[float], alpha: float) -> None:
    band = bound(values, alpha=alpha, low=-3.0, high=5.0, population=len(values))
    mean = float(np.mean(values))
    # With all seen, what is certain is one number. Bounds that were wrong before (alpha allows it) may contradict it.
    if band.low[-1] <= band.high[-1] + 1e-9:
        assert band.low[-1] == pytest.approx(band.high[-1], abs=1e-9)
        assert band.low[-1] == pytest.approx(mean, abs=1e-9)
    else:
        assert band.low[-1] > mean - 1e-9 or band.high[-1] < mean + 1e-9


@pytest.mark.parametrize("bound", KINDS)
@settings(max_examples=40, deadline=None)
@given(values=numbers, alpha=st.floats(0.001, 0.9), extra=st.integers(0, 10))
def test_bounds_only_tighten_within_the_range(bound: Bound, values: list[float], alpha: float, extra: int) -> None:
    for size in (None, len(values) + extra):
        band = bound(values, alpha=alpha, low=-3.0, high=5.0, population=size)
        assert band.low.shape == (len(values),)
        assert np.all(np.diff(band.low) >= 0)
        assert np.all(np.diff(band.high) <= 0)
        assert np.all(band.low >= -3.0 - 1e-9)
        assert np.all(band.high <= 5.0 + 1e-9)
        assert np.all(np.isfinite(band.low) & np.isfinite(band.high))


@pytest.mark.parametrize("bound", KINDS)
@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20), cut=st.integers(1, 19))
def test_what_comes_later_changes_nothing_before(bound: Bound, values: list[float], cut: int) -> None:
    whole, part = bound(values, alpha=0.1, population=40), bound(values[:cut], alpha=0.1, population=40)
    size = len(part.low)
    np.testing.assert_allclose(whole.low[:size], part.low)
    np.testing.assert_allclose(whole.high[:size], part.high)


@pytest.mark.parametrize("bound", KINDS)
def test_units_do_not_matter_and_mirroring_swaps_the_bounds(bound: Bound) -> None:
    values = np.random.default_rng(5).random(30)
    unit = bound(values, alpha=0.1)
    scaled = bound(values * 1e-3 - 7e-4, alpha=0.1, low=-7e-4, high=3e-4)
    np.testing.assert_allclose(scaled.high, unit.high * 1e-3 - 7e-4)
    mirrored = bound(1.0 - values, alpha=0.1)
    np.testing.assert_allclose(mirrored.low, 1.0 - unit.high, atol=2e-3)


@pytest.mark.parametrize("bound", KINDS)
def test_many_sequences_at_once_are_each_by_itself(bound: Bound) -> None:
    values, _ = runs("cost", 40, 20, count=6, seed=4)
    together = bound(values.reshape(2, 3, 20), alpha=0.1, population=40)
    np.testing.assert_allclose(together.high[1, 2], bound(values[5], alpha=0.1, population=40).high)


@pytest.mark.parametrize("bound", KINDS)
@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ([0.5, 1.5], {}),
        ([-0.1], {}),
        ([float("nan")], {}),
        ([0.5], {"alpha": 0.0}),
        ([0.5], {"alpha": 1.0}),
        ([0.5], {"low": 1.0}),
        ([0.5], {"high": float("inf")}),
        ([0.5, 0.5], {"population": 1}),
        (0.5, {}),
    ],
)
def test_what_would_make_the_bounds_wrong_is_refused(bound: Bound, values: object, changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        bound(values, **{"alpha": 0.1, **changes})


@pytest.mark.parametrize("bound", KINDS)
def test_no_values_give_no_bounds(bound: Bound) -> None:
    assert bound([], alpha=0.1).low.shape == (0,)
