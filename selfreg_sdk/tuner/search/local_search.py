"""Search without dependencies: spread out first, then change the best points a little.

An evolution strategy for tens of evaluations, not thousands. The first proposals cover every dimension evenly. After
that, three of four proposals copy one of the best eighth of the results and change one or two dimensions, by steps that
shrink as results come in; every fourth is random, so that no region is given up. Ranks alone count, and several parents
share the work, so one lucky noisy result does not decide.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

from selfreg_sdk.tuner.search.dimensions import (
    Alternatives,
    Choice,
    Dimension,
    Point,
    Space,
    draw_point,
    option_of,
    part_of,
)
from selfreg_sdk.tuner.search.random_search import fresh_point, random_for
from selfreg_sdk.tuner.search.search import Mode, Proposal, Register

_START = 8
_ELITE = 8
_WIDEST, _NARROWEST = 0.25, 0.04
_TRIES = 50


class LocalSearch:
    """Mutation of the best points, with a random one among four; see the module. Needs nothing installed."""

    def __init__(self, space: Space, *, mode: Mode = "max", seed: int = 0) -> None:
        self._space, self._seed = space, seed
        self._register = Register(space, mode)

    def ask(self) -> Proposal | None:
        """As `Searcher.ask`; None once a finite space is used up."""
        point = self._near() or fresh_point(self._space, self._register, seed=self._seed)
        return None if point is None else self._register.add(point)

    def tell(self, point_id: int, value: float | None, cost: float = 0.0) -> None:
        """As `Searcher.tell`."""
        self._register.close(point_id, value)

    def _near(self) -> Point | None:
        """A new point where the results ask for one: evenly spread at first, then near one of the best."""
        number = len(self._register.points)
        random = random_for(self._seed, number, "local")
        if number < _START:
            point = spread_point(self._space, number, self._seed)
            return point if self._register.is_new(point) else None
        parents = self._best()
        if not parents or number % 4 == 3:
            return None
        width = max(_WIDEST * math.sqrt(_START / max(len(self._register.results), _START)), _NARROWEST)
        for _ in range(_TRIES):
            point = mutated(self._space, random.choice(parents), random, width)
            if self._register.is_new(point):
                return point
            width = min(2 * width, 1.0)
        return None

    def _best(self) -> list[Point]:
        """The best eighth of what succeeded, at least one; the earlier of equals first."""
        scored = [(value, number) for number, value in self._register.results.items() if value is not None]
        scored.sort(key=lambda pair: (-pair[0], pair[1]))
        return [self._register.points[number] for _, number in scored[: max(len(scored) // _ELITE, 1)]]


def spread_point(space: Space, number: int, seed: int) -> dict[str, Any]:
    """Point ``number`` of a grid of `_START` rows and columns in which no row or column is used twice."""
    point: dict[str, Any] = {}
    for name, dimension in space.items():
        order = list(range(_START))
        random = random_for(seed, 0, f"spread/{name}")
        random.shuffle(order)
        position = (order[number] + random_for(seed, number, f"within/{name}").random()) / _START
        if isinstance(dimension, Alternatives):
            option = dimension.options[int(position * len(dimension.options))]
            point |= spread_point(option, number, seed) if option else {}
        else:
            point[name] = dimension.at(position)
    return point


def mutated(space: Space, parent: Point, random: Random, width: float) -> dict[str, Any]:
    """The parent with one dimension changed, and each other one with probability 1 / (number of dimensions).

    Args:
        width: standard deviation of a step, as a share of the dimension's (logarithmic) range.
    """
    names = list(space)
    chosen = random.choice(names)
    point: dict[str, Any] = {}
    for name in names:
        dimension = space[name]
        change = name == chosen or random.random() < 1 / len(names)
        if isinstance(dimension, Alternatives):
            part = part_of(dimension, parent)
            point |= _changed_alternative(dimension, part, random, width) if change else part
        else:
            point[name] = _changed(dimension, parent[name], random, width) if change else parent[name]
    return point


def _changed_alternative(dimension: Alternatives, part: Point, random: Random, width: float) -> dict[str, Any]:
    """Mostly a step within the option that was used, sometimes another option."""
    used = option_of(dimension, part)
    if used is None or not dimension.options[used] or random.random() < 0.25:
        others = [index for index in range(len(dimension.options)) if index != used]
        return draw_point(dimension.options[random.choice(others)], random)
    return mutated(dimension.options[used], part, random, width)


def _changed(dimension: Dimension, value: Any, random: Random, width: float) -> Any:
    assert not isinstance(dimension, Alternatives)
    if isinstance(dimension, Choice):
        return random.choice([other for other in dimension.values if other != value] or [value])
    position = dimension.where(value) + random.gauss(0.0, width)
    # A step over the edge comes back from it, so that the ends do not attract.
    position = abs(position) % 2.0
    return dimension.at(min(2.0 - position if position > 1.0 else position, 1.0 - 1e-12))
