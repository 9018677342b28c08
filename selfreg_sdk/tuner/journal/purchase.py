"""One purchase, carried out: what is missing is drawn, what is there is marked, and whatever goes wrong has a name.

Three kinds of trouble are told apart. What is wrong with this request alone makes it a failed one, which the journal keeps, so
that nobody asks it again. What does not fit a budget is refused, which it keeps with the cap. Everything else says that the
endpoint or the set-up is out of order: it is raised, and the request stays open.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from selfreg_sdk.ambient import on_behalf_of, spending_under
from selfreg_sdk.cache import is_whole
from selfreg_sdk.errors import (
    BadRequest,
    BudgetExceeded,
    MalformedReply,
    ParameterRejected,
    ProviderError,
    ProviderTimeout,
    SelfregError,
    StoreError,
    TruncatedStream,
)
from selfreg_sdk.meter import Meter
from selfreg_sdk.money import Budget
from selfreg_sdk.store.draw_row import DrawEnd, DrawId
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.doors import SpaceNarrowed
from selfreg_sdk.tuner.journal.grouped import Slots, together
from selfreg_sdk.tuner.journal.orders import Order
from selfreg_sdk.tuner.journal.recorded import Recorded, seconds
from selfreg_sdk.tuner.scoring.scoring import Mark, Scoring, ScoringError
from selfreg_sdk.tuner.search.drawing import Sample

_OF_THE_REQUEST = (BadRequest, MalformedReply, TruncatedStream, ProviderTimeout)
"""Errors that say something about what was asked, once the attempts at it are used up."""

_OF_THE_ACCOUNT = re.compile(
    r"credit balance|insufficient (credit|quota|balance|funds)|billing (hard )?limit|exceeded your (current )?quota",
    re.IGNORECASE,
)
"""Words by which some endpoints tell in a 400 that they serve this key nothing at all."""


class HeldBack(Exception):
    """A call would fit its budget if others in flight did not hold so much; it may, once they have ended."""


class _Unusable(SelfregError):
    """A reply that is paid, but must not be used."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be done.

    Attributes:
        id: names it in the journal.
        request_id: names it in the ledger.
        order: how its samples are drawn; None where they are known to be there.
    """

    id: DrawId
    request_id: str
    example: Example
    order: Order | None


@dataclass(frozen=True, kw_only=True)
class Marking:
    """How samples are scored, and what pays for it.

    Attributes:
        budgets: whatever the scorer calls counts under these, in the ledger of ``meter``.
    """

    scoring: Scoring
    budgets: Mapping[str, Budget]
    meter: Meter

    async def marks(self, samples: Sequence[Sample], example: Example, request_id: str) -> list[Mark]:
        """Score them; paid calls of the scorer stand under ``request_id`` in the ledger.

        Raises:
            ScoringError: the scorer failed on them.
            BudgetExceeded: a paid call did not fit.
            ProviderError: the model behind the scorer is out of order.
        """
        with on_behalf_of(request_id), spending_under(self.budgets, ledger=self.meter):
            try:
                return await self.scoring.score_all([sample.text for sample in samples], example)
            except ScoringError as error:
                cause = error.__cause__
                if isinstance(cause, ProviderError | StoreError) and not _is_about_request(cause):
                    raise cause from None
                raise


@dataclass(frozen=True, kw_only=True)
class Means:
    """What purchases are carried out with.

    Attributes:
        marking: None leaves samples unmarked.
        read: what is recorded under a key.
        calling: every call for samples takes one of these slots.
        scoring: every request whose samples are marked takes one of these.
    """

    marking: Marking | None
    read: Callable[[str], Awaitable[Recorded]]
    calling: Slots
    scoring: Slots


async def carry_out(asked: Asked, *, means: Means, last_chance: bool) -> tuple[DrawEnd, Recorded]:
    """Draw what is missing, and mark.

    Args:
        last_chance: nothing is in flight that could free money, so what does not fit now is refused.

    Raises:
        HeldBack: try again when other calls have ended.
        SpaceNarrowed: the model refused a setting.
        ProviderError: the endpoint is out of order.
        ConfigError: the store, a price or a setting.
    """
    id_ = asked.id
    found = await means.read(id_.key)
    if asked.order is not None and (gaps := found.gaps(id_.start, id_.count)):
        try:
            await _fill(asked.order, gaps, means.calling)
        except Exception as error:
            return _ended(id_, error, last_chance=last_chance), found
        found = await means.read(id_.key)
    if found.gaps(id_.start, id_.count):
        return DrawEnd(id=id_, state="failed", reason="a reply could not be kept, or was deleted from the store"), found
    took = seconds(found, id_.start, id_.count)
    if means.marking is None:
        return DrawEnd(id=id_, state="bought", seconds=took), found
    try:
        async with means.scoring:
            marks = await means.marking.marks(found.samples(id_.start, id_.count), asked.example, asked.request_id)
    except ScoringError as error:
        return DrawEnd(id=id_, state="bought", seconds=took, mark_error=error.message), found
    except BudgetExceeded as error:
        return DrawEnd(
            id=id_, state="bought", seconds=took, refused=_refusal(error, last_chance), reason=str(error)
        ), found
    pairs = tuple((mark.score, mark.ballot) for mark in marks)
    return DrawEnd(id=id_, state="bought", seconds=took, marks=pairs), found


async def _fill(order: Order, gaps: Sequence[tuple[int, int]], slots: Slots) -> None:
    """Draw the samples that are missing."""
    try:
        _raise_worst(await together(_fill_gap(order, first, count, slots) for first, count in gaps))
    except ParameterRejected as error:
        if error.param not in order.compiled.wire:
            raise
        await asyncio.to_thread(order.door.learn, error.param or "", "rejected", str(error))
        raise SpaceNarrowed(model=order.door.model, setting=error.param or "") from error


async def _fill_gap(order: Order, first: int, count: int, slots: Slots) -> None:
    while count:
        size = min(count, order.at_once)
        if size == 1:
            _raise_worst(await together(_call(order, number, 1, slots) for number in range(first, first + count)))
            return
        try:
            got = await _call(order, first, size, slots)
        except ParameterRejected as error:
            if error.param != "n":
                raise
            await asyncio.to_thread(order.door.learn, "n", "rejected", str(error))
            continue
        if got == 1:
            await asyncio.to_thread(order.door.learn, "n", "ignored", f"1 choice for n={size}")
        first, count = first + got, max(count - got, 0)


async def _call(order: Order, start: int, n: int, slots: Slots) -> int:
    """One paid call; how many samples it brought, which are recorded."""
    async with slots:
        answer, _ = await order.door.calls.acomplete(order.spec(start, n), order.door.channel)
    for reason in answer.finish_reasons:
        if not is_whole(reason):
            raise _Unusable(f"an answer ended with finish_reason {reason!r}")
    return len(answer.texts)


def _raise_worst(results: Sequence[object]) -> None:
    """Raise the error that says most: of the set-up before one about money before one about the request."""
    errors = [error for error in results if isinstance(error, BaseException)]
    if errors:
        raise min(
            errors, key=lambda error: 2 if _is_about_request(error) else 1 if isinstance(error, BudgetExceeded) else 0
        )


def _is_about_request(error: BaseException) -> bool:
    if type(error) is BadRequest and _OF_THE_ACCOUNT.search(str(error)):
        return False
    return isinstance(error, (*_OF_THE_REQUEST, _Unusable))


def _ended(id_: DrawId, error: Exception, *, last_chance: bool) -> DrawEnd:
    if isinstance(error, BudgetExceeded):
        return DrawEnd(id=id_, state="refused", refused=_refusal(error, last_chance), reason=str(error))
    if _is_about_request(error):
        return DrawEnd(id=id_, state="failed", reason=f"{type(error).__name__.lstrip('_')}: {error}")
    raise error


def _refusal(error: BudgetExceeded, last_chance: bool) -> tuple[str, Decimal]:
    if not last_chance and error.spent + error.wanted <= error.cap:
        raise HeldBack from error
    return error.scope, error.cap
