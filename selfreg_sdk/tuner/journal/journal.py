"""The journal of a study: every purchase is a row, so that what was bought once is found ever after.

A search method decides from what its purchases bring and from nothing else, so a search that is run again on the journal
does the same again, at no cost, up to where it had come; and several workers that run the same search share the work, for all
see the same. What became of a request is a row of the study (`selfreg_sdk.store.draws`); its samples are in the store under the hash
of what was sent, where other studies find them, too (`selfreg_sdk.tuner.journal.recorded`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from selfreg_sdk.errors import BudgetExceeded, ConfigError, ProviderError, StoreError
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.store.draw_row import DrawId, DrawRow
from selfreg_sdk.store.draws import DrawRows
from selfreg_sdk.store.responses import Responses
from selfreg_sdk.store.studies import StudyRecord
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.claims import Batch, Worker
from selfreg_sdk.tuner.journal.doors import Door
from selfreg_sdk.tuner.journal.grouped import Gathered
from selfreg_sdk.tuner.journal.orders import Orders
from selfreg_sdk.tuner.journal.purchase import Asked, Marking
from selfreg_sdk.tuner.journal.recorded import Recorded, drawn, recorded
from selfreg_sdk.tuner.journal.workers import is_gone, new_worker
from selfreg_sdk.tuner.scoring.scoring import Mark, Scoring, ScoringError
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.drawing import AsyncDraws, Drawn, DrawRequest, OutOfOrder, Sample

Fate = Literal["bought", "refused", "failed"]

_BYTES_PER_TOKEN = 8
"""Of an answer that is not there yet: twice what text has. What marking it may really cost is known when it is there."""

_PARALLEL = 32


@dataclass(frozen=True, kw_only=True)
class Bought:
    """What became of a request; the same for every worker and after every resume.

    Attributes:
        fate: bought = answered, and scored if that was wanted; refused = its worst case did not fit a budget; failed = the
            call or the scorer, for the ``reason``. Failed and refused ones may have cost something all the same.
        drawn: the samples; also where only scoring them failed. Its cost is without marking.
        marks: their scores, one each, if they were wanted.
        cost: USD that this study first paid for it, drawing and marking; 0 where another study had paid. Attempts of which
            nobody knows how they ended count at their worst case.
        marking: what of it was for marking.
        seconds: how long the provider took; None if nobody measured it.
        refused: the budget that it did not fit, and its cap.
    """

    fate: Fate
    drawn: Drawn | None = None
    marks: tuple[Mark, ...] | None = None
    cost: Decimal = Decimal(0)
    marking: Decimal = Decimal(0)
    seconds: float | None = None
    reason: str = ""
    refused: tuple[str, Decimal] | None = None


class Journal:
    """The journal of one study as one worker uses it. Used on one event loop; close it when done.

    Args:
        shared: the open store.
        study: whose journal.
        doors: reach the models.
        scoring: how samples are marked; None where nobody asks for marks.
        owner: name of this worker, unique; None makes one up, by which others on this machine see at once when it died.
        lease_seconds: so long a worker that shows no sign of life keeps what it began.
        parallel: calls in flight at once of ``mark`` and ``draws``.
    """

    def __init__(
        self,
        *,
        shared: Runtime,
        study: StudyRecord,
        doors: Mapping[str, Door],
        scoring: Scoring | None = None,
        owner: str | None = None,
        lease_seconds: float = 30.0,
        parallel: int = _PARALLEL,
    ) -> None:
        if not doors:
            raise ConfigError("a journal without a door can buy nothing; open one for each model")
        if not lease_seconds > 0:
            raise ConfigError(f"lease_seconds={lease_seconds!r} must be above zero")
        self._scoring = scoring
        self._books = next(iter(doors.values())).calls.books
        self._meter = shared.meter
        self._orders = Orders(doors, study)
        self._worker = Worker(
            name=owner or new_worker(),
            rows=DrawRows(shared.store, study.id, request_id=self._orders.request_id, gone=is_gone),
            responses=Responses(shared.store),
            lease_seconds=lease_seconds,
        )
        self._parallel = parallel
        self._markings: dict[tuple[str, int], Decimal] = {}
        self._marking_all = Gathered[Asked, Bought](self._mark_all)
        self._drawing_all = Gathered[DrawRequest, Bought](self._draw_all)

    def worst(
        self, config: Point, messages: Sequence[Mapping[str, str]], count: int, example: Example | None = None
    ) -> Decimal:
        """USD that one attempt at ``count`` samples can cost at most, never less than what is reserved for it.

        With ``example`` marking them is in it, taking answers of full length to be text. Plain computation; for a judge
        what it accepts may be looked up in the store, once for each example.

        Raises:
            ConfigError: the model was not announced, or a setting is no decoding parameter.
        """
        worst = self._orders.worst(config, messages, count)
        return worst if example is None else worst + count * self._worst_marking(config, example)

    def cost_of(self, config: Point, drawn: Drawn) -> Decimal:
        """USD that samples of a configuration cost when they are asked for alone, whoever paid for which of these. No I/O.

        What this study paid says less: it found a part of them, perhaps, that it or another one had drawn before.
        """
        return self._orders.cost_of(config, drawn)

    async def purchase(self, requests: Sequence[DrawRequest], *, mark: bool, parallel: int) -> list[Bought]:
        """Carry out independent requests, or find them done; in order.

        Workers that purchase the same share the work, and all get the same.

        Args:
            mark: score the samples, too.
            parallel: calls in flight at once.

        Raises:
            SpaceNarrowed: a model refused a setting.
            ProviderError: an endpoint is out of order.
            ConfigError: the store, a price or a setting.
                After any of these, whatever was begun has ended, and what was bought is in the journal.
        """
        orders = [self._orders.order(request) for request in requests]
        asked = [
            Asked(id=order.id, request_id=order.request_id, example=request.example, order=order)
            for request, order in zip(requests, orders, strict=True)
        ]
        return await self._carried_out(asked, mark=mark, parallel=parallel)

    async def mark(self, example: Example, samples: Sequence[Sample]) -> list[Mark]:
        """The scores of samples of this journal, marked now or found; those drawn together are marked together.

        Raises:
            ScoringError: the scorer failed on them.
            BudgetExceeded: a paid call of the scorer did not fit.
            OutOfOrder: with whatever `purchase` raises.
            ConfigError: they are not of this journal.
        """
        rows = await self._rows_of(samples)
        ids = list(dict.fromkeys(rows))
        done = await asyncio.gather(
            *(
                self._marking_all(Asked(id=id_, request_id=self._orders.request_id(id_), example=example, order=None))
                for id_ in ids
            )
        )
        by_id = dict(zip(ids, done, strict=True))
        marks = []
        for sample, id_ in zip(samples, rows, strict=True):
            bought = by_id[id_]
            if bought.marks is None:
                name = "" if self._scoring is None else self._scoring.name
                raise _refusal(bought) or ScoringError(bought.reason, scorer=name, example_id=example.id)
            assert sample.at is not None
            marks.append(bought.marks[sample.at[1] - id_.start])
        return marks

    @property
    def draws(self) -> AsyncDraws:
        """Purchases without marks, for `selfreg_sdk.tuner.search.drawing.adrive`: those of one step are made together."""
        return self

    async def draw(self, request: DrawRequest) -> Drawn:
        """The samples alone, as `draws` gets them.

        Raises:
            BudgetExceeded: they do not fit.
            ProviderError: they failed.
            OutOfOrder: with whatever `purchase` raises.
        """
        bought = await self._drawing_all(request)
        if bought.fate != "bought" or bought.drawn is None:
            raise _refusal(bought) or ProviderError(bought.reason)
        return bought.drawn

    async def aclose(self) -> None:
        """Leave the study to the other workers."""
        await asyncio.to_thread(self._worker.rows.leave, self._worker.name)

    # -- how -----------------------------------------------------------------------------------------------------------

    async def _draw_all(self, requests: Sequence[DrawRequest]) -> list[Bought]:
        try:
            return await self.purchase(requests, mark=False, parallel=self._parallel)
        except Exception as error:
            raise OutOfOrder(error) from error

    async def _mark_all(self, asked: Sequence[Asked]) -> list[Bought]:
        try:
            return await self._carried_out(asked, mark=True, parallel=self._parallel)
        except Exception as error:
            raise OutOfOrder(error) from error

    async def _carried_out(self, asked: Sequence[Asked], *, mark: bool, parallel: int) -> list[Bought]:
        if parallel < 1:
            raise ConfigError(f"parallel={parallel!r} must be at least 1")
        marking = self._marking() if mark else None
        caps = dict(self._books.scopes())
        batch = Batch(self._worker, asked, marking=marking, caps=caps, parallel=parallel)
        await batch.run()
        bought = [one for one in asked if one.order is not None and batch.rows[one.id].state == "bought"]
        found = batch.found
        if missing := {one.id.key for one in bought} - found.keys():
            found |= await asyncio.to_thread(recorded, self._worker.responses, missing)
        return [_bought(batch.rows[one.id], one, found.get(one.id.key), marked=mark) for one in asked]

    def _marking(self) -> Marking:
        if self._scoring is None:
            raise ConfigError("this journal cannot mark samples: give it scoring=")
        return Marking(scoring=self._scoring, budgets=self._books.budgets, meter=self._meter)

    async def _rows_of(self, samples: Sequence[Sample]) -> list[DrawId]:
        """The draw of each sample."""
        places = [sample.at for sample in samples]
        if None in places:
            raise ConfigError("only samples of this journal can be marked here: one of them does not say where it is")
        at = [place for place in places if place is not None]
        rows = await asyncio.to_thread(self._worker.rows.find, {key for key, _ in at})
        there = sorted((id_.start, id_.count, id_) for id_, row in rows.items() if row.state == "bought")
        found = []
        for key, number in at:
            holds = (id_ for start, count, id_ in there if id_.key == key and start <= number < start + count)
            if (id_ := next(holds, None)) is None:
                raise ConfigError(f"sample {number} of {key[:12]!r}... was not bought by this study")
            found.append(id_)
        return found

    def _worst_marking(self, config: Point, example: Example) -> Decimal:
        if self._scoring is None:
            return Decimal(0)
        key = example.id, self._orders.max_tokens(config)
        if key not in self._markings:
            self._markings[key] = self._scoring.worst_case("x" * (_BYTES_PER_TOKEN * key[1]), example)
        return self._markings[key]


def _bought(row: DrawRow, asked: Asked, found: Recorded | None, *, marked: bool) -> Bought:
    """A row of the journal as a search sees it."""
    order, id_ = asked.order, asked.id
    samples: Drawn | None = None
    if row.state == "bought" and order is not None:
        if found is None or found.gaps(id_.start, id_.count):
            raise StoreError(
                f"replies that a study of task {order.task_key!r} paid for are not in the store any more; "
                "start a study of another name"
            )
        samples = drawn(found, id_.start, id_.count, cost=row.cost, bound=order.bound)
    fate: Fate = "failed" if row.state == "open" else row.state
    marks = None
    if marked and row.state == "bought":
        if row.marks is not None:
            marks = tuple(Mark(score=score, ballot=ballot) for score, ballot in row.marks)
        else:
            fate = "failed" if row.mark_error is not None else "refused"
    marking = row.mark_cost if marked else Decimal(0)
    return Bought(
        fate=fate,
        drawn=samples,
        marks=marks,
        cost=row.cost + marking,
        marking=marking,
        seconds=row.seconds,
        reason=(row.mark_error if fate == "failed" and row.mark_error is not None else row.reason)
        if fate != "bought"
        else "",
        refused=row.refused if fate == "refused" else None,
    )


def _refusal(bought: Bought) -> BudgetExceeded | None:
    if bought.refused is None:
        return None
    scope, cap = bought.refused
    # What was spent and held at that time is not known any more; for whoever asks again now, nothing is left.
    return BudgetExceeded(scope=scope, cap=cap, spent=cap, held=Decimal(0), wanted=bought.cost)
