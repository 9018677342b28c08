from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from selfreg_sdk.cache import ResponseCache, cache_key
from selfreg_sdk.meter import Meter
from selfreg_sdk.store import Store
from selfreg_sdk.store.responses import Responses
from selfreg_sdk.usage import Usage
from tests.faults.spending import INFO

BODY: dict[str, Any] = {"choices": [{"finish_reason": "stop", "message": {"content": "hello"}}]}


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    payload = {"model": "m", "messages": [{"role": "user", "content": "hé"}], "temperature": 0.7, "n": 1}
    key = cache_key(payload, endpoint="http://localhost:8000/v1/")
    assert key == "fdb83566361e65af33d13eaa24e6367015dcd6c2cc2ca6d902231c63b38180e2"


def test_a_reply_is_found_again_after_the_store_was_closed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        meter = Meter(store)
        reply = ResponseCache(store).record("k", BODY, model="m", endpoint=INFO.endpoint)
        reservation = meter.reserve(scopes=[], worst=None, info=INFO)
        assert ResponseCache(store).get("k") is None, "only a settlement stores it"
        meter.settle(reservation, cost=None, usage=Usage(prompt_tokens=1, completion_tokens=1), response=reply)
    with Store.open(tmp_path / "store.db") as store:
        assert ResponseCache(store).get("k") == BODY


def test_a_reply_names_the_attempt_that_paid_for_it(tmp_path: Path) -> None:
    with Store.open(":memory:") as store:
        meter = Meter(store)
        reservation = meter.reserve(scopes=[], worst=None, info=INFO)
        reply = ResponseCache(store).record("k", BODY, model="m", endpoint="http://user:pw@host/v1?key=k")
        meter.settle(reservation, cost=None, usage=None, response=reply)
        with store.read() as connection:
            row = connection.execute(sa.text("SELECT ledger_id, model, endpoint FROM response")).one()
    assert tuple(row) == (reservation.id, "m", "http://host/v1")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": None},
        {"choices": "stop"},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{}]},
        {**BODY, "score": float("nan")},
        {**BODY, "raw": object()},
        {**BODY, 1: "one"},
    ],
)
def test_what_is_no_whole_json_reply_is_not_recorded(body: Any) -> None:
    with Store.open(":memory:") as store:
        assert ResponseCache(store).record("k", body, model="m", endpoint=INFO.endpoint) is None
        assert Responses(store).count() == 0
