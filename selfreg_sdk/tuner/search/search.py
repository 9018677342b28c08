"""How a tuner asks a searcher for the next point.

Searchers are asked and told: everything they know came in through these two calls, so a study that recorded them can be
taken up again anywhere (`replay`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

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
    point_key,
)

__all__ = [
    "Alternatives",
    "Choice",
    "Dimension",
    "Event",
    "Float",
    "Int",
    "Mode",
    "Point",
    "Proposal",
    "Register",
    "Searcher",
    "Space",
    "Told",
    "replay",
]

Mode = Literal["max", "min"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A point to try next; ``id`` counts the proposals of one searcher from 0."""

    id: int
    point: Point


class Searcher(Protocol):
    """Proposes points of a space and learns from their values.

    The same space, mode and seed, asked and told the same things in the same order, propose the same points. A point is
    proposed once; several may be asked for before the first is told.
    """

    def ask(self) -> Proposal | None:
        """The next point; None when there is none until another is told, for a finite space perhaps never."""
        ...

    def tell(self, point_id: int, value: float | None, cost: float = 0.0) -> None:
        """The result of a proposal, once.

        Args:
            point_id: of the proposal.
            value: what is to be maximised or minimised; None if the point failed or is not allowed, which is worse than
                any value.
            cost: of evaluating it, in any unit.

        Raises:
            ConfigError: no such proposal is open, or the value is not finite.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Told:
    """A result that was given, as a study records it."""

    id: int
    value: float | None
    cost: float = 0.0


Event = Proposal | Told


def replay(searcher: Searcher, events: Iterable[Event]) -> None:
    """Bring a new searcher to where another was, by what that one was asked and told, in order.

    Raises:
        ConfigError: it proposes something else, so seed, space, mode or kind differ from those of the record.
    """
    for event in events:
        match event:
            case Told():
                searcher.tell(event.id, event.value, event.cost)
            case Proposal():
                made = searcher.ask()
                if made is None or made.id != event.id or point_key(made.point) != point_key(event.point):
                    raise ConfigError(
                        f"the recorded search proposed {dict(event.point)!r} as number {event.id}, this one proposes "
                        f"{made!r}; resume with the same searcher, space, mode and seed"
                    )


class Register:
    """Who was asked what, and which proposals are open. Every searcher keeps one.

    Raises:
        ConfigError: the space is not well formed, or the mode is not known.
    """

    def __init__(self, space: Space, mode: Mode) -> None:
        check_space(space)
        if mode not in ("max", "min"):
            raise ConfigError(f"mode {mode!r}: write 'max' or 'min'")
        self.points: list[Point] = []
        self.results: dict[int, float | None] = {}
        self._keys: set[str] = set()
        self._sign = 1.0 if mode == "max" else -1.0

    @property
    def open(self) -> list[int]:
        """Ids of proposals without a result, oldest first."""
        return [number for number in range(len(self.points)) if number not in self.results]

    def is_new(self, point: Point) -> bool:
        """Whether the point was not proposed before."""
        return point_key(point) not in self._keys

    def add(self, point: Point) -> Proposal:
        """Give the point its number."""
        self._keys.add(point_key(point))
        self.points.append(point)
        return Proposal(id=len(self.points) - 1, point=point)

    def close(self, point_id: int, value: float | None) -> float | None:
        """Note a result; returns it so that more is better.

        Raises:
            ConfigError: as `Searcher.tell`.
        """
        if not 0 <= point_id < len(self.points) or point_id in self.results:
            raise ConfigError(f"point {point_id!r} is not open: it was told before or never asked; open: {self.open!r}")
        if value is not None and not math.isfinite(value):
            raise ConfigError(
                f"value {value!r} of point {point_id}: tell None for a failed point, else a finite number"
            )
        self.results[point_id] = None if value is None else self._sign * value
        return self.results[point_id]
