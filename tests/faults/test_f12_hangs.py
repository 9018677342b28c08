"""F12: servers that stop talking, or talk too slowly. Every wait is bounded, and the connection is closed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from selfreg_sdk.client import Client, Timeouts
from selfreg_sdk.errors import ProviderTimeout
from selfreg_sdk.wire.connection import Clock
from tests import fake_provider as fake
from tests.fake_provider import FakeProvider
from tests.faults.clients import (
    ANSWER,
    ASK,
    FACES,
    HANG,
    QUICK,
    STREAMED,
    Face,
    caught,
    complete,
    make,
    must_fail,
    stream,
)

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture(autouse=True, scope="module")
def warmed_up() -> None:
    """The first call of a process loads modules; that must not count against the short limits here."""
    with FakeProvider() as provider, make(provider.base_url) as client:
        complete(client)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("fault", [fake.hang_before_headers(), fake.hang_between_chunks()])
def test_f12_silence_ends_in_a_timeout_and_a_closed_connection(
    provider: FakeProvider, face: Face, fault: fake.Fault
) -> None:
    provider.script(fault)
    started = time.monotonic()
    with make(provider.base_url, timeouts=QUICK) as client:
        error = caught(ProviderTimeout, face, client)
        assert (error.billed, error.retryable) == ("unknown", True)
        assert provider.wait_until(lambda p: p.disconnects == 1)
    assert time.monotonic() - started < HANG


@pytest.mark.parametrize("face", STREAMED)
def test_f12_idle_is_counted_from_the_last_chunk(provider: FakeProvider, face: Face) -> None:
    # The whole stream takes far longer than one idle time.
    provider.script(fake.Fault(byte_pause=0.001))
    with make(provider.base_url, timeouts=Timeouts(first_byte=20, idle=0.8, total=60)) as client:
        assert face(client) == ANSWER


# The answer drips for four seconds or more; no single wait is long enough for an idle timeout.
DRIP = fake.drip(0.015)
DEADLINE = Timeouts(connect=20, first_byte=20, idle=20, total=0.5)


def check_deadline(provider: FakeProvider, face: Face, client: Any, **limits: Any) -> None:
    provider.script(DRIP)
    started = time.monotonic()
    error = caught(ProviderTimeout, face, client, **limits)
    assert time.monotonic() - started < 3, "the deadline did not hold"
    assert error.billed == "unknown"
    assert "deadline" in str(error)


@pytest.mark.parametrize("face", FACES)
def test_f12_total_deadline_against_dripping_bytes(provider: FakeProvider, face: Face) -> None:
    with make(provider.base_url, timeouts=DEADLINE) as client:
        check_deadline(provider, face, client)
    assert provider.wait_until(lambda p: p.disconnects == 1)


@pytest.mark.parametrize("face", FACES)
def test_f12_a_deadline_of_the_caller_against_dripping_bytes(provider: FakeProvider, face: Face) -> None:
    with make(provider.base_url) as client:
        check_deadline(provider, face, client, deadline=time.monotonic() + 0.5)


def test_f12_catches_a_client_that_looks_at_single_waits_alone(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "for_piece", lambda self, limit=None: self.timeouts.idle)
    with make(provider.base_url, timeouts=DEADLINE) as client:
        must_fail(check_deadline, provider, complete, client)


def test_f12_a_deadline_in_the_past_sends_nothing(provider: FakeProvider) -> None:
    with make(provider.base_url) as client:
        for face in (complete, stream):
            error = caught(ProviderTimeout, face, client, deadline=time.monotonic() - 1)
            assert error.billed == "no"
    assert provider.requests == []


def test_f12_an_error_body_that_drips_is_bounded_too(provider: FakeProvider) -> None:
    provider.script(fake.Fault(status=500, error_body="x" * 4000, billed=False, byte_pause=0.01))
    started = time.monotonic()
    with make(provider.base_url, timeouts=QUICK) as client:
        caught(ProviderTimeout, complete, client)
    assert time.monotonic() - started < HANG


def test_f12_a_slow_consumer_is_not_a_slow_server(provider: FakeProvider) -> None:
    with make(provider.base_url, timeouts=Timeouts(first_byte=20, idle=0.5, total=60)) as client:
        chunks = client.stream(ASK)
        next(chunks)
        time.sleep(0.7)
        assert list(chunks)


def test_f12_the_default_limits_are_finite() -> None:
    assert Client().timeouts == Timeouts(connect=5, first_byte=60, idle=30, total=600)
