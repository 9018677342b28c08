"""What every kind of store does with changes that are committed in groups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session, select

from selfreg_sdk.cache import ResponseCache
from selfreg_sdk.errors import BudgetExceeded, ConfigError, StoreError
from selfreg_sdk.meter import Meter, Reservation
from selfreg_sdk.store import Store
from selfreg_sdk.store.journal import Hold, Journal
from selfreg_sdk.store.tables import Budget, LedgerRow, Response
from tests.contracts.store_contract import BODY, INFO, USAGE

HANG = 20.0


class Recording(Store):
    """Notes every group: how many changes it held, and whether it waited for the disk."""

    groups: list[bool]

    @contextmanager
    def group(self, *, durable: bool) -> Iterator[Any]:
        self.groups.append(durable)
        with super().group(durable=durable) as cursor:
            yield cursor


def hold(meter: Meter, worst: str, *, cap: str | None = "1", scope: str = "b", **changes: Any) -> Hold:
    return meter._hold([(scope, None if cap is None else Decimal(cap))], Decimal(worst), replace(INFO, **changes))


def wait_for(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(int(HANG / 0.01)):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it never came true")


class WriterContract:
    """The contract. A subclass gives the fixture ``store``: a new, empty one."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        raise NotImplementedError

    def test_one_refusal_in_a_group_is_the_business_of_one(self, store: Store) -> None:
        meter = Meter(store)
        outcomes = Journal(store).post([hold(meter, worst) for worst in ("0.4", "0.7", "0.5", "0.2", "0.1")])

        ids = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert [type(outcome) for outcome in outcomes] == [int, BudgetExceeded, int, BudgetExceeded, int]
        assert (outcomes[1].held, outcomes[3].held) == (Decimal("0.4"), Decimal("0.9")), "in the order handed in"
        assert [entry.id for entry in reversed(meter.ledger())] == ids
        assert meter.status()[0].held == 1

    def test_what_ends_in_a_group_makes_room_in_it(self, store: Store) -> None:
        meter = Meter(store)
        full = meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal(1), info=INFO)
        end = meter._end(full.id, full.scopes, "released", "not sent")
        granted, (attempt, changed) = Journal(store).post([hold(meter, "0.9"), end])

        assert isinstance(granted, int)
        assert (attempt.state, changed) == ("released", True)
        assert meter.status()[0].held == Decimal("0.9")

    def test_an_attempt_that_ends_twice_in_a_group_ends_once(self, store: Store) -> None:
        meter = Meter(store)
        one = meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.4"), info=INFO)
        ends = [meter._settlement(one, Decimal(cost), USAGE, (), None) for cost in ("0.1", "0.3")]
        (first, changed), (second, again) = Journal(store).post(ends)

        assert (changed, again, first.cost, second.cost) == (True, False, 10**11, 10**11)
        assert (meter.status()[0].spent, meter.status()[0].held) == (Decimal("0.1"), 0)

    def test_a_change_that_cannot_be_written_down_fails_alone(self, store: Store) -> None:
        meter = Meter(store)
        with self.gathered(store) as asking:
            asking.start(lambda: meter.reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO))
            asking.start(lambda: self.reserve_for_no_version(meter))
            asking.start(lambda: meter.reserve(scopes=[("b", None)], worst=Decimal(2), info=INFO))

        assert sorted(type(outcome).__name__ for outcome in asking.outcomes) == ["Reservation"] * 2 + ["StoreError"]
        assert len(meter.ledger()) == 2
        assert meter.status()[0].held == 3

    def reserve_for_no_version(self, meter: Meter) -> Reservation:
        return meter.reserve(scopes=[("b", None)], worst=Decimal(4), info=replace(INFO, config_version_id=99))

    def test_a_group_that_fails_records_nothing_and_tells_everybody(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meter = Meter(store)
        meter.reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO)
        write = Journal.post

        def torn(journal: Journal, operations: Any) -> Any:
            with journal._store.group(durable=True) as cursor:
                cursor.execute("DELETE FROM ledger")
                raise StoreError("the disk is full")

        with self.gathered(store) as asking:
            monkeypatch.setattr(Journal, "post", torn)
            for _ in range(5):
                asking.start(lambda: meter.reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO))
        assert [type(outcome) for outcome in asking.outcomes] == [StoreError] * 5
        monkeypatch.setattr(Journal, "post", write)
        assert (len(meter.ledger()), meter.status()[0].held) == (1, 1)

    @contextmanager
    def gathered(self, store: Store) -> Iterator[Asking]:
        """What is asked inside the block waits, so that it is committed in as few groups as can be."""
        asking = Asking()
        with store.write() as connection:
            if store.path is None and "postgresql" in store.url:
                connection.execute(sa.text("LOCK TABLE budget, ledger IN ACCESS EXCLUSIVE MODE"))
            yield asking
            asking.all_are_waiting()
        asking.finish()

    def test_a_settlement_waits_for_the_disk_and_a_reservation_does_not(self, store: Store) -> None:
        recording = self.again(store, Recording)
        with recording:
            recording.groups = []
            meter = Meter(recording)
            first = meter.reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO)
            meter.settle(first, cost=Decimal(1), usage=USAGE)
            meter.release(meter.reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO), "not sent")
            assert recording.groups == [False, True, False, False]

    def again(self, store: Store, kind: type[Store]) -> Any:
        """The same place, opened as another kind of store."""
        return kind(store._location)

    def test_threads_and_two_event_loops_share_one_cap(self, store: Store) -> None:
        meter = Meter(store)
        paid: list[str] = []

        def refuse(error: BudgetExceeded) -> None:
            assert error.held <= 10
            paid.append("refused")

        async def pay() -> None:
            for _ in range(2):
                try:
                    one = await meter.areserve(scopes=[("b", Decimal(10))], worst=Decimal("0.25"), info=INFO)
                except BudgetExceeded as error:
                    refuse(error)
                    continue
                await asyncio.sleep(0)
                await meter.asettle(one, cost=Decimal("0.125"), usage=USAGE)
                paid.append("paid")

        async def loop() -> None:
            await asyncio.gather(*(pay() for _ in range(64)))

        def thread() -> None:
            for _ in range(4):
                try:
                    one = meter.reserve(scopes=[("b", Decimal(10))], worst=Decimal("0.25"), info=INFO)
                except BudgetExceeded as error:
                    refuse(error)
                    continue
                meter.settle(one, cost=Decimal("0.125"), usage=USAGE)
                paid.append("paid")

        threads = [threading.Thread(target=lambda: asyncio.run(loop())) for _ in range(2)]
        threads += [threading.Thread(target=thread) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(HANG)
        assert len(paid) == 2 * 128 + 16
        (status,) = meter.status()
        assert status.held == 0
        assert status.spent == paid.count("paid") * Decimal("0.125") <= 10
        assert status.spent == sum(entry.cost or 0 for entry in meter.ledger())

    def test_rows_written_at_driver_speed_read_back_as_the_tables_say(self, store: Store) -> None:
        now = datetime(2026, 11, 21, 1, 2, 3, 456789, tzinfo=UTC)
        meter = Meter(store, clock=lambda: now.astimezone(), lease_seconds=60)
        info = replace(INFO, params={"stop": ["é\u2028😀", '"', "\n"], "temperature": 0.7, "logit_bias": None})
        one = meter.reserve(scopes=[("é", Decimal(1)), ("b", None)], worst=Decimal("0.4"), info=info)
        reply = ResponseCache(store).record("k", BODY, model="m", endpoint="x")
        meter.settle(one, cost=Decimal("0.1"), usage=USAGE, flags=["z", "a"], response=reply)
        other = meter.reserve(scopes=[], worst=None, info=INFO)
        meter.mark_unknown(other, "%s ? {}")

        with Session(store._process.engine) as session:
            settled, unknown = session.exec(select(LedgerRow).order_by(sa.text("id"))).all()
            budgets = session.exec(select(Budget).order_by(sa.text("scope"))).all()
            (body,) = session.exec(select(Response)).all()
        assert (settled.params, settled.scopes, settled.flags) == (dict(info.params), ["b", "é"], ["a", "z"])
        assert (settled.created_at, settled.ended_at, settled.lease_until) == (now, now, now + timedelta(seconds=60))
        assert settled.created_at.tzinfo == UTC
        assert (settled.state, settled.worst_pico, settled.cost_pico) == ("settled", 4 * 10**11, 10**11)
        assert (settled.prompt_tokens, settled.cached_tokens, settled.config_version_id) == (10, 3, None)
        assert (unknown.state, unknown.scopes, unknown.reason) == ("unknown", [], "%s ? {}")
        assert (unknown.worst_pico, unknown.cost_pico, unknown.prompt_tokens) == (None, None, None)
        assert [(one.scope, one.spent_pico, one.held_pico, one.last_cap_pico) for one in budgets] == [
            ("b", 10**11, 0, None),
            ("é", 10**11, 0, 10**12),
        ]
        assert (body.ledger_id, body.created_at, budgets[0].updated_at) == (settled.id, now, now)

    def test_an_attempt_of_another_store_is_a_clear_error(self, store: Store) -> None:
        with pytest.raises(ConfigError, match="not in this store"):
            Meter(store).release(Reservation(id=77, worst=None, scopes=(), info=INFO), "lost")

    def test_a_budget_that_somebody_deleted_starts_anew(self, store: Store) -> None:
        meter = Meter(store)
        meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.4"), info=INFO)
        with store.write() as connection:
            connection.execute(sa.text("DELETE FROM budget"))
        meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.7"), info=INFO)
        assert meter.status()[0].held == Decimal("0.7")

    def test_a_large_group_is_one_transaction(self, store: Store) -> None:
        meter = Meter(store)
        outcomes = Journal(store).post([hold(meter, "0.01", request_id=f"r{n}") for n in range(103)])
        assert [type(outcome) for outcome in outcomes] == [int] * 100 + [BudgetExceeded] * 3
        assert [entry.request_id for entry in reversed(meter.ledger())] == [f"r{n}" for n in range(100)]
        assert [entry.id for entry in reversed(meter.ledger())] == outcomes[:100]

    def test_closing_commits_what_was_handed_in(self, store: Store) -> None:
        other = self.again(store, Store)
        meter, seen = Meter(other), Meter(store)
        with self.gathered(other) as asking:
            for _ in range(5):
                asking.start(lambda: meter.reserve(scopes=[("b", None)], worst=Decimal(1), info=INFO))
            asking.all_are_waiting()
            closing = threading.Thread(target=other.close)
            closing.start()
        closing.join(HANG)
        assert [type(outcome) for outcome in asking.outcomes] == [Reservation] * 5
        assert not closing.is_alive()
        assert len(seen.ledger()) == 5
        with pytest.raises(StoreError, match="closed"):
            meter.reserve(scopes=[], worst=None, info=INFO)


class Asking:
    """Threads that ask for changes; every outcome is kept, errors too."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._begun = 0

    def start(self, ask: Callable[[], Any]) -> None:
        def run() -> None:
            self._begun += 1
            try:
                self.outcomes.append(ask())
            except Exception as error:
                self.outcomes.append(error)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def all_are_waiting(self) -> None:
        wait_for(lambda: self._begun == len(self._threads))
        threading.Event().wait(0.1)
        assert self.outcomes == []

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(HANG)
        assert len(self.outcomes) == len(self._threads)
