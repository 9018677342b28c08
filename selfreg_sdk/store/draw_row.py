"""A draw as a row: what a study asked for and what became of it. Rows are claimed and finished in `selfreg_sdk.store.draws`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy as sa

from selfreg_sdk.money import from_pico, to_pico

DrawState = Literal["open", "bought", "failed", "refused"]

_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class DrawId:
    """Names a draw within its study: ``count`` samples from number ``start`` on of the request ``key``."""

    key: str
    start: int
    count: int


@dataclass(frozen=True, kw_only=True)
class DrawEnd:
    """What became of a draw.

    Attributes:
        marks: (score, ballot) of each sample; None if they were not marked.
        mark_error: why the scorer failed on them.
        refused: the budget that it did not fit, and its cap.
    """

    id: DrawId
    state: DrawState
    seconds: float | None = None
    marks: tuple[tuple[float, str | None], ...] | None = None
    mark_error: str | None = None
    reason: str = ""
    refused: tuple[str, Decimal] | None = None


@dataclass(frozen=True, kw_only=True)
class DrawRow(DrawEnd):
    """A draw as it is stored.

    Attributes:
        cost: USD for the samples, as this study paid it.
        mark_cost: USD for marking them.
        held: a worker was at it when it was read.
    """

    cost: Decimal
    mark_cost: Decimal
    held: bool


def id_of(row: sa.RowMapping) -> DrawId:
    """Its name."""
    return DrawId(row["key"], row["start"], row["count"])


def draw_of(row: sa.RowMapping, *, held: bool) -> DrawRow:
    """The draw in a row of the table."""
    marks, scope, cap = row["marks"], row["refused_scope"], row["refused_cap_pico"]
    return DrawRow(
        id=id_of(row),
        state=row["state"],
        seconds=row["seconds"],
        marks=None if marks is None else tuple((float(score), ballot) for score, ballot in marks),
        mark_error=row["mark_error"],
        reason=row["reason"] or "",
        refused=None if scope is None else (scope, from_pico(cap)),
        cost=from_pico(row["cost_pico"]),
        mark_cost=from_pico(row["mark_cost_pico"]),
        held=held,
    )


def ending_of(end: DrawEnd) -> dict[str, Any]:
    """What is written down of an end, as parameters of the UPDATE that does it."""
    scope, cap = end.refused or (None, None)
    return {
        "to_state": end.state,
        "to_seconds": end.seconds,
        "to_marks": None if end.marks is None else [list(mark) for mark in end.marks],
        "to_mark_error": end.mark_error,
        "to_reason": end.reason[:_LONGEST_REASON] or None,
        "to_scope": scope,
        "to_cap": None if cap is None else to_pico(cap, round_up=False),
    }
