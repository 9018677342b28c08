"""F9: a reply from the cache costs nothing and holds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.cache import ResponseCache, cache_key
from selfreg_sdk.errors import BudgetExceeded
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.usage import Usage
from tests.faults.spending import INFO

# Room for one call and not for two.
CAP = Decimal("0.05")
WORST = Decimal("0.04")
PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.7}
BODY = {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}]}
KEY = cache_key(PAYLOAD, endpoint=INFO.endpoint)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(":memory:") as opened:
        yield opened


def pay(store: Store) -> dict[str, Any]:
    """A call that is sent, settled and stored."""
    meter, cache = Meter(store), ResponseCache(store)
    reservation = meter.reserve(scopes=[("b", CAP)], worst=WORST, info=INFO)
    reply = cache.record(KEY, BODY, model=INFO.model, endpoint=INFO.endpoint)
    meter.settle(reservation, cost=WORST, usage=Usage(prompt_tokens=1, completion_tokens=1), response=reply)
    return BODY


def looks_first(store: Store) -> dict[str, Any]:
    return ResponseCache(store).get(KEY) or pay(store)


def reserves_first(store: Store) -> dict[str, Any]:
    """Broken on purpose: holds the money before it looks into the cache."""
    meter = Meter(store)
    reservation = meter.reserve(scopes=[("b", CAP)], worst=WORST, info=INFO)
    hit = ResponseCache(store).get(KEY)
    meter.release(reservation, "cached")
    return hit or pay(store)


def hits_are_free(store: Store, answer: Callable[[Store], dict[str, Any]]) -> bool:
    """After one paid call: whether further ones give the same reply, with no row and no cent more."""
    assert answer(store) == BODY
    meter = Meter(store)
    before = (meter.ledger(), meter.status(), meter.totals())
    try:
        replies = [answer(store) for _ in range(3)]
    except BudgetExceeded:
        return False
    return replies == [BODY] * 3 and before == (meter.ledger(), meter.status(), meter.totals())


def test_f9_a_hit_costs_nothing_and_holds_nothing(store: Store) -> None:
    assert hits_are_free(store, looks_first)
    assert len(Meter(store).ledger()) == 1
    assert Meter(store).status()[0].held == 0


def test_f9_the_check_catches_a_call_that_reserves_before_it_looks(store: Store) -> None:
    assert not hits_are_free(store, reserves_first)


def test_f9_a_second_sample_of_the_same_request_is_a_call_of_its_own(store: Store) -> None:
    pay(store)
    assert ResponseCache(store).get(KEY, 0) == BODY
    assert ResponseCache(store).get(KEY, 1) is None
