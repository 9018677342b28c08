"""F22: a damaged or old row of the cache is a miss and is deleted; it is never an error and never an answer."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from selfreg_sdk.cache import ResponseCache
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.responses import Responses
from selfreg_sdk.usage import Usage
from tests.faults.spending import INFO

BODY: dict[str, Any] = {"choices": [{"finish_reason": "stop", "message": {"content": "the answer is 42"}}]}

DAMAGE = {
    "flipped text": "UPDATE response SET body = replace(body, '42', '43')",
    "cut off": "UPDATE response SET body = substr(body, 1, 20)",
    "older format": "UPDATE response SET format = 0",
    "no object": "UPDATE response SET body = '[1]'",
}


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(":memory:") as opened:
        meter, cache = Meter(opened), ResponseCache(opened)
        reservation = meter.reserve(scopes=[], worst=Decimal(0), info=INFO)
        reply = cache.record("key", BODY, model="m", endpoint=INFO.endpoint)
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        meter.settle(reservation, cost=Decimal(0), usage=usage, response=reply)
        assert cache.get("key") == BODY
        yield opened


@pytest.mark.parametrize("damage", DAMAGE)
def test_f22_a_damaged_row_is_a_miss_and_deleted(store: Store, damage: str) -> None:
    with store.write() as connection:
        connection.execute(sa.text(DAMAGE[damage]))

    assert ResponseCache(store).get("key") is None
    assert Responses(store).count() == 0


def test_f22_the_check_catches_a_cache_that_trusts_its_rows(store: Store) -> None:
    with store.write() as connection:
        connection.execute(sa.text(DAMAGE["flipped text"]))

    row = Responses(store).find("key", 0)
    assert row is not None
    assert "the answer is 43" in row.body, "valid JSON, and wrong"
    assert not row.intact
