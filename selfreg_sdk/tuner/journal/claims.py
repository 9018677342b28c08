"""Several purchases at once, shared with the other workers of a study.

All workers want the same, in the same order. Each claims its share, carries it out and waits for the rest: until it is
finished, or until the lease of whoever is at it has run out and it can be claimed in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from selfreg_sdk.errors import RateLimited
from selfreg_sdk.store.draw_row import DrawEnd, DrawId, DrawRow
from selfreg_sdk.store.draws import DrawRows
from selfreg_sdk.store.responses import Responses
from selfreg_sdk.tuner.journal.grouped import Grouped, Slots
from selfreg_sdk.tuner.journal.pace import Pace
from selfreg_sdk.tuner.journal.purchase import Asked, HeldBack, Marking, Means, carry_out
from selfreg_sdk.tuner.journal.recorded import Recorded, recorded

_FIRST_PAUSE, _LONGEST_PAUSE, _LONGER = 0.05, 0.5, 1.5
"""Seconds between two looks at what others are doing; after each that found nothing new, so many times as long."""

_RENEWALS = 3
"""Times that a lease is renewed before it would run out."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Who carries out purchases, and with what.

    Attributes:
        name: unique among the workers of the study.
        rows: of the study.
        responses: recorded replies.
        lease_seconds: so long a claim holds without being renewed.
    """

    name: str
    rows: DrawRows
    responses: Responses
    lease_seconds: float


def is_open(row: DrawRow | None, *, marked: bool, caps: Mapping[str, Decimal]) -> bool:
    """Whether there is work on a draw.

    Args:
        marked: its marks are wanted, too.
        caps: of all budgets; what was refused under a lower cap, or under one that does not count any more, is asked again.
    """
    if row is None or row.state == "open":
        return True
    if row.state == "refused" or (marked and row.state == "bought" and row.marks is None and row.refused):
        assert row.refused is not None, row
        scope, cap = row.refused
        return scope not in caps or caps[scope] > cap
    return marked and row.state == "bought" and row.marks is None and row.mark_error is None


class Batch:
    """One round of purchases; used once.

    Args:
        worker: who does it.
        asked: independent of one another, but those with the same key, which are done in order.
        marking: None leaves samples unmarked.
        caps: of all budgets.
        parallel: calls in flight at once.

    Attributes:
        rows: what is in the journal of what was asked; complete after `run`.
        found: recorded replies by key, as far as they were read.
    """

    def __init__(
        self,
        worker: Worker,
        asked: Sequence[Asked],
        *,
        marking: Marking | None,
        caps: Mapping[str, Decimal],
        parallel: int,
    ) -> None:
        self._worker = worker
        self._pace = Pace(parallel)
        self._needs: Callable[[DrawRow | None], bool] = partial(is_open, marked=marking is not None, caps=caps)
        self._pending = {one.id: one for one in asked}
        self._elsewhere: set[DrawId] = set()
        self._mine: set[DrawId] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._trouble: list[BaseException] = []
        self._scarce = self._freed = False
        self._read = Grouped[str, Recorded](self._replies)
        self._finish = Grouped[DrawEnd, DrawRow | None](self._written)
        longest = max((one.id.count for one in asked), default=1)
        self._means = Means(
            marking=marking,
            read=self._read,
            calling=Slots(parallel, self._check_trouble),
            # A scorer may make a call of its own for every sample.
            scoring=Slots(max(parallel // longest, 1), self._check_trouble),
        )
        self.rows: dict[DrawId, DrawRow] = {}
        self.found: dict[str, Recorded] = {}

    async def run(self) -> None:
        """Carry everything out, or wait until others have.

        Raises:
            Exception: what kept some of it from being done, after all that was begun has ended.
        """
        await self._look(set(self._pending))
        if not self._pending:
            return
        heart = asyncio.create_task(self._beat())
        try:
            await self._work()
        finally:
            heart.cancel()
            for task in self._running:
                task.cancel()
            await asyncio.gather(heart, *self._running, return_exceptions=True)
            await asyncio.gather(self._read.drain(), self._finish.drain())
            if self._mine:
                await asyncio.to_thread(self._worker.rows.release, self._worker.name, list(self._mine))
        if self._trouble:
            raise self._trouble[0]

    async def _work(self) -> None:
        pause, look_at = _FIRST_PAUSE, time.monotonic() + _FIRST_PAUSE
        while self._pending and (self._running or not self._trouble):
            before = len(self._pending)
            if (room := self._room()) and (free := [id_ for id_ in self._pending if self._is_free(id_)]):
                await self._claim(free, room)
            wait = max(look_at - time.monotonic(), 0.0) if self._elsewhere or not self._running else None
            if self._running:
                done, self._running = await asyncio.wait(
                    self._running, timeout=wait, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
            elif wait:
                await asyncio.sleep(wait)
            if time.monotonic() >= look_at:
                await self._look(self._elsewhere)
                pause = _FIRST_PAUSE if len(self._pending) < before else min(pause * _LONGER, _LONGEST_PAUSE)
                look_at = time.monotonic() + pause

    # -- claims ------------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """How many more may be claimed now."""
        if self._trouble or self._pace.rests:
            return 0
        if self._scarce:
            # Money is short: one at a time, whenever some may have become free.
            return int(self._freed or not self._running)
        # Claimed ahead, so that no call waits for a claim; not all, so that others get their part.
        width = self._pace.width
        return 2 * width - len(self._mine) if len(self._mine) < width else 0

    def _is_free(self, id_: DrawId) -> bool:
        return id_ not in self._mine and id_ not in self._elsewhere

    async def _claim(self, free: Sequence[DrawId], room: int) -> None:
        self._freed = False
        worker, alone = self._worker, not self._running
        claiming = asyncio.ensure_future(
            asyncio.to_thread(
                worker.rows.claim, worker.name, free, needs=self._needs, most=room, seconds=worker.lease_seconds
            )
        )
        try:
            claimed = await asyncio.shield(claiming)
        finally:
            # A thread cannot be cancelled: what it claims all the same has to be known, to be given back.
            await asyncio.wait({claiming})
            if claiming.exception() is None:
                self._mine.update(claiming.result().ids)
        # What was not to be had is looked at before it is asked for again.
        taken = set(claimed.ids)
        full = len(taken) == room
        self._elsewhere.update(id_ for id_ in free if id_ not in taken and not full)
        lines: dict[str, list[Asked]] = {}
        for id_ in claimed.ids:
            lines.setdefault(id_.key, []).append(self._pending[id_])
        last_chance = self._scarce and alone and not claimed.others
        for line in lines.values():
            self._running.add(asyncio.create_task(self._carry_out(line, last_chance=last_chance)))

    async def _look(self, ids: set[DrawId]) -> None:
        """Read what became of draws in other hands."""
        wanted = list(ids)
        if not wanted:
            return
        known = await asyncio.to_thread(self._worker.rows.find, {id_.key for id_ in wanted})
        held = {row.id.key for row in known.values() if row.held}
        for id_ in wanted:
            row = known.get(id_)
            self._elsewhere.discard(id_)
            if not self._needs(row):
                assert row is not None
                self._close(row)
            elif id_.key in held:
                self._elsewhere.add(id_)

    # -- work --------------------------------------------------------------------------------------------------------

    async def _carry_out(self, line: Sequence[Asked], *, last_chance: bool) -> None:
        try:
            for asked in line:
                self._check_trouble()
                end, found = await carry_out(asked, means=self._means, last_chance=last_chance)
                self._freed = True
                self._pace.faster()
                self.found[asked.id.key] = found
                row = await self._finish(end)
                self._mine.discard(asked.id)
                if row is None:  # the lease was lost: whoever has it says what became of it
                    self._elsewhere.add(asked.id)
                else:
                    self._close(row)
        except HeldBack:
            self._scarce = True
            await self._give_back(line)
        except RateLimited as error:
            if not self._pace.slower(error):
                self._trouble.append(error)
            await self._give_back(line)
        except Exception as error:
            self._trouble.append(error)

    async def _give_back(self, line: Sequence[Asked]) -> None:
        ids = [one.id for one in line if one.id in self._mine]
        await asyncio.to_thread(self._worker.rows.release, self._worker.name, ids)
        self._mine.difference_update(ids)

    def _check_trouble(self) -> None:
        """Nothing new is begun once something is out of order.

        Raises:
            Exception: that very trouble.
        """
        if self._trouble:
            raise self._trouble[0]

    def _close(self, row: DrawRow) -> None:
        self.rows[row.id] = row
        self._pending.pop(row.id, None)

    async def _beat(self) -> None:
        """Keep the leases alive."""
        while True:
            await asyncio.sleep(self._worker.lease_seconds / _RENEWALS)
            # A renewal that fails is no reason to stop: the next one may not, and without any the leases just run out.
            with contextlib.suppress(Exception):
                await asyncio.to_thread(self._worker.rows.renew, self._worker.name, self._worker.lease_seconds)

    # -- in a thread -------------------------------------------------------------------------------------------------

    def _replies(self, keys: Sequence[str]) -> list[Recorded]:
        found = recorded(self._worker.responses, keys)
        return [found[key] for key in keys]

    def _written(self, ends: Sequence[DrawEnd]) -> list[DrawRow | None]:
        rows = self._worker.rows.finish(self._worker.name, ends)
        return [rows.get(end.id) for end in ends]
