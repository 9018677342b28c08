"""The paid-call path: when it repeats, how long it waits, and that every attempt is one ledger row."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.booking import Receipt
from selfreg_sdk.calls import Retry
from selfreg_sdk.errors import (
    AuthFailed,
    BadRequest,
    BudgetExceeded,
    ConfigError,
    ContextLengthExceeded,
    MalformedReply,
    NotFound,
    ProviderTimeout,
    RateLimited,
    ServerFailed,
    TruncatedStream,
)
from tests.fake_provider import (
    FakeProvider,
    closed_before_headers,
    context_length_exceeded,
    early_close,
    hang_before_headers,
    ok,
    rate_limited,
    server_error,
    status,
)
from tests.stack import FACES, HANG, QUICK, STREAMED, WHOLE, acomplete, call, complete, stack, stream, text_of

Face = Callable[..., tuple[str, Receipt]]
every_face = pytest.mark.parametrize("face", FACES)


@every_face
def test_a_call_is_one_settled_row_with_the_providers_bill(provider: FakeProvider, face: Face) -> None:
    with stack(provider, cap="1 USD") as on:
        text, receipt = face(on, call("hi", request_id="r", task_key="t", params={"max_tokens": 64}))

        (row,) = on.ledger
        assert text == "echo: hi"
        assert (row.state, row.attempt, row.request_id, row.task_key, row.purpose) == ("settled", 1, "r", "t", "answer")
        assert row.params == {"max_tokens": 64}
        assert row.cost == receipt.cost == provider.billed.usd
        assert row.usage == receipt.usage
        assert (receipt.attempts, receipt.flags) == (1, ())


@every_face
def test_a_failed_attempt_is_repeated_and_has_a_row_of_its_own(provider: FakeProvider, face: Face) -> None:
    provider.script(server_error(500), rate_limited())
    with stack(provider, cap="1 USD") as on:
        text, receipt = face(on, call("hi"))

        assert text == "echo: hi"
        assert [(row.attempt, row.state) for row in on.ledger] == [(1, "released"), (2, "released"), (3, "settled")]
        assert len({row.request_id for row in on.ledger}) == 1
        assert (receipt.attempts, receipt.cost) == (3, provider.billed.usd)


@every_face
def test_attempts_end_and_the_last_error_is_raised(provider: FakeProvider, face: Face) -> None:
    provider.script(*[server_error(503)] * 10)
    with stack(provider, cap="1 USD") as on:
        with pytest.raises(ServerFailed):
            face(on, call())

        assert len(provider.requests) == len(on.ledger) == QUICK.attempts
        assert on.shared.meter.status()[0].held == 0


INCURABLE = [
    (status(400), BadRequest),
    (status(422), BadRequest),
    (status(401), AuthFailed),
    (status(403), AuthFailed),
    (status(404), NotFound),
    (context_length_exceeded(), ContextLengthExceeded),
    (status(429, error_code="insufficient_quota"), RateLimited),
]


@every_face
def test_what_repeating_cannot_cure_is_not_repeated(provider: FakeProvider, face: Face) -> None:
    with stack(provider) as on:
        for fault, error in INCURABLE:
            provider.script(fault)
            with pytest.raises(error):
                face(on, call())

        assert [row.state for row in on.ledger] == ["released"] * len(INCURABLE)
    assert len(provider.requests) == len(INCURABLE)


@every_face
@pytest.mark.parametrize("asked", [{"seconds": 0.2}, {"ms": 200}])
def test_a_provider_that_asks_to_wait_is_waited_for(provider: FakeProvider, face: Face, asked: Any) -> None:
    provider.script(rate_limited(**asked))
    with stack(provider) as on:
        face(on, call())

    first, second = (request.received_at for request in provider.requests)
    assert second - first >= asked.get("seconds", asked.get("ms", 0) / 1000)


@every_face
def test_a_provider_that_asks_for_too_long_a_wait_is_not_waited_for(provider: FakeProvider, face: Face) -> None:
    provider.script(rate_limited(seconds=61), rate_limited(seconds=1e30))
    with stack(provider) as on:
        for _ in range(2):
            with pytest.raises(RateLimited):
                face(on, call())

    assert len(provider.requests) == 2


@every_face
def test_a_wait_beyond_the_total_time_is_not_begun(provider: FakeProvider, face: Face) -> None:
    provider.script(*[rate_limited(seconds=30)] * 3)
    with stack(provider, retry=Retry(total=5.0)) as on:
        started = time.monotonic()
        with pytest.raises(RateLimited):
            face(on, call())

    assert time.monotonic() - started < 5.0
    assert len(provider.requests) == 1


@pytest.mark.parametrize("face", WHOLE)
def test_the_total_time_ends_an_endless_series_of_attempts(provider: FakeProvider, face: Face) -> None:
    provider.script(*[server_error()] * 1000)
    with stack(provider, retry=Retry(attempts=1000, first_wait=0.2, longest_wait=0.2, total=1.2)) as on:
        started = time.monotonic()
        # The attempt that the end falls into is cut off.
        with pytest.raises((ServerFailed, ProviderTimeout)):
            face(on, call())

    assert time.monotonic() - started < HANG
    assert 1 < len(provider.requests) < 20


@every_face
def test_an_attempt_ends_when_the_total_time_does(provider: FakeProvider, face: Face) -> None:
    provider.script(hang_before_headers())
    with stack(provider, retry=Retry(attempts=9, total=0.3)) as on:
        started = time.monotonic()
        with pytest.raises(ProviderTimeout):
            face(on, call())

        assert [row.state for row in on.ledger] == ["unknown"]
    assert time.monotonic() - started < 3.0


@every_face
def test_an_attempt_that_may_be_billed_counts_at_its_worst_case(provider: FakeProvider, face: Face) -> None:
    provider.script(closed_before_headers())
    with stack(provider, cap="1 USD") as on:
        _, receipt = face(on, call())

        lost, answered = on.ledger
        assert (lost.state, lost.cost) == ("unknown", lost.worst)
        assert answered.state == "settled"
        assert receipt.cost is not None
        assert receipt.cost == (lost.cost or 0) + (answered.cost or 0) >= provider.billed.usd
        assert receipt.flags == ("attempt_unknown",)


@every_face
def test_a_repetition_that_does_not_fit_is_refused_like_any_call(provider: FakeProvider, face: Face) -> None:
    provider.script(closed_before_headers())
    with stack(provider) as free:
        worst = free.calls.books.quote(call()).worst
    assert worst is not None
    with stack(provider, cap=f"{worst * Decimal('1.5'):f} USD") as on:
        with pytest.raises(BudgetExceeded):
            face(on, call())

        assert len(provider.requests) == len(on.ledger) == 1


@every_face
def test_what_does_not_fit_is_not_sent(provider: FakeProvider, face: Face) -> None:
    with stack(provider, cap="0.0001 USD") as on:
        with pytest.raises(BudgetExceeded):
            face(on, call(max_tokens=10_000))

        assert on.ledger == ()
    assert provider.requests == []


@every_face
def test_under_a_budget_a_call_without_a_token_cap_is_not_sent(provider: FakeProvider, face: Face) -> None:
    with stack(provider, cap="1 USD") as on, pytest.raises(ConfigError, match="max_tokens"):
        face(on, call(max_tokens=None))
    assert provider.requests == []


@pytest.mark.parametrize("face", WHOLE)
def test_a_cached_answer_costs_nothing_and_repeats_draw_anew(provider: FakeProvider, face: Face) -> None:
    with stack(provider, cap="1 USD") as on:
        paid, first = face(on, call("hi", cached=True))
        again, hit = face(on, call("hi", cached=True))
        face(on, call("hi", cached=True, sample_index=1))
        face(on, call("hi"))

        assert again == paid == "echo: hi"
        assert (hit.cost, hit.attempts, hit.flags) == (0, 0, ("cache",))
        assert first.flags == ()
        assert len(provider.requests) == len(on.ledger) == 3


@pytest.mark.parametrize("face", STREAMED)
def test_a_stream_is_not_repeated_once_a_piece_was_handed_out(provider: FakeProvider, face: Face) -> None:
    provider.script(early_close("chunked", share=0.7))
    with stack(provider, cap="1 USD") as on:
        with pytest.raises(TruncatedStream):
            face(on, call("a text that is long enough to be cut in the middle"))

        assert [row.state for row in on.ledger] == ["unknown"]
    assert len(provider.requests) == 1


def test_whoever_has_seen_the_end_of_a_stream_can_rely_on_the_ledger(provider: FakeProvider) -> None:
    with stack(provider, cap="1 USD") as on:
        states = [(piece.finished, on.ledger[0].state) for piece in on.calls.stream(call("hi"), on.client, Receipt())]

    assert (False, "reserved") in states
    assert {state for finished, state in states if finished} == {"settled"}


async def test_on_an_event_loop_too_the_end_comes_after_the_settlement(provider: FakeProvider) -> None:
    with stack(provider, cap="1 USD") as on:
        pieces = on.calls.astream(call("hi"), on.client, Receipt())
        states = [(piece.finished, on.ledger[0].state) async for piece in pieces]
        await on.client.aclose()

    assert (False, "reserved") in states
    assert {state for finished, state in states if finished} == {"settled"}


def test_sync_and_async_leave_the_same_ledger(provider: FakeProvider) -> None:
    """Whatever happens, both forms write the same rows."""
    faults = (server_error(), closed_before_headers(), ok())
    books = []
    for face in (complete, acomplete):
        provider.script(*faults)
        with stack(provider, cap="1 USD") as on:
            _, receipt = face(on, call("hi", request_id="r"))
            rows = [
                (row.attempt, row.state, row.worst, row.cost, row.usage, row.flags, row.reason) for row in on.ledger
            ]
            books.append((rows, receipt))

    assert books[0] == books[1]


def test_a_malformed_reply_is_repeated_and_never_stored(provider: FakeProvider) -> None:
    provider.script(*[ok(body=b"<html>")] * 3)
    with stack(provider) as on:
        with pytest.raises(MalformedReply):
            complete(on, call("hi", cached=True))
        text, receipt = complete(on, call("hi", cached=True))

        assert (text, receipt.attempts) == ("echo: hi", 1)


def test_without_a_budget_an_unknown_price_is_no_obstacle(provider: FakeProvider) -> None:
    spec = call("hi", model="nobody-knows-it")
    with stack(provider) as on:
        _, receipt = complete(on, spec)
        assert receipt.cost is None
        assert [(row.state, row.cost) for row in on.ledger] == [("settled", None)]


def test_pieces_without_a_budget_arrive_as_they_come(provider: FakeProvider) -> None:
    with stack(provider) as on:
        pieces = list(on.calls.stream(call("hi"), on.client, Receipt()))
    assert "".join(map(text_of, pieces)) == stream_text("hi")
    assert len([piece for piece in pieces if text_of(piece)]) > 1


def stream_text(text: str) -> str:
    return f"echo: {text}"


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"attempts": -1}, {"total": 0.0}, {"total": -1.0}, {"total": float("nan")}]
)
def test_a_retry_policy_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        Retry(**wrong)


def test_one_attempt_means_one(provider: FakeProvider) -> None:
    provider.script(server_error())
    with stack(provider, retry=Retry(attempts=1)) as on, pytest.raises(ServerFailed):
        stream(on, call())
    assert len(provider.requests) == 1
