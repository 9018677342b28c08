"""From a task's space to the cells of method "pool": everything that some model accepts, as one finite list.

A point of the space is compiled for its model, as every request is. Points of which the same is sent are one cell, so a
model that takes no temperature has one cell where others have eight. Where models differ, the space says so: a setting
that some cells lack stands in `Alternatives` with an option that leaves it out.

The number of samples, smaller token caps and stop sequences are no choices of a cell: they are read off its samples, which
are drawn with the longest cap and without stop sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies import Capabilities
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.prices import Price
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.tuner.journal.sending import compiled
from selfreg_sdk.tuner.pool.grid import MAX_CELLS, STEPS, Bools, Floats, Grid, lattice
from selfreg_sdk.tuner.pool.spend import Rates
from selfreg_sdk.tuner.pool.views import NAMES, View, views_of
from selfreg_sdk.tuner.search.dimensions import Alternatives, Choice, Dimension, Float, Int, Point, Space, point_key

USUAL: Mapping[str, float] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "min_p": 0.05,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""Where reading an arm begins: settings at which every model answers sensibly."""

_ENOUGH = 1000
"""Cells from which on steps between numbers are made wider: a fit costs the cells' cube, and neighbours tell the same."""
_LEAST_STEPS = 3
"""Values of a number below which its lattice is not thinned while all cells still fit."""
_READ_OFF = ("n", *NAMES)
_CHARACTERS_PER_TOKEN = 4.0
_TOKENS_PER_MESSAGE = 4.0
_TOKENS_PER_REQUEST = 3.0


@dataclass(frozen=True, kw_only=True)
class Cells:
    """What method "pool" chooses from.

    Attributes:
        grid: the cells as numbers.
        configs: (C) what is sent of each cell, with "model" and "prompt", without "n".
        sizes: the n that may be used, ascending.
        views: token caps and stop settings that may be used; samples are drawn by the first.
        viewable: (V, C) whether a view's settings can be sent for a cell.
        notes: what is not as the task says, for people.
    """

    grid: Grid
    configs: tuple[Point, ...]
    sizes: tuple[int, ...]
    views: tuple[View, ...]
    viewable: Bools
    notes: tuple[str, ...] = ()

    def counted(self, messages: Mapping[str, Sequence[Sequence[Mapping[str, str]]]]) -> Floats:
        """(C, P) prompt tokens as estimated without a tokenizer; what endpoints bill per estimated token is learned.

        Args:
            messages: prompt name to the filled-in messages of each of P examples.
        """
        rows = {name: [estimated_tokens(each) for each in filled] for name, filled in messages.items()}
        return np.array([rows[config["prompt"]] for config in self.configs], float)

    def rates(self, prices: Mapping[str, Price]) -> Rates:
        """What the cells' tokens cost, by the price of each model."""
        of = [prices[config["model"]] for config in self.configs]
        return Rates(
            prompt=np.array([float(price.input_per_token) for price in of]),
            answer=np.array([float(price.output_per_token) for price in of]),
            request=np.array([float(price.per_request) for price in of]),
        )


def cells_of(space: Space, prompts: Sequence[Prompt], capabilities: Mapping[str, Capabilities]) -> Cells:
    """The cells of a task.

    Args:
        space: with "model", "prompt", "n" and "max_tokens", as `Task.space` has it.
        prompts: of these names; prompts that say the same are one.
        capabilities: model to what it accepts.

    Raises:
        ConfigError: more than `MAX_CELLS` cells, however wide the steps.
    """
    views = views_of(space)
    fixed = views[0].settings()
    varied = {name: part for name, part in space.items() if name not in ("model", "prompt", *_READ_OFF)}
    said: dict[str, str] = {}
    for prompt in prompts:
        said.setdefault(prompt.fingerprint, prompt.name)
    for steps in range(STEPS, 1, -1):
        try:
            points = lattice(varied, steps=steps)
        except ConfigError:
            if steps == 2:
                raise
            continue
        configs = _configs(points, fixed, tuple(said.values()), capabilities)
        if len(configs) <= (_ENOUGH if steps > _LEAST_STEPS else MAX_CELLS):
            break
    rows = [{name: value for name, value in config.items() if name not in fixed} for config in configs]
    return Cells(
        grid=Grid.of(_narrowed(varied, rows), rows, usual=USUAL),
        configs=tuple(configs),
        sizes=_sizes(space["n"]),
        views=views,
        viewable=_viewable(views, configs, capabilities),
        notes=(*_lost(varied, rows), *((_thinned(steps, len(rows)),) if steps < STEPS else ())),
    )


def accepted_space(space: Space, capabilities: Mapping[str, Capabilities]) -> Space:
    """The space without the settings that no model takes."""
    taken = set[str]().union(*(one.accepted for one in capabilities.values())) | {"model", "prompt", "n", "max_tokens"}
    found: dict[str, Dimension] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Alternatives):
            left = [accepted_space(option, capabilities) for option in dimension.options]
            left = [option for option, given in zip(left, dimension.options, strict=True) if option or not given]
            if len(left) > 1:
                found[name] = Alternatives(tuple(left))
            elif left:
                found.update(left[0])
        elif name in taken:
            found[name] = dimension
    return found


def sendable(point: Point, capabilities: Capabilities) -> dict[str, Any]:
    """The decoding parameters of one sample of a point, as its model takes them."""
    return compiled(point, capabilities).sent.as_dict()


def estimated_tokens(messages: Sequence[Mapping[str, str]]) -> float:
    """About how many tokens a prompt has: one for every four bytes, and a few for each message."""
    size = sum(len(message["content"].encode(errors="surrogatepass")) for message in messages)
    return size / _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE * len(messages) + _TOKENS_PER_REQUEST


def _configs(
    points: Sequence[Point], fixed: Point, prompts: Sequence[str], capabilities: Mapping[str, Capabilities]
) -> list[dict[str, Any]]:
    """Each thing that can be sent, once, models and prompts outermost."""
    found: dict[str, dict[str, Any]] = {}
    for model, accepted in capabilities.items():
        sent = [sendable({**point, **fixed}, accepted) for point in points]
        for prompt in prompts:
            for params in sent:
                config = {"model": model, "prompt": prompt, **params}
                found.setdefault(point_key(config), config)
    return list(found.values())


def _narrowed(varied: Space, rows: Sequence[Point]) -> Space:
    """The part of the space that the rows lie in."""
    found: dict[str, Dimension] = {
        name: Choice(tuple(dict.fromkeys(row[name] for row in rows))) for name in ("model", "prompt")
    }
    for name, dimension in varied.items():
        leaves = _leaves(name, dimension)
        forms = dict.fromkeys(tuple(leaf for leaf in leaves if leaf in row) for row in rows)
        options = [{leaf: _fitted(leaf, leaves[leaf], rows) for leaf in form} for form in forms]
        if len(options) > 1:
            found[name] = Alternatives(tuple(options))
        else:
            found.update(options[0])
    return found


def _leaves(name: str, dimension: Dimension) -> dict[str, Dimension]:
    """The plain dimensions in one, by the names they have in points."""
    if not isinstance(dimension, Alternatives):
        return {name: dimension}
    return {
        leaf: part for option in dimension.options for key in option for leaf, part in _leaves(key, option[key]).items()
    }


def _fitted(name: str, dimension: Dimension, rows: Sequence[Point]) -> Dimension:
    """The dimension with the values that the rows have: a model's range may end elsewhere."""
    values = [row[name] for row in rows if name in row]
    if isinstance(dimension, Float | Int):
        low, high = min(dimension.low, *values), max(dimension.high, *values)
        log = dimension.log and low > 0
        return Int(int(low), int(high), log=log) if isinstance(dimension, Int) else Float(low, high, log=log)
    return Choice(tuple({point_key({name: value}): value for value in values}.values()))


def _sizes(dimension: Dimension) -> tuple[int, ...]:
    """The n that may be used, ascending."""
    if isinstance(dimension, Choice):
        return tuple(sorted(int(value) for value in dimension.values))
    assert isinstance(dimension, Int), dimension
    return tuple(range(dimension.low, dimension.high + 1))


def _viewable(views: Sequence[View], configs: Sequence[Point], capabilities: Mapping[str, Capabilities]) -> Bools:
    """What a model that thinks first would have said under a smaller cap cannot be read off what it said."""
    accepted = [capabilities[config["model"]] for config in configs]
    stops = np.array(["stop" in one.accepted for one in accepted], bool)
    plain = np.array([not one.reasons for one in accepted], bool)
    first = np.ones(len(configs), bool)
    return np.array([first, *(plain & (stops if view.stop else first) for view in views[1:])], bool)


def _lost(varied: Space, rows: Sequence[Point]) -> list[str]:
    """What some models have no cells for."""
    notes = []
    for name in (leaf for key, dimension in varied.items() for leaf in _leaves(key, dimension)):
        models = dict.fromkeys(row["model"] for row in rows)
        without = [model for model in models if not any(name in row for row in rows if row["model"] == model)]
        if without:
            notes.append(f"{', '.join(without)}: {name} is not taken, so it is not varied there")
    return notes


def _thinned(steps: int, cells: int) -> str:
    return f"ranges are tried at {steps} values each in place of {STEPS}, which makes {cells} cells"
