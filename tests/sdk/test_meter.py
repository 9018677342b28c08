"""What the meter refuses. What it counts is in the store contract and the faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.usage import Usage
from tests.faults.spending import INFO

USAGE = Usage(prompt_tokens=1, completion_tokens=1)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(":memory:") as opened:
        yield opened


@pytest.mark.parametrize(
    "bad",
    [
        {"lease_seconds": 0},
        {"soft": Decimal("0.5")},
        {"on_soft": print},
        {"soft": Decimal(0), "on_soft": print},
        {"soft": Decimal(2), "on_soft": print},
    ],
)
def test_a_meter_that_cannot_work_is_refused(store: Store, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"lease_seconds|soft"):
        Meter(store, **bad)


def test_a_scope_is_named_once(store: Store) -> None:
    with pytest.raises(ConfigError, match="twice"):
        Meter(store).reserve(scopes=[("b", Decimal(1)), ("b", None)], worst=Decimal(1), info=INFO)


@pytest.mark.parametrize("worst", [Decimal(-1), Decimal("nan"), Decimal("inf"), Decimal(10**7)])
def test_a_worst_case_that_is_no_amount_holds_nothing(store: Store, worst: Decimal) -> None:
    with pytest.raises(ConfigError):
        Meter(store).reserve(scopes=[("b", None)], worst=worst, info=INFO)
    assert Meter(store).status() == ()


def test_a_negative_cost_is_refused_and_the_attempt_stays_reserved(store: Store) -> None:
    meter = Meter(store)
    reservation = meter.reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.5"), info=INFO)
    with pytest.raises(ConfigError, match="negative"):
        meter.settle(reservation, cost=Decimal("-0.5"), usage=USAGE)
    assert meter.ledger()[0].state == "reserved"
    assert meter.status()[0].held == Decimal("0.5")


def test_a_request_that_cannot_be_written_down_holds_nothing(store: Store) -> None:
    info = replace(INFO, params={"temperature": float("nan")})
    with pytest.raises(ConfigError, match="JSON"):
        Meter(store).reserve(scopes=[("b", Decimal(1))], worst=Decimal("0.5"), info=info)
    assert Meter(store).status() == ()


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(("reserve", "settle", "release", "mark_unknown", "recover")),
        st.integers(0, 5),
        st.integers(0, 40),
    ),
    max_size=20,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS)
def test_after_any_course_of_events_the_sums_are_those_of_the_rows(
    store: Store, actions: list[tuple[str, int, int]]
) -> None:
    meter = Meter(store, lease_seconds=1e-6)
    cap, open_calls = Decimal(1), []
    scope = f"b{len(meter.ledger())}"
    for action, which, cents in actions:
        amount = Decimal(cents) / 100
        if action == "reserve":
            used = sum((one.spent + one.held for one in meter.status([scope])), Decimal(0))
            try:
                open_calls.append(meter.reserve(scopes=[(scope, cap), ("all", None)], worst=amount, info=INFO))
                fitted = True
            except BudgetExceeded:
                fitted = False
            assert fitted == (used + amount <= cap)
        elif action == "recover":
            meter.recover()
        elif open_calls:
            call = open_calls[which % len(open_calls)]
            if action == "settle":
                meter.settle(call, cost=min(amount, call.worst or Decimal(0)), usage=USAGE)
            elif action == "release":
                meter.release(call, "test")
            else:
                meter.mark_unknown(call, "test")
        rows = meter.ledger()
        for status in meter.status():
            mine = [row for row in rows if status.scope in row.scopes]
            assert status.spent == sum((row.cost or Decimal(0) for row in mine), Decimal(0))
            held = (row.worst or Decimal(0) for row in mine if row.state == "reserved")
            assert status.held == sum(held, Decimal(0))
            assert status.cap is None or status.spent + status.held <= status.cap
