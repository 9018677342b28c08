"""A space as a finite list of cells, and the cells as rows of numbers.

A cell is everything that decides what a model may answer, but n: how well n samples do is read off a pool of samples of
the cell. The vocabulary is that of `dimensions`; here its points get codes (what has no order) and places (what has).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.search.dimensions import (
    Alternatives,
    Choice,
    Dimension,
    Float,
    Int,
    Point,
    Space,
    check_space,
    contains,
    option_of,
    part_of,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Scale = Literal["linear", "root", "log"]

ROOTED = frozenset({"temperature", "top_p"})
"""Settings that change answers most near zero: neighbours on the scale of their square root."""
STEPS = 8
"""Values of a continuous dimension in a lattice: neighbours lie within the surface's reach, so more tell little."""
MAX_CELLS = 4000
"""The surface holds two matrices of cells by cells: 250 MB at this size."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """C cells as numbers.

    Attributes:
        cells: the points, C of them.
        codes: (C, choices) index of each unordered value, -1 where a point lacks the name.
        places: (C, ordered) where each number lies in [0, 1] on its scale; at ``start`` where a point lacks the name.
        arm: (C,) number of the cell's combination of codes, from 0.
        start: (ordered,) where reading an arm begins. An edge of the temperature range is a ruinous place for that: 25
            readings of one model at temperature 1.6 condemned it in simulations, and cost .04 of the score at 1 USD.
    """

    cells: tuple[Point, ...]
    codes: Ints
    places: Floats
    arm: Ints
    start: Floats

    @classmethod
    def of(
        cls, space: Space, cells: Sequence[Point] | None = None, *, usual: Mapping[str, float] | None = None
    ) -> Grid:
        """The given cells of a space, or its `lattice`.

        A Choice among numbers is ordered: 0.2 and 0.3 are alike even where a space lists them. Each option of
        Alternatives is a code of its own, so temperature and top_p never share an arm.

        Args:
            usual: of ordered names, the value where reading starts; the middle of the scale where not given.

        Raises:
            ConfigError: no cells, more than `MAX_CELLS`, one outside the space, or ``n`` as a dimension.
        """
        check_space(space)
        rows = tuple(lattice(space) if cells is None else cells)
        if not 0 < len(rows) <= MAX_CELLS:
            raise ConfigError(f"{len(rows)} cells: give 1 to {MAX_CELLS}, with fewer values of each dimension")
        for row in rows:
            if "n" in row:
                raise ConfigError(f"cell {dict(row)!r}: leave n out, it is read off the pool of samples")
            if not contains(space, row):
                raise ConfigError(f"cell {dict(row)!r} does not lie in the space {dict(space)!r}")
        table = _Table(rows, dict(usual or {}))
        table.add(space, np.ones(len(rows), bool))
        codes = np.array(table.codes, np.int64).reshape(-1, len(rows)).T
        arm = np.zeros(len(rows), np.int64)
        if codes.shape[1]:
            arm = np.asarray(np.unique(codes, axis=0, return_inverse=True)[1], np.int64).ravel()
        return cls(
            cells=rows,
            codes=codes,
            places=np.array(table.places, float).reshape(-1, len(rows)).T,
            arm=arm,
            start=np.array(table.start, float),
        )

    @property
    def same_arm(self) -> Bools:
        """(C, C) whether two cells belong to one arm."""
        return np.asarray(self.arm[:, None] == self.arm[None, :])

    def starts(self) -> Ints:
        """(arms,) the cell of each arm where reading it begins: nearest to ``start``, the first of equals."""
        far = ((self.places - self.start) ** 2).sum(axis=1)
        arms = (np.nonzero(self.arm == a)[0] for a in range(int(self.arm.max()) + 1))
        return np.array([ids[far[ids].argmin()] for ids in arms], np.int64)


def lattice(space: Space, *, steps: int = STEPS) -> tuple[dict[str, Any], ...]:
    """Every combination of all choices and of ``steps`` values of each number, evenly spaced on its scale.

    Raises:
        ConfigError: more than `MAX_CELLS` combinations.
    """
    parts = [_parts(name, dimension, steps) for name, dimension in space.items()]
    if (size := math.prod(map(len, parts))) > MAX_CELLS:
        raise ConfigError(f"{size} combinations: at most {MAX_CELLS}; give fewer values, or narrow a dimension")
    return tuple({k: v for part in row for k, v in part.items()} for row in itertools.product(*parts))


class _Table:
    """Collects the columns of a grid."""

    def __init__(self, rows: Sequence[Point], usual: dict[str, float]) -> None:
        self._rows, self._usual = rows, usual
        self.codes: list[list[int]] = []
        self.places: list[list[float]] = []
        self.start: list[float] = []

    def add(self, space: Space, present: Bools) -> None:
        """One column for each name of a space; ``present`` (C,) says which cells have these names."""
        for name, dimension in space.items():
            if isinstance(dimension, Alternatives):
                parts = zip(self._rows, present, strict=True)
                chosen = [option_of(dimension, part_of(dimension, row)) if there else None for row, there in parts]
                self.codes.append([-1 if index is None else index for index in chosen])
                for number, option in enumerate(dimension.options):
                    self.add(option, np.array([index == number for index in chosen], bool))
            elif (ends := _ends(dimension)) is not None:
                scale = _scale(name, dimension)
                usual = self._usual.get(name)
                middle = 0.5 if usual is None else min(max(_place(usual, ends, scale), 0.0), 1.0)
                self.start.append(middle)
                parts = zip(self._rows, present, strict=True)
                self.places.append([_place(row[name], ends, scale) if there else middle for row, there in parts])
            elif isinstance(dimension, Choice):
                parts = zip(self._rows, present, strict=True)
                self.codes.append([dimension.index(row[name]) if there else -1 for row, there in parts])


def _ends(dimension: Dimension) -> tuple[float, float] | None:
    """Lowest and highest value of an ordered dimension; None where there is no order."""
    if isinstance(dimension, Float | Int):
        return dimension.low, dimension.high
    if isinstance(dimension, Choice) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in dimension.values
    ):
        return min(dimension.values), max(dimension.values)
    return None


def _scale(name: str, dimension: Dimension) -> Scale:
    if isinstance(dimension, Float | Int) and dimension.log:
        return "log"
    return "root" if name in ROOTED else "linear"


def _bend(value: float, scale: Scale) -> float:
    if scale == "root":
        return math.sqrt(max(value, 0.0))
    return math.log(value) if scale == "log" else float(value)


def _place(value: float, ends: tuple[float, float], scale: Scale) -> float:
    low, high = (_bend(end, scale) for end in ends)
    return (_bend(value, scale) - low) / (high - low) if high > low else 0.5


def _parts(name: str, dimension: Dimension, steps: int) -> list[dict[str, Any]]:
    """What a dimension may add to a point."""
    if isinstance(dimension, Alternatives):
        return [point for option in dimension.options for point in (lattice(option, steps=steps) if option else ({},))]
    if isinstance(dimension, Choice):
        return [{name: value} for value in dimension.values]
    scale = _scale(name, dimension)
    low, high = _bend(dimension.low, scale), _bend(dimension.high, scale)
    values: list[float] = []
    for spot in np.linspace(low, high, steps) if high > low else [low]:
        value = {"linear": float(spot), "root": float(spot) ** 2, "log": math.exp(spot)}[scale]
        # Three digits: a configuration is for people too.
        value = min(
            max(round(value) if isinstance(dimension, Int) else float(f"{value:.3g}"), dimension.low), dimension.high
        )
        values.append(value)
    return [{name: value} for value in dict.fromkeys(values)]
