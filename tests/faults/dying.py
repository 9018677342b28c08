"""One paid call that stops at a chosen point and waits there to be killed: the child process of F3.

Run as ``python -m tests.faults.dying STORE BILL METER POINT``. It says the point on stdout and then sleeps.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from selfreg_sdk.cache import ResponseCache, cache_key
from selfreg_sdk.meter import AttemptInfo, Meter, Reservation
from selfreg_sdk.store import Store
from selfreg_sdk.store.responses import RecordedResponse, response_row
from selfreg_sdk.store.tables import metadata
from selfreg_sdk.usage import Usage
from tests.faults.spending import INFO, Bill

Point = Literal["reserved", "after-answer", "before-commit", "between-commits", "after-commit"]

SCOPE = "shared"
CAP = Decimal(1)
WORST = Decimal("0.3")
COST = Decimal("0.1")
PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
KEY = cache_key(PAYLOAD, endpoint=INFO.endpoint)
BODY = {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}]}


class PausingStore(Store):
    """Calls ``pause`` at the end of every group of changes, before its commit."""

    pause: Callable[[], None] | None = None

    @contextmanager
    def group(self, *, durable: bool) -> Iterator[Any]:
        with super().group(durable=durable) as cursor:
            yield cursor
            if self.pause is not None:
                self.pause()


class TwoCommitsMeter(Meter):
    """Broken on purpose: settles in one transaction and stores the reply in another."""

    between: Callable[[], None] = staticmethod(lambda: None)

    def settle(
        self,
        reservation: Reservation,
        *,
        cost: Decimal | None,
        usage: Usage | None,
        flags: Iterable[str] = (),
        response: RecordedResponse | None = None,
    ) -> Decimal | None:
        charged = super().settle(reservation, cost=cost, usage=usage, flags=flags)
        self.between()
        if response is not None:
            row = response_row(response, ledger_id=reservation.id, now=datetime.now(UTC))
            with self._store.write() as connection:
                connection.execute(sa.insert(metadata.tables["response"]), row)
        return charged


class HoldsNothingMeter(Meter):
    """Broken on purpose: counts only what is known after the reply."""

    def reserve(
        self, *, scopes: Sequence[tuple[str, Decimal | None]], worst: Decimal | None, info: AttemptInfo
    ) -> Reservation:
        return super().reserve(scopes=scopes, worst=Decimal(0), info=info)


METERS: dict[str, type[Meter]] = {"real": Meter, "two-commits": TwoCommitsMeter, "holds-nothing": HoldsNothingMeter}


def main() -> None:
    path, bill_path, meter_name, point = sys.argv[1:]

    def stop() -> None:
        print(point, flush=True)
        time.sleep(600)

    located = Store.open(path)
    store = PausingStore(located._location)
    located.close()
    meter = METERS[meter_name](store)
    if isinstance(meter, TwoCommitsMeter) and point == "between-commits":
        meter.between = stop
    if point == "reserved":
        store.sync = lambda: None  # type: ignore[method-assign]  # nothing but the commit itself
    reservation = meter.reserve(scopes=[(SCOPE, CAP)], worst=WORST, info=INFO)
    Bill(Path(bill_path)).add(COST)
    if point in ("reserved", "after-answer"):
        stop()
    if point == "before-commit":
        store.pause = stop
    reply = ResponseCache(store).record(KEY, BODY, model="m", endpoint=INFO.endpoint)
    meter.settle(reservation, cost=COST, usage=Usage(prompt_tokens=3, completion_tokens=4), response=reply)
    if point == "after-commit":
        stop()


if __name__ == "__main__":
    main()
