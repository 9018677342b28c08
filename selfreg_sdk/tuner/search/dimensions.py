"""What a tuner may vary: dimensions, spaces made of them, points in spaces.

A space maps names to dimensions; a point maps names to values that JSON has a form for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from selfreg_sdk.errors import ConfigError

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """One of several values that have no order.

    Raises:
        ConfigError: no values, the same one twice, or one that JSON has no form for.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        try:
            distinct = {_text(value) for value in self.values}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"choice {self.values!r}: {error}; give text, finite numbers, lists or dicts") from None
        if not self.values or len(distinct) < len(self.values):
            raise ConfigError(f"choice {self.values!r}: give at least one value, and each only once")

    @property
    def size(self) -> int:
        """How many different values there are."""
        return len(self.values)

    def contains(self, value: Any) -> bool:
        """Whether ``value`` is one of them."""
        return any(_text(value) == _text(own) for own in self.values)

    def at(self, position: float) -> Any:
        """The value at ``position`` in [0, 1)."""
        return self.values[min(int(position * len(self.values)), len(self.values) - 1)]

    def where(self, value: Any) -> float:
        """The position of ``value``: the middle of its share."""
        return (self.index(value) + 0.5) / len(self.values)

    def index(self, value: Any) -> int:
        """Which value it is. Values are compared as JSON, so that 1 and true differ.

        Raises:
            ValueError: none of them.
        """
        return [_text(own) for own in self.values].index(_text(value))


@dataclass(frozen=True)
class Float:
    """A number in [low, high]; ``log`` gives every factor the same weight instead of every difference.

    Raises:
        ConfigError: not finite, an empty interval, or a logarithm of what is not positive.
    """

    low: float
    high: float
    log: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high, self.log)

    @property
    def size(self) -> int | None:
        """None: more values than can be counted, unless both ends are the same."""
        return 1 if self.low == self.high else None

    def contains(self, value: Any) -> bool:
        """Whether ``value`` is a number between the ends."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def at(self, position: float) -> float:
        """The value at ``position`` in [0, 1)."""
        if self.log:
            value = math.exp(_between(math.log(self.low), math.log(self.high), position))
        else:
            value = _between(self.low, self.high, position)
        return min(max(value, self.low), self.high)

    def where(self, value: float) -> float:
        """The position of ``value`` in [0, 1]."""
        if self.low == self.high:
            return 0.5
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Int:
    """A whole number from low to high, both included; ``log`` as in `Float`: right for n and max_tokens.

    Raises:
        ConfigError: ends that are no whole numbers, an empty interval, or a logarithm of what is not positive.
    """

    low: int
    high: int
    log: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not all(isinstance(end, int) and not isinstance(end, bool) for end in (self.low, self.high)):
            raise ConfigError(f"low={self.low!r}, high={self.high!r}: give whole numbers, or use Float")
        _check_ends(self.low, self.high, self.log)

    @property
    def size(self) -> int:
        """How many different values there are."""
        return self.high - self.low + 1

    def contains(self, value: Any) -> bool:
        """Whether ``value`` is a whole number between the ends."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def at(self, position: float) -> int:
        """The value at ``position`` in [0, 1); every whole number owns the half steps around it."""
        low, high = self.low - 0.5, self.high + 0.5
        if self.log:
            low, high = math.log(low), math.log(high)
        value = _between(low, high, position)
        return min(max(round(math.exp(value) if self.log else value), self.low), self.high)

    def where(self, value: int) -> float:
        """The position of ``value`` in [0, 1]."""
        low, high = self.low - 0.5, self.high + 0.5
        if self.log:
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Alternatives:
    """Exactly one of several spaces; its names appear in the point, those of the others do not.

    Temperature or top_p, never both: ``Alternatives(({"temperature": Float(0, 2)}, {"top_p": Float(0.05, 1)}))``. A model
    that takes no temperature stands beside the others in the same way, and ``{}`` leaves a setting out.

    Raises:
        ConfigError: fewer than two.
    """

    options: tuple[Space, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(dict(option) for option in self.options))
        if len(self.options) < 2:
            raise ConfigError(f"alternatives {self.options!r}: give at least two spaces to choose from")


Dimension = Choice | Float | Int | Alternatives
Space = Mapping[str, Dimension]


def check_space(space: Space) -> None:
    """Raise ConfigError for an empty space or a name that a point could hold twice."""
    if not space:
        raise ConfigError("the search space is empty; give at least one dimension, for example {'n': Int(1, 10)}")
    _names(space)


def draw_point(space: Space, random: Random) -> dict[str, Any]:
    """A point drawn uniformly, on the logarithmic scale where a dimension has one; alternatives are equally likely."""
    point: dict[str, Any] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Alternatives):
            point |= draw_point(dimension.options[random.randrange(len(dimension.options))], random)
        else:
            point[name] = dimension.at(random.random())
    return point


def contains(space: Space, point: Point) -> bool:
    """Whether the point has exactly the names and values that the space allows."""
    known: set[str] = set()
    for name, dimension in space.items():
        if isinstance(dimension, Alternatives):
            part = part_of(dimension, point)
            if option_of(dimension, part) is None:
                return False
            known |= part.keys()
        elif name not in point or not dimension.contains(point[name]):
            return False
        else:
            known.add(name)
    return known == point.keys()


def part_of(dimension: Alternatives, point: Point) -> dict[str, Any]:
    """What the alternatives contributed to a point."""
    names = set().union(*(_names(option) for option in dimension.options))
    return {name: value for name, value in point.items() if name in names}


def option_of(dimension: Alternatives, part: Point) -> int | None:
    """Which option the part of a point belongs to, the first of several; None if to none."""
    return next((index for index, option in enumerate(dimension.options) if contains(option, part)), None)


def space_size(space: Space) -> int | None:
    """At most so many different points; None for infinitely many."""
    size = 1
    for dimension in space.values():
        if isinstance(dimension, Alternatives):
            parts = [space_size(option) for option in dimension.options]
            share = None if None in parts else sum(part for part in parts if part is not None)
        else:
            share = dimension.size
        if share is None:
            return None
        size *= share
    return size


def point_key(point: Point) -> str:
    """The same text for the same point, whatever the order of its names."""
    return _text(dict(point))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _names(space: Space) -> set[str]:
    names: set[str] = set()
    for name, dimension in space.items():
        if isinstance(dimension, Alternatives):
            new = set().union(*(_names(option) for option in dimension.options))
        elif isinstance(dimension, Choice | Float | Int):
            new = {name}
        else:
            raise ConfigError(f"dimension {name!r} is {dimension!r}; give a Choice, Float, Int or Alternatives")
        if both := names & new:
            raise ConfigError(f"the search space could give {sorted(both)!r} twice; a name may occur once in a point")
        names |= new
    return names


def _between(low: float, high: float, position: float) -> float:
    return low + (high - low) * position


def _check_ends(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"low={low!r}, high={high!r}: give finite numbers, the lower one first")
    if log and low <= 0:
        raise ConfigError(f"low={low!r}: a logarithmic scale starts above 0")
