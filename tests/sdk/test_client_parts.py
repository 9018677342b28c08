"""The small parts under the client: the clock, the background loop, the reading of JSON."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ProviderTimeout
from selfreg_sdk.wire.background import background_loop
from selfreg_sdk.wire.connection import Clock, Timeouts
from selfreg_sdk.wire.json_text import json_object

# -- the clock ---------------------------------------------------------------------------------------------------------


def clock(**limits: float) -> Clock:
    return Clock(Timeouts(**limits), None)


async def test_a_wait_that_lasts_too_long_is_ended() -> None:
    for_waits = clock()
    for _ in range(3):
        with pytest.raises(TimeoutError), for_waits.waiting(0.01):
            await asyncio.sleep(20)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    for_waits.stop()


async def test_a_short_wait_after_a_long_one_is_short() -> None:
    for_waits = clock()
    with for_waits.waiting(60):
        await asyncio.sleep(0)
    started = time.monotonic()
    with pytest.raises(TimeoutError), for_waits.waiting(0.01):
        await asyncio.sleep(20)
    assert time.monotonic() - started < 10
    for_waits.stop()


async def test_waits_that_end_in_time_never_add_up() -> None:
    for_waits = clock()
    for _ in range(8):
        with for_waits.waiting(0.2):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.02)  # between waits the timer may fire for nobody
    for_waits.stop()


async def test_time_that_is_up_already_ends_the_wait_at_once() -> None:
    for_waits = clock()
    with pytest.raises(TimeoutError), for_waits.waiting(-1):
        await asyncio.sleep(20)
    for_waits.stop()


async def test_a_cancellation_goes_before_a_timeout() -> None:
    for_waits = clock()

    async def cancelled_while_it_times_out() -> None:
        task = asyncio.current_task()
        assert task is not None
        with for_waits.waiting(0.01):
            try:
                await asyncio.sleep(20)
            finally:
                task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(cancelled_while_it_times_out())
    for_waits.stop()


async def test_nothing_is_left_on_the_loop() -> None:
    for_waits = clock()
    with for_waits.waiting(60):
        await asyncio.sleep(0)
    timer = for_waits._timer
    for_waits.stop()
    assert timer is not None
    assert timer.cancelled()


def test_a_clock_knows_its_deadline() -> None:
    with pytest.raises(ProviderTimeout):
        Clock(Timeouts(), time.monotonic() - 1)
    near = Clock(Timeouts(), time.monotonic() + 0.5)
    assert near.for_headers() <= 0.5
    assert near.for_piece(0.1) <= 0.1
    assert not near.over


# -- the background loop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
def test_no_work_ends_the_loop_of_the_others(error: type[BaseException]) -> None:
    async def fail() -> None:
        raise error("out")

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    with pytest.raises(error, match="out"):
        background_loop().call(fail())
    assert background_loop().call(work()) == "done"


# -- JSON --------------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values, max_size=4), st.booleans())
def test_an_object_is_read_as_the_standard_library_reads_it(value: dict[str, Any], escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert repr(json_object(text.encode())) == repr(json.loads(text))


ODD = [
    b'{"a": 1, "a": 2}', b'{"a": 18446744073709551616}', b'{"a": -170141183460469231731687303715884105729}',
    b'{"a": NaN, "b": -Infinity}', b'{"a": "\\ud83e alone"}', b'\xef\xbb\xbf{"a": 1}', b' {"a": 1e400}\n',
    b'{"a": ' + b"[" * 400 + b"]" * 400 + b"}", '{"a": "\x7f\u2028"}'.encode(),
]  # fmt: skip


@pytest.mark.parametrize("data", ODD)
def test_odd_json_is_json_all_the_same(data: bytes) -> None:
    assert repr(json_object(data)) == repr(json.loads(data))


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b'"{}"', b"{", b'{"a": 1}x', b"{'a': 1}", b'{"a": 01}', b'{"a": "\xff"}', b'{"a": "\n"}'],
)
def test_what_is_no_object_is_none(data: bytes) -> None:
    assert json_object(data) is None


def test_depth_without_end_is_none() -> None:
    assert json_object(b'{"a":' * 100_000) is None
    assert math.isinf((json_object(b'{"a": Infinity}') or {})["a"])
