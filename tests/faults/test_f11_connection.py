"""F11: connections that are never made, or lost. What may have been billed is never called unbilled."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from selfreg_sdk.client import Timeouts
from selfreg_sdk.errors import ConnectFailed, MalformedReply, ProviderError, ProviderTimeout, TruncatedStream
from tests import fake_provider as fake
from tests.fake_provider import FakeProvider
from tests.faults.clients import ANSWER, ASK, FACES, STREAMED, WHOLE, Face, caught, complete, make, must_fail

pytestmark = pytest.mark.usefixtures("transport")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def deaf_server() -> Iterator[int]:
    """A port that swallows connection attempts: its queue is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.parametrize("face", FACES)
def test_f11_refused(face: Face) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with make(url) as client:
        error = caught(ConnectFailed, face, client)
    assert (error.retryable, error.billed, error.status) == (True, "no", None)
    assert url in str(error)
    assert "base_url" in str(error)


@pytest.mark.parametrize("face", FACES)
def test_f11_unknown_host(face: Face) -> None:
    with make("http://no-such-host.invalid/v1") as client:
        assert caught(ConnectFailed, face, client).billed == "no"


@pytest.mark.parametrize("face", FACES)
def test_f11_tls_with_a_server_that_has_none(provider: FakeProvider, face: Face) -> None:
    with make(provider.base_url.replace("http:", "https:")) as client:
        error = caught(ConnectFailed, face, client)
    assert error.billed == "no"
    assert "https" in str(error)
    assert provider.billed.calls == 0


@pytest.mark.parametrize("face", FACES)
def test_f11_no_answer_to_the_connection_attempt(face: Face) -> None:
    with deaf_server() as port, make(f"http://127.0.0.1:{port}/v1", timeouts=Timeouts(connect=0.2)) as client:
        error = caught(ProviderTimeout, face, client)
    assert (error.billed, error.retryable) == ("no", True)


def test_f11_a_name_that_is_looked_up_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_name(*asked: Any, **options: Any) -> Any:
        found.wait(10)
        raise socket.gaierror(socket.EAI_NONAME, "too late")

    found = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", slow_name)
    with make("http://slow-host.invalid/v1", timeouts=Timeouts(connect=0.2)) as client:
        error = caught(ProviderTimeout, complete, client)
        found.set()
    assert (error.billed, error.retryable) == ("no", True)


@pytest.mark.parametrize("face", WHOLE)
@pytest.mark.parametrize("fault", [fake.reset_mid_body(), fake.early_close("length"), fake.early_close("close")])
def test_f11_lost_in_the_body(provider: FakeProvider, face: Face, fault: fake.Fault) -> None:
    provider.script(fault)
    with make(provider.base_url) as client:
        error = caught(MalformedReply, face, client)
        assert (error.billed, error.retryable) == ("unknown", True)
        assert face(client) == ANSWER


@pytest.mark.parametrize("face", STREAMED)
def test_f11_reset_in_the_stream(provider: FakeProvider, face: Face) -> None:
    provider.script(fake.reset_mid_body())
    with make(provider.base_url) as client:
        error = caught(TruncatedStream, face, client)
    assert error.partial
    assert ANSWER.startswith(error.partial)


LOST = [fake.closed_before_headers(), fake.reset_mid_body(0.0), fake.reset_mid_body(), fake.early_close("length")]


def check_lost_replies_may_be_billed(client: Any, provider: FakeProvider) -> None:
    for fault in LOST:
        before = provider.billed.calls
        provider.script(fault)
        error = caught(ProviderError, complete, client)
        assert provider.billed.calls == before + 1
        assert error.billed == "unknown", fault


def test_f11_a_lost_reply_may_have_been_billed(provider: FakeProvider) -> None:
    with make(provider.base_url) as client:
        check_lost_replies_may_be_billed(client, provider)


def test_f11_catches_a_client_that_calls_every_lost_connection_unbilled(provider: FakeProvider) -> None:
    class Optimist:
        def complete(self, payload: dict[str, Any]) -> Any:
            try:
                return inner.complete(payload)
            except ProviderError as error:
                raise ConnectFailed(str(error)) from error

    with make(provider.base_url) as inner:
        must_fail(check_lost_replies_may_be_billed, Optimist(), provider)


def test_f11_a_connection_the_server_dropped_while_idle_is_replaced(provider: FakeProvider) -> None:
    provider.script(fake.ok(framing="close"))
    with make(provider.base_url) as client:
        assert complete(client) == ANSWER
        assert complete(client, ASK) == ANSWER
