"""What goes wrong inside another LangChain model, as our errors: the real ChatOpenAI over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from selfreg_sdk.errors import (
    AuthFailed,
    ConnectFailed,
    ContextLengthExceeded,
    MalformedReply,
    NotFound,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    ServerFailed,
    TruncatedStream,
)
from tests.fake_provider import (
    FakeProvider,
    Fault,
    closed_before_headers,
    context_length_exceeded,
    delay,
    early_close,
    no_finish_reason,
    rate_limited,
    rejects,
    reset_mid_body,
    server_error,
    status,
    truncated_json,
)
from tests.sdk.around import MODES, around, ask
from tests.sdk.regulated import ONCE, planning, record


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider that plans when it is asked to."""
    with FakeProvider(reply=planning()) as running:
        yield running


@pytest.mark.parametrize(
    ("fault", "wanted", "billed"),
    [
        (status(401), AuthFailed, "no"),
        (status(404), NotFound, "no"),
        (rejects("messages"), ProviderError, "no"),
        (context_length_exceeded(), ContextLengthExceeded, "no"),
        (rate_limited(seconds=1), RateLimited, "no"),
        (server_error(), ServerFailed, "no"),
        (server_error(502, well_formed=False), ServerFailed, "unknown"),
    ],
    ids=["401", "404", "400", "context", "429", "500", "502"],
)
@pytest.mark.parametrize("mode", MODES)
async def test_errors_are_typed_and_the_sdk_does_not_retry(
    provider: FakeProvider, openai_model: Any, fault: Fault, wanted: type[ProviderError], billed: str, mode: str
) -> None:
    provider.script(fault)
    inner = openai_model(max_retries=5)
    with pytest.raises(wanted) as caught:
        await ask(around(inner, planner="off"), mode)
    assert caught.value.billed == billed
    assert "sk-test" not in str(caught.value)
    assert len(provider.requests) == 1
    assert inner.max_retries == 5


async def test_what_is_retryable_is_retried_by_us(provider: FakeProvider, openai_model: Any) -> None:
    provider.script(server_error())
    retry = ONCE.__class__(attempts=2, first_wait=0.01)
    assert record(await around(openai_model(), planner="off", retry=retry).ainvoke("hello"))["attempts"] == 2


@pytest.mark.parametrize("mode", ["stream", "astream"])
@pytest.mark.parametrize(
    "fault",
    [no_finish_reason(), early_close(share=0.75), reset_mid_body(share=0.75)],
    ids=["silent end", "closed", "reset"],
)
async def test_a_truncated_stream_is_an_error_with_what_came(
    provider: FakeProvider, openai_model: Any, mode: str, fault: Fault
) -> None:
    provider.reply = lambda payload: "one two three four " * 10
    provider.script(fault)
    with pytest.raises(TruncatedStream) as caught:
        await ask(around(openai_model(stream_usage=False), planner="off"), mode)
    assert caught.value.partial.startswith("one two")
    assert caught.value.billed == "unknown"


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("fault", [truncated_json(), closed_before_headers()], ids=["half a body", "no headers"])
async def test_half_a_reply_is_malformed(provider: FakeProvider, openai_model: Any, mode: str, fault: Fault) -> None:
    provider.script(fault)
    with pytest.raises(MalformedReply) as caught:
        await ask(around(openai_model(), planner="off"), mode)
    assert caught.value.billed == "unknown"


@pytest.mark.parametrize("mode", MODES)
async def test_no_server_is_no_connection(openai_model: Any, mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        await ask(around(openai_model(base_url=f"http://127.0.0.1:{port}/v1"), planner="off"), mode)
    assert (caught.value.retryable, caught.value.billed) == (True, "no")


@pytest.mark.parametrize("mode", MODES)
async def test_the_inner_models_timeout_is_ours(provider: FakeProvider, openai_model: Any, mode: str) -> None:
    provider.script(delay(30))
    with pytest.raises(ProviderTimeout) as caught:
        await ask(around(openai_model(timeout=0.3), planner="off"), mode)
    assert caught.value.billed == "unknown"
