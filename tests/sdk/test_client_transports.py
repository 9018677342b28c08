"""Both libraries that speak HTTP do the same, as far as anyone can notice."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import sys
import time
from typing import Any

import pytest

from selfreg_sdk.client import Client
from selfreg_sdk.config import load_settings
from selfreg_sdk.errors import ConfigError, ConnectFailed, MalformedReply, NotFound, ProviderError
from selfreg_sdk.wire.transport import choose
from tests import fake_provider as fake
from tests.fake_provider import FakeProvider
from tests.faults.clients import must_fail

ASK: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]}
ANSWER = ("echo: hello",)
URL = "http://127.0.0.1:1/v1"
KEY = "sk-transport-canary"


# -- which one ---------------------------------------------------------------------------------------------------------


def test_the_fast_one_is_taken_where_it_is_installed() -> None:
    assert Client(base_url=URL).transport == "aiohttp"
    assert "transport='openai'" in repr(Client(base_url=URL, transport="openai"))


@pytest.fixture
def without_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "selfreg_sdk.wire.aiohttp_transport", raising=False)


@pytest.mark.usefixtures("without_aiohttp")
def test_without_aiohttp_the_other_one_serves(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        assert client.transport == "openai"
        assert client.complete(ASK).texts == ANSWER
    with pytest.raises(ConfigError, match=r"selfreg\[fast\]"):
        Client(base_url=provider.base_url, transport="aiohttp")


def test_an_aiohttp_that_is_too_old_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    aiohttp = importlib.import_module("aiohttp")
    monkeypatch.delattr(aiohttp, "ConnectionTimeoutError")
    monkeypatch.delitem(sys.modules, "selfreg_sdk.wire.aiohttp_transport", raising=False)
    assert choose("auto", URL).name == "openai"
    with pytest.raises(ConfigError, match=r"3\.10"):
        choose("aiohttp", URL)


@pytest.mark.parametrize("name", ["", "httpx", None])
def test_an_unknown_transport_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="aiohttp"):
        Client(base_url=URL, transport=name)


def test_the_setting_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().transport == "auto"
    monkeypatch.setenv("SELFREG_TRANSPORT", "openai")
    assert load_settings().transport == "openai"
    monkeypatch.setenv("SELFREG_TRANSPORT", "carrier pigeon")
    with pytest.raises(ConfigError, match="SELFREG_TRANSPORT"):
        load_settings()


# -- proxies of the environment ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://user:pass-canary@127.0.0.1:{provider.port}")
    with Client(base_url="http://far.invalid/v1", api_key=KEY) as client, pytest.raises(NotFound):
        client.complete(ASK)
    (request,) = provider.requests
    assert request.path == "http://far.invalid/v1/chat/completions"
    assert request.headers["proxy-authorization"].startswith("Basic ")


@pytest.mark.usefixtures("transport")
def test_no_proxy_is_obeyed(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", URL)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with Client(base_url=provider.base_url) as client:
        assert client.complete(ASK).texts == ANSWER


@pytest.mark.usefixtures("transport")
def test_a_proxy_that_is_not_there_was_never_billed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pass-canary@127.0.0.1:1")
    with Client(base_url="https://far.invalid/v1") as client, pytest.raises(ConnectFailed) as info:
        client.complete(ASK)
    assert info.value.billed == "no"
    assert "pass-canary" not in str(info.value)


@pytest.mark.usefixtures("transport")
def test_a_proxy_that_refuses_was_never_billed(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", provider.base_url.removesuffix("/v1"))
    with Client(base_url="https://far.invalid/v1") as client, pytest.raises(ConnectFailed) as info:
        client.complete(ASK)
    assert info.value.billed == "no"


def test_a_proxy_that_aiohttp_cannot_use_is_left_to_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:pass-canary@127.0.0.1:1")
    assert choose("auto", URL).name == "openai"
    with pytest.raises(ConfigError, match="socks5") as info:
        choose("aiohttp", URL)
    assert "pass-canary" not in str(info.value)
    with (
        Client(base_url=URL) as client,
        pytest.raises((ConfigError, ConnectFailed)) as told,
    ):  # with and without socksio
        client.complete(ASK)
    assert "pass-canary" not in str(told.value)


# -- redirects, headers, bodies ----------------------------------------------------------------------------------------


def moved(to: str, code: int = 307) -> fake.Fault:
    return fake.Fault(status=code, error_body="", headers=(("location", to),), billed=False)


@pytest.mark.usefixtures("transport")
def test_a_redirect_takes_the_body_along_and_the_key_only_to_the_same_server(provider: FakeProvider) -> None:
    with FakeProvider() as other, Client(base_url=provider.base_url, api_key=KEY) as client:
        provider.script(moved("/v1/chat/completions"))
        assert client.complete(ASK).texts == ANSWER
        provider.script(moved(f"{other.base_url}/chat/completions", 308))
        assert client.complete(ASK).texts == ANSWER
        assert [request.headers["authorization"] for request in provider.requests] == [f"Bearer {KEY}"] * 3
        assert other.payloads == [ASK]
        assert "authorization" not in other.requests[0].headers


@pytest.mark.usefixtures("transport")
def test_a_redirect_that_never_ends_is_an_error(provider: FakeProvider) -> None:
    provider.script(*[moved("/v1/chat/completions")] * 50)
    with Client(base_url=provider.base_url) as client, pytest.raises(ProviderError):
        client.complete(ASK)
    assert 10 < len(provider.requests) < 30


@pytest.mark.usefixtures("transport")
def test_a_given_header_replaces_the_usual_one_in_any_case(provider: FakeProvider) -> None:
    given = {"user-agent": "mine", "AUTHORIZATION": "Basic 123", "X-Twice": "once"}
    with Client(base_url=provider.base_url, api_key=KEY, default_headers=given) as client:
        client.complete(ASK)
    headers = provider.requests[0].headers
    assert (headers["user-agent"], headers["authorization"], headers["x-twice"]) == ("mine", "Basic 123", "once")


@pytest.mark.usefixtures("transport")
def test_the_account_of_the_environment_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    assert Client(api_key=KEY)._headers({})["OpenAI-Organization"] == "org-1"
    assert "OpenAI-Organization" not in Client(base_url=URL, api_key=KEY)._headers({})


@pytest.mark.usefixtures("transport")
def test_a_long_body_arrives_whole(provider: FakeProvider) -> None:
    long = {**ASK, "messages": [{"role": "user", "content": "ä" * 1_500_000}]}
    with Client(base_url=provider.base_url) as client:
        client.complete({**long, "max_tokens": 1})
    assert provider.payloads[0]["messages"] == long["messages"]


@pytest.mark.usefixtures("transport")
def test_a_compressed_reply_is_read_and_a_broken_one_is_malformed(provider: FakeProvider) -> None:
    choice = {"index": 0, "message": {"content": "packed"}, "finish_reason": "stop"}
    packed = gzip.compress(json.dumps({"choices": [choice]}).encode())
    zipped = (("content-encoding", "gzip"),)
    provider.script(fake.Fault(body=packed, headers=zipped), fake.Fault(body=b"no gzip at all", headers=zipped))
    with Client(base_url=provider.base_url) as client:
        assert client.complete(ASK).texts == ("packed",)
        with pytest.raises(MalformedReply) as info:
            client.complete(ASK)
    assert info.value.billed == "unknown"


# -- connections that are used again -----------------------------------------------------------------------------------


def check_closed_while_idle(provider: FakeProvider) -> None:
    """The server closes after its reply, and the loop is too busy to notice."""

    async def two_calls() -> Any:
        async with Client(base_url=provider.base_url) as client:
            await client.acomplete(ASK)
            assert provider.wait_until(lambda p: p.connections_open == 0)
            time.sleep(0.1)
            try:
                return (await client.acomplete(ASK)).texts
            except ProviderError as error:
                return error

    provider.script(fake.Fault(cut_at=1.0))
    assert asyncio.run(two_calls()) == ANSWER


@pytest.mark.usefixtures("transport")
def test_a_connection_that_was_closed_unseen_is_replaced(provider: FakeProvider) -> None:
    check_closed_while_idle(provider)
    assert provider.connections_made == 2


def test_the_check_catches_a_pool_that_does_not_look(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreg_sdk.wire.aiohttp_transport._SECONDS_UNSEEN", float("inf"))
    must_fail(check_closed_while_idle, provider)


@pytest.mark.usefixtures("transport")
def test_what_was_sent_is_never_sent_again(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        client.complete(ASK)
        provider.script(fake.closed_before_headers())
        with pytest.raises(MalformedReply) as info:
            client.complete(ASK)
    assert info.value.billed == "unknown"
    assert len(provider.requests) == 2
    assert provider.connections_made == 1


@pytest.mark.usefixtures("transport")
async def test_many_calls_at_once_share_connections(provider: FakeProvider) -> None:
    async with Client(base_url=provider.base_url) as client:
        for _ in range(3):
            replies = await asyncio.gather(*[client.acomplete(ASK) for _ in range(32)])
            assert [reply.texts for reply in replies] == [ANSWER] * 32
    assert provider.connections_made <= 33
