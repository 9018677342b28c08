"""Random search: the yardstick of every other searcher, and what they fall back to."""

from __future__ import annotations

from random import Random

from selfreg_sdk.tuner.search.dimensions import Point, Space, draw_point, space_size
from selfreg_sdk.tuner.search.search import Mode, Proposal, Register

_PATIENCE = 200
"""Draws in a row that were proposed before, after which a finite space counts as used up."""


class RandomSearch:
    """Independent draws from the space, without repetition.

    Proposal i depends on the seed and the proposals before it alone, never on results.
    """

    def __init__(self, space: Space, *, mode: Mode = "max", seed: int = 0) -> None:
        self._space, self._seed = space, seed
        self._register = Register(space, mode)

    def ask(self) -> Proposal | None:
        """As `Searcher.ask`; None once a finite space is used up."""
        point = fresh_point(self._space, self._register, seed=self._seed)
        return None if point is None else self._register.add(point)

    def tell(self, point_id: int, value: float | None, cost: float = 0.0) -> None:
        """As `Searcher.tell`."""
        self._register.close(point_id, value)


def random_for(seed: int, number: int, purpose: str = "draw") -> Random:
    """The random numbers of one proposal, the same on every machine and whatever was drawn for the others."""
    return Random(f"{purpose}/{seed}/{number}")


def fresh_point(space: Space, register: Register, *, seed: int) -> Point | None:
    """A random point that was not proposed yet; None if there seems to be none left."""
    size = space_size(space)
    if size is not None and len(register.points) >= size:
        return None
    random = random_for(seed, len(register.points))
    # In a small space the last free points are rare: expect size draws for each, and allow ten times that.
    for _ in range(_PATIENCE if size is None else max(_PATIENCE, 10 * min(size, 10_000))):
        point = draw_point(space, random)
        if register.is_new(point):
            return point
    return None
