"""The surface on worlds with a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.pool.grid import Floats, Grid, Ints, lattice
from selfreg_sdk.tuner.pool.surface import Belief, Likeness, Noise, Readings, Surface, components, fit, kinship
from selfreg_sdk.tuner.search.dimensions import Alternatives, Choice, Float, Int, Space

HEATS = tuple(float(t) for t in np.linspace(0.0, 2.0, 8))
SPACE: Space = {"model": Choice(("a", "b", "c", "d")), "temperature": Float(0.0, 2.0)}
GRID = Grid.of(SPACE, [{"model": m, "temperature": t} for m in "abcd" for t in HEATS])
ALL = np.arange(len(GRID.cells))
ONE = np.ones(len(GRID.cells), np.int64)


def belief(grid: Grid = GRID, **changes: float) -> Belief:
    still, slope = Likeness().over(grid, np.zeros(len(grid.cells)))
    noise = Noise(shared=0.25, single=0.25)
    centre = np.full(len(still), 0.5)
    return Belief(still=still, slope=slope, centre=centre, kin=kinship(grid), noise=noise, **changes)


def drawn(seed: int, examples: int, share: float = 1.0) -> tuple[Floats, Readings]:
    """A truth from the prior, and single readings of a share of all (cell, example)."""
    random = np.random.default_rng(seed)
    still, _ = Likeness(level=0.1).over(GRID, np.zeros(len(GRID.cells)))
    truth = 0.5 + np.linalg.cholesky(still + 1e-9 * np.eye(len(still))) @ random.normal(size=len(still))
    cell, example = np.nonzero(random.random((len(truth), examples)) < share)
    arm = GRID.arm[cell]
    score = (
        truth[cell] + random.normal(0, 0.25, examples)[example] + random.normal(0, 0.25, (4, examples))[arm, example]
    )
    score += random.normal(0, 0.25, len(cell))
    return truth, Readings(cell=cell, n=np.ones_like(cell), example=example, score=score)


def raw_means(seen: Readings) -> Floats:
    return np.asarray(np.bincount(seen.cell, seen.score, len(ALL)) / np.maximum(np.bincount(seen.cell), 1))


def test_shrinkage_beats_the_argmax_of_noisy_means() -> None:
    ours, raw, curse_ours, curse_raw = [], [], [], []
    for seed in range(60):
        truth, seen = drawn(seed, 10, 0.5)
        surface, means = fit(GRID, belief(), seen, 10, ALL, ONE), raw_means(seen)
        ours.append(truth[surface.mean.argmax()])
        raw.append(truth[means.argmax()])
        curse_ours.append(surface.mean.max() - ours[-1])
        curse_raw.append(means.max() - raw[-1])
    assert np.mean(ours) > np.mean(raw) + 0.02
    assert abs(np.mean(curse_ours)) < 0.5 * np.mean(curse_raw)


def test_the_posterior_is_calibrated() -> None:
    """Of the differences between cells, which choices rest on: their common level depends on the examples there are."""
    inside, errors, spreads = [], [], []
    for seed in range(60):
        truth, seen = drawn(seed, 12, 0.6)
        surface = fit(GRID, belief(), seen, 12, ALL, ONE)
        middle = np.eye(len(ALL)) - 1 / len(ALL)
        off = middle @ (surface.mean - truth)
        spread = np.sqrt(np.diag(middle @ surface.cover @ middle))
        inside.append(np.mean(np.abs(off) < 1.645 * spread))
        errors.append(off)
        spreads.append(spread)
    assert 0.8 < np.mean(inside) < 0.98
    assert 0.75 < np.sqrt(np.mean(np.square(errors))) / np.sqrt(np.mean(np.square(spreads))) < 1.25


def test_the_noise_is_found() -> None:
    random = np.random.default_rng(3)
    owner = np.repeat(np.arange(400), 4)
    noise = components(
        owner, random.normal(0, 0.4, 400)[owner] + random.normal(0, 0.1, len(owner)), Noise(shared=0.2, single=0.2)
    )
    assert noise.shared == pytest.approx(0.4, abs=0.04)
    assert noise.single == pytest.approx(0.1, abs=0.02)


def test_neighbours_are_alike_and_ignorance_shows() -> None:
    cell = np.zeros(30, np.int64)
    seen = Readings(cell=cell, n=np.ones_like(cell), example=np.arange(30), score=np.full(30, 0.9))
    surface = fit(GRID, belief(), seen, 30, ALL, ONE)
    near, far, other = 1, len(HEATS) - 1, len(HEATS)
    assert surface.error[0] < surface.error[near] < surface.error[far] < surface.error[other] + 1e-9
    assert surface.mean[0] > 0.6


def test_scores_at_several_n_extrapolate() -> None:
    cell = np.zeros(60, np.int64)
    n = np.repeat([1, 4], 30)
    score = np.where(n == 1, 0.4, 0.6)
    seen = Readings(cell=cell, n=n, example=np.tile(np.arange(30), 2), score=score)
    asked = np.array([1, 4, 8])
    assert np.all(np.diff(fit(GRID, belief(), seen, 30, np.zeros(3, np.int64), asked).mean) > 0.02)


def test_drift_is_a_floor_that_readings_do_not_lower() -> None:
    _, seen = drawn(1, 200)
    known, wary = (fit(GRID, belief(drift=d), seen, 200, ALL, ONE) for d in (0.0, 0.1))
    assert np.all(wary.error > known.error)
    assert wary.error.min() > 0.03


def test_unequal_examples_are_made_comparable() -> None:
    """Cell 0 was read on easy examples, a twin in another arm on hard ones: they are as good as one another."""
    twin = len(HEATS)
    easy, hard = np.arange(0, 20), np.arange(10, 30)
    level = np.where(np.arange(30) < 10, 0.9, np.where(np.arange(30) < 20, 0.6, 0.3))
    cell = np.repeat([0, twin], 20)
    example = np.concatenate([easy, hard])
    seen = Readings(cell=cell, n=np.ones_like(cell), example=example, score=level[example])
    surface = fit(GRID, belief(), seen, 30, np.array([0, twin]), np.ones(2, np.int64))
    raw = level[easy].mean() - level[hard].mean()
    assert abs(surface.mean[0] - surface.mean[1]) < 0.65 * raw


@pytest.mark.parametrize(
    "space",
    [{"model": Choice(("only",))}, {"temperature": Float(0.7, 0.7)}, {"temperature": Float(0.0, 1.0)}],
    ids=["one cell", "one value", "no choice"],
)
def test_degenerate_spaces(space: Space) -> None:
    grid = Grid.of(space)
    cells = np.arange(len(grid.cells))
    nothing = np.zeros(0, np.int64)
    for seen in (
        Readings(cell=nothing, n=nothing, example=nothing, score=np.zeros(0)),
        Readings(cell=cells[:1], n=cells[:1] + 1, example=cells[:1], score=np.ones(1)),
    ):
        surface = fit(grid, belief(grid), seen, 5, cells, np.ones_like(cells))
        assert np.isfinite(surface.mean).all()
        assert np.isfinite(surface.cover).all()


def test_readings_leave_the_same_surface_to_the_bit() -> None:
    def surface() -> Surface:
        return fit(GRID, belief(), drawn(5, 10)[1], 10, ALL, ONE)

    assert np.array_equal(surface().mean, surface().mean)


def test_a_grid_speaks_the_language_of_spaces() -> None:
    space: Space = {
        "model": Choice(("a", "b")),
        "heat": Alternatives(({"temperature": Float(0.0, 2.0)}, {"top_p": Float(0.1, 1.0)}, {})),
        "max_tokens": Int(16, 256, log=True),
    }
    cells = lattice(space, steps=3)
    grid = Grid.of(space, cells, usual={"temperature": 0.5})
    assert len(cells) == 2 * (3 + 3 + 1) * 3
    assert len(np.unique(grid.arm)) == 2 * 3
    assert np.all((grid.places >= 0) & (grid.places <= 1))
    assert grid.start.tolist() == [0.5, 0.5, 0.5]  # root(0.5 / 2) = 0.5
    starts: Ints = grid.starts()
    assert sorted(grid.arm[starts]) == list(range(6))
    assert {cells[c]["temperature"] for c in starts if "temperature" in cells[c]} == {0.5}


def test_numbers_in_a_choice_are_ordered() -> None:
    grid = Grid.of({"temperature": Choice((0.0, 0.5, 2.0)), "think": Choice((True, False))})
    assert sorted(set(grid.places[:, 0].tolist())) == [0.0, 0.5, 1.0]
    assert grid.codes.shape[1] == 1


@pytest.mark.parametrize(
    ("space", "cells", "match"),
    [
        (SPACE, [], "give 1 to"),
        (SPACE, [{"model": "z", "temperature": 1.0}], "does not lie"),
        ({"n": Int(1, 4)}, None, "leave n out"),
        ({f"x{i}": Float(0.0, 1.0) for i in range(5)}, None, "combinations"),
    ],
)
def test_wrong_cells_are_refused(space: Space, cells: list[dict[str, object]] | None, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Grid.of(space, cells)
