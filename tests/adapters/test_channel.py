"""Every integration through the channel: one attempt a call, usage as the server counted, an end, typed errors."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.errors import (
    AuthFailed,
    BadRequest,
    ConnectFailed,
    ProviderTimeout,
    RateLimited,
    ServerFailed,
    TruncatedStream,
)
from selfreg_sdk.langchain.identity import inner_model_id
from tests.adapters.dialects import COMPLETION_TOKENS, PROMPT_TOKENS, TEXT
from tests.adapters.packages import PACKAGES, Package
from tests.adapters.server import Refusal, Server
from tests.sdk.regulated import ONCE, priced, record

MODES = ("invoke", "ainvoke", "stream", "astream")
each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def server(package: Package) -> Iterator[Server]:
    with Server(package.dialect) as running:
        yield running


def around(package: Package, url: str, **given: Any) -> ChatSelfReg:
    inner = package.make(url, **given)
    return ChatSelfReg(inner=inner, planner="off", store=":memory:", retry=ONCE, prices=priced(inner_model_id(inner)))


async def ask(llm: ChatSelfReg, mode: str) -> AIMessage:
    if mode == "invoke":
        return await asyncio.to_thread(llm.invoke, "hello")
    if mode == "ainvoke":
        return await llm.ainvoke("hello")
    if mode == "stream":
        chunks = await asyncio.to_thread(lambda: list(llm.stream("hello")))
    else:
        chunks = [chunk async for chunk in llm.astream("hello")]
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total  # type: ignore[return-value]


@each_mode
@each_package
async def test_the_ledger_holds_what_the_server_counted(package: Package, server: Server, mode: str) -> None:
    message = await ask(around(package, server.url), mode)
    assert message.text == TEXT
    assert message.usage_metadata is not None
    counted = (message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"])
    assert counted == (PROMPT_TOKENS, COMPLETION_TOKENS)
    # 0.40 and 1.60 USD for a million tokens
    assert (
        Decimal(record(message)["cost_usd"])
        == (PROMPT_TOKENS * Decimal("0.4") + COMPLETION_TOKENS * Decimal("1.6")) / 10**6
    )
    assert record(message)["flags"] == []
    assert len(server.sent) == 1


@pytest.mark.parametrize("mode", ["stream", "astream"])
@each_package
async def test_a_stream_without_an_end_is_an_error(package: Package, server: Server, mode: str) -> None:
    server.script("cut")
    with pytest.raises(TruncatedStream) as caught:
        await ask(around(package, server.url), mode)
    assert caught.value.billed == "unknown"
    assert TEXT.startswith(caught.value.partial)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_an_answer_that_is_read_from_a_stream_needs_an_end_too(mode: str) -> None:
    ollama = next(package for package in PACKAGES if package.name == "ChatOllama")
    with Server(ollama.dialect) as server:
        server.script("cut")
        with pytest.raises(TruncatedStream):
            await ask(around(ollama, server.url), mode)


ERRORS = {400: BadRequest, 403: AuthFailed, 429: RateLimited, 500: ServerFailed, 503: ServerFailed}


@each_package
async def test_errors_are_typed_and_no_sdk_retries(package: Package, server: Server) -> None:
    llm = around(package, server.url)
    for status, wanted in ERRORS.items():
        for mode in MODES:
            before = len(server.sent)
            server.script(Refusal(status=status))
            with pytest.raises(wanted) as caught:
                await ask(llm, mode)
            assert caught.value.status == status
            assert len(server.sent) == before + 1
    assert (await ask(llm, "invoke")).text == TEXT


@each_package
def test_a_users_own_model_keeps_its_retries(package: Package, server: Server) -> None:
    """The companion: without our copy, the SDKs of these packages do ask again."""
    retries = {"ChatOllama": 0, "ChatMistralAI": 0}.get(package.name, 1)
    inner = package.make(server.url)
    ChatSelfReg(inner=inner, planner="off", store=":memory:").invoke("hello")
    before = len(server.sent)
    server.script(Refusal(status=503))
    try:
        inner.invoke("hello")
    except Exception:
        assert retries == 0
    assert len(server.sent) - before == 1 + retries


@pytest.mark.parametrize("mode", ["invoke", "astream"])
@each_package
async def test_no_server_is_no_connection(package: Package, mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        await ask(around(package, f"http://127.0.0.1:{port}"), mode)
    assert (caught.value.retryable, caught.value.billed) == (True, "no")


TIMEOUTS: dict[str, dict[str, Any]] = {
    "ChatOllama": {"client_kwargs": {"timeout": 0.3}},
    "ChatMistralAI": {"timeout": 1},
}
TIMEOUTS["ChatBedrockConverse"] = {"timeout": 1}


@each_package
def test_an_inner_models_timeout_is_ours(package: Package, server: Server) -> None:
    server.script("hang")
    given = TIMEOUTS.get(package.name, {"timeout": 0.3})
    with pytest.raises(ProviderTimeout) as caught:
        around(package, server.url, **given).invoke("hello")
    assert caught.value.billed == "unknown"
