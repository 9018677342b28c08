"""F8: clocks that jump and local time that repeats an hour: windows are UTC, and no clock ever frees money."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from selfreg_sdk.errors import BudgetExceeded
from selfreg_sdk.meter import Meter, Reservation
from selfreg_sdk.money import Budget
from selfreg_sdk.store import Store
from selfreg_sdk.usage import Usage
from tests.faults.spending import INFO

DAILY = Budget.parse("1.00 USD/day")
WORST = Decimal("0.60")
USAGE = Usage(prompt_tokens=1, completion_tokens=1)


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 10, 24, 12, tzinfo=UTC))


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(":memory:") as opened:
        yield opened


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time of Berlin, by rule and not by name: the machine may have no time zone files."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class LocalDays(Budget):
    """Broken on purpose: days of the local calendar."""

    def window(self, now: datetime) -> str:
        return now.astimezone().strftime("%Y-%m-%d")


class LeaseFreesMeter(Meter):
    """Broken on purpose: an attempt whose lease ended is taken for one that was never billed."""

    def recover(self, now: datetime | None = None) -> int:
        now = now or self._clock()
        expired = self._ledger.expired(now)
        for attempt in expired:
            self._writer.run(self._end(*attempt, "released", "lease ended", now))
        return len(expired)


def call(meter: Meter, clock: Clock, budget: Budget) -> Reservation:
    return meter.reserve(scopes=[(budget.scope_key("b", clock.now), budget.cap)], worst=WORST, info=INFO)


def billed_around(meter: Meter, clock: Clock) -> Decimal:
    """Two calls are sent and billed at their worst case; the clock jumps an hour ahead in between, and back."""
    billed = Decimal(0)
    for _ in range(2):
        try:
            call(meter, clock, Budget.parse("1.00 USD"))
        except BudgetExceeded:
            continue
        billed += WORST
        clock.now += timedelta(hours=1)
        meter.recover()
        clock.now -= timedelta(hours=1)
    return billed


def spends_in_one_utc_day(store: Store, clock: Clock, budget: Budget) -> int:
    """Calls let through within one UTC day that a local midnight cuts in two."""
    meter = Meter(store, clock=clock)
    passed = 0
    for hour in (20, 23):
        clock.now = datetime(2026, 10, 24, hour, tzinfo=UTC)
        try:
            call(meter, clock, budget)
        except BudgetExceeded:
            continue
        passed += 1
    return passed


def test_f8_a_clock_set_back_and_forth_gives_no_second_allowance(store: Store, clock: Clock) -> None:
    meter = Meter(store, clock=clock)
    call(meter, clock, DAILY)
    for jump in (timedelta(days=-1), timedelta(days=1)):
        clock.now += jump
        if jump < timedelta(0):
            call(meter, clock, DAILY)  # yesterday has an allowance of its own, once
        with pytest.raises(BudgetExceeded):
            call(meter, clock, DAILY)
    assert {status.scope: status.held for status in meter.status()} == {"b@2026-10-23": WORST, "b@2026-10-24": WORST}


def test_f8_a_settlement_goes_to_the_window_of_its_reservation(store: Store, clock: Clock) -> None:
    meter = Meter(store, clock=clock)
    reservation = call(meter, clock, DAILY)
    clock.now += timedelta(days=1)
    meter.settle(reservation, cost=Decimal("0.10"), usage=USAGE)

    (status,) = meter.status()
    assert (status.scope, status.spent, status.held) == ("b@2026-10-24", Decimal("0.1"), 0)


def test_f8_the_end_of_a_lease_frees_nothing(store: Store, clock: Clock) -> None:
    assert billed_around(Meter(store, clock=clock), clock) == WORST


def test_f8_the_check_catches_a_lease_that_frees_money(store: Store, clock: Clock) -> None:
    assert billed_around(LeaseFreesMeter(store, clock=clock), clock) > Decimal(1)


def test_f8_an_attempt_marked_unknown_by_a_clock_jump_is_corrected_when_it_settles(store: Store, clock: Clock) -> None:
    meter = Meter(store, clock=clock, lease_seconds=900)
    reservation = call(meter, clock, DAILY)
    clock.now += timedelta(days=400)
    assert meter.recover() == 1
    assert (meter.ledger()[0].state, meter.status()[0].spent) == ("unknown", WORST)

    clock.now -= timedelta(days=400)
    meter.settle(reservation, cost=Decimal("0.25"), usage=USAGE)
    (entry,), (status,) = meter.ledger(), meter.status()
    assert (entry.state, entry.cost, entry.flags) == ("settled", Decimal("0.25"), ("late",))
    assert (status.spent, status.held) == (Decimal("0.25"), 0)


def test_f8_a_clock_set_back_keeps_leases_running(store: Store, clock: Clock) -> None:
    meter = Meter(store, clock=clock)
    call(meter, clock, DAILY)
    clock.now -= timedelta(days=1)
    assert meter.recover() == 0
    assert meter.ledger()[0].state == "reserved"


def test_f8_windows_are_utc_days_whatever_local_time_does(store: Store, clock: Clock, berlin: None) -> None:
    # 22:00 UTC is midnight in Berlin.
    assert spends_in_one_utc_day(store, clock, DAILY) == 1


def test_f8_the_check_catches_windows_in_local_time(store: Store, clock: Clock, berlin: None) -> None:
    assert spends_in_one_utc_day(store, clock, LocalDays(cap=DAILY.cap, period="day")) == 2


def test_f8_the_hour_that_happens_twice_is_one_window_and_in_order(berlin: None) -> None:
    # 02:30 local happens at 00:30 and at 01:30 UTC on the day summer time ends.
    twice = [datetime(2026, 10, 25, hour, 30, tzinfo=UTC).astimezone() for hour in (0, 1)]
    assert [moment.strftime("%H:%M") for moment in twice] == ["02:30", "02:30"]
    assert [DAILY.window(moment) for moment in twice] == ["2026-10-25", "2026-10-25"]


def test_f8_stored_stamps_are_utc_for_any_zone_of_the_clock(store: Store, berlin: None) -> None:
    moment = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    meter = Meter(store, clock=lambda: moment.astimezone())
    meter.reserve(scopes=[], worst=WORST, info=INFO)
    (entry,) = meter.ledger()
    assert entry.created_at == moment
    assert entry.created_at.tzinfo == UTC
