"""Views: other settings that could have produced the recorded samples, read off them at no further cost.

Samples are drawn with the longest ``max_tokens`` and without a stop sequence. What a smaller cap or a stop sequence would have
left of a sample is its beginning, so the same samples tell the score and the price of every such setting. No tokenizer
of a remote model is to be had, so tokens of a beginning are its share of the sample's bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.pool.grid import Floats, Ints
from selfreg_sdk.tuner.search.dimensions import Choice, Dimension, Int, Space
from selfreg_sdk.tuner.search.drawing import Sample

STEPS = 6
"""Caps read off a range of max_tokens, both ends included, evenly spaced on a logarithmic scale."""
MOST_VIEWS = 48
"""Each view is a bill of its own, and every sample it cuts is scored once more."""
NAMES = ("max_tokens", "stop")
"""Dimensions that are views and no part of a cell."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One cap and one setting of stop sequences.

    Attributes:
        max_tokens: None is no cap.
        stop: sequences before which an answer ends; empty for none.
        offered: whether the space allows it; if not, samples are only drawn so.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    offered: bool = True

    def settings(self) -> dict[str, Any]:
        """What a configuration adds to its cell to be answered like this: what is not set is left out."""
        cap = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {**cap, "stop": list(self.stop)} if self.stop else cap


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a view leaves of a sample.

    Attributes:
        text: the beginning of its text.
        tokens: billed for it.
        changed: whether anything was cut off.
    """

    text: str
    tokens: int
    changed: bool


class Seen(Protocol):
    """The samples of a pool through views. Arrays are read between purchases, never during one.

    Attributes:
        views: the first is how samples are drawn: `Pool.score` and `Pool.tokens` speak of it.
    """

    @property
    def views(self) -> tuple[View, ...]: ...  # noqa: D102 - told above

    def view_tokens(self, view: int) -> Floats:
        """(C, P) mean answer tokens of the samples taken, as cut by a view."""
        ...

    def view_changed(self, view: int) -> Floats:
        """(C, P) share of the samples taken that a view changes; NaN where its settings cannot be sent."""
        ...

    def view_score(self, view: int, cell: Ints, example: Ints, n: Ints) -> Floats:
        """The metric on the first n samples of each (cell, example) as cut, (R,).

        Asked only where a sample is changed. NaN where that is not known, for a scorer of one's own costs money or it failed:
        the view is then not offered for that arm.
        """
        ...


def views_of(space: Space, *, steps: int = STEPS) -> tuple[View, ...]:
    """How to draw, then every other cap and stop setting of a space, longest caps first.

    The first view has the longest cap and no stop sequence, or the only stop setting there is: then the provider stops.

    Args:
        space: its dimensions ``max_tokens`` and ``stop`` count; either may be missing.
        steps: caps read off a range.

    Raises:
        ConfigError: more than `MOST_VIEWS`, or a cap that is no positive whole number.
    """
    caps = _caps(space.get("max_tokens"), steps)
    stops = _stops(space.get("stop"))
    if len(caps) * len(stops) > MOST_VIEWS:
        raise ConfigError(
            f"{len(caps)} values of max_tokens x {len(stops)} of stop: at most {MOST_VIEWS} combinations; give fewer"
        )
    drawn = stops[0] if len(stops) == 1 else ()
    every = [View(max_tokens=cap, stop=stop) for stop in stops for cap in caps]
    first = View(max_tokens=caps[0], stop=drawn, offered=drawn in stops)
    return (first, *(view for view in every if view != first))


def cut(sample: Sample, view: View, *, hidden: int = 0) -> Cut:
    """What the view's settings would have left of a sample.

    A stop sequence ends the text before itself, and is billed. A cap keeps so large a share of the text's UTF-8 bytes as
    it keeps of its tokens, and no broken character. Whichever comes first counts. An answer that fits is untouched.

    Args:
        hidden: of the sample's tokens, those of reasoning that stands not in the text; they come first, and a cap counts
            them too.

    Raises:
        ConfigError: the sample's tokens are not known; see `shared_tokens`.
    """
    if sample.tokens is None:
        raise ConfigError(
            "a sample without a number of tokens cannot be cut; share those of its reply by shared_tokens"
        )
    whole = Cut(text=sample.text, tokens=sample.tokens, changed=False)
    spoken = max(sample.tokens - hidden, 0)
    data = sample.text.encode()
    room = len(data)
    if view.max_tokens is not None and sample.tokens > view.max_tokens:
        room = len(data) * max(view.max_tokens - hidden, 0) // max(spoken, 1)
    ends = [(start, start + len(mark)) for mark in map(str.encode, view.stop) if (start := data.find(mark)) >= 0]
    start, end = min(ends, key=lambda at: at[1], default=(room, len(data) + 1))
    if end <= room:
        tokens = hidden + math.ceil(spoken * end / len(data))
        return Cut(text=data[:start].decode(), tokens=min(tokens, sample.tokens), changed=True)
    if view.max_tokens is None or sample.tokens <= view.max_tokens:
        return whole
    return Cut(text=data[:room].decode(errors="ignore"), tokens=view.max_tokens, changed=True)


def shared_tokens(texts: Sequence[str], total: int) -> tuple[int, ...]:
    """The tokens of a reply among its samples, by bytes: no provider tells them apart. They sum to the total.

    Each sample counts one byte more than its text has, for an answer also ends.
    """
    weight = np.array([len(text.encode()) + 1 for text in texts], float)
    ends = np.rint(np.cumsum(weight) / weight.sum() * total).astype(np.int64)
    return tuple(int(part) for part in np.diff(ends, prepend=0))


def _caps(dimension: Dimension | None, steps: int) -> tuple[int | None, ...]:
    """Caps of a dimension, the longest first; None, no cap, is longer than any."""
    if dimension is None:
        return (None,)
    if isinstance(dimension, Int):
        spots = np.geomspace(dimension.low, dimension.high, steps) if dimension.low >= 1 else [dimension.low]
        values: set[Any] = {min(max(round(float(spot)), dimension.low), dimension.high) for spot in spots}
    elif isinstance(dimension, Choice):
        values = set(dimension.values)
    else:
        raise ConfigError(f"max_tokens={dimension!r}: give whole numbers to choose from, or a range of them")
    if any(value is not None and not (isinstance(value, int) and value >= 1) for value in values):
        raise ConfigError(f"max_tokens={dimension!r}: give whole numbers of at least 1")
    return tuple(sorted(values, key=lambda value: -math.inf if value is None else -value))


def _stops(dimension: Dimension | None) -> tuple[tuple[str, ...], ...]:
    """Settings of stop sequences, none first, each once."""
    if dimension is None:
        return ((),)
    if not isinstance(dimension, Choice):
        raise ConfigError(f"stop={dimension!r}: give settings to choose from, each a list of texts, or null for none")
    found = {(value,) if isinstance(value, str) else tuple(value or ()): None for value in dimension.values}
    return tuple(sorted(found, key=bool))
