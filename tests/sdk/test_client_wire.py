"""What the client puts on the wire, and what it refuses to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from selfreg_sdk.client import OPENAI_URL, Client, Timeouts
from selfreg_sdk.errors import ConfigError, NotFound
from tests.fake_provider import FakeProvider, Fault

pytestmark = pytest.mark.usefixtures("transport")

ASK: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]}


def test_the_payload_arrives_as_it_is(provider: FakeProvider) -> None:
    payload = {
        **ASK,
        "messages": [{"role": "user", "content": 'ü 🦊 \u2028 "quoted" \\ \x00'}],
        "temperature": 0.25,
        "top_k": 5,
        "stop": ["\n"],
        "seed": 0,
        "logit_bias": None,
        "selfreg": {"mode": "fixed", "trace": True},
    }
    with Client(base_url=provider.base_url) as client:
        client.complete(payload)
        list(client.stream(payload))
    assert provider.payloads == [payload, {**payload, "stream": True, "stream_options": {"include_usage": True}}]


def test_complete_never_streams(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        client.complete({**ASK, "stream": True, "stream_options": {"include_usage": False}})
    assert provider.payloads == [ASK]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {"include_usage": True}),
        ({"include_usage": False, "chunk_size": 4}, {"include_usage": True, "chunk_size": 4}),
        (None, None),
    ],
)
def test_stream_options_are_merged(provider: FakeProvider, given: Any, sent: Any) -> None:
    with Client(base_url=provider.base_url) as client:
        chunks = list(client.stream({**ASK, "stream_options": given}))
    assert provider.payloads[0].get("stream_options") == sent
    assert sum(chunk.usage is not None for chunk in chunks) == (sent is not None)


def test_the_payload_is_not_changed(provider: FakeProvider) -> None:
    payload = {**ASK, "stream_options": {"chunk_size": 4}}
    before = repr(payload)
    with Client(base_url=provider.base_url) as client:
        list(client.stream(payload))
        client.complete(payload)
    assert repr(payload) == before


def test_half_a_surrogate_pair_is_sent_as_an_escape(provider: FakeProvider) -> None:
    payload = {**ASK, "messages": [{"role": "user", "content": "\ud83e alone"}]}
    with Client(base_url=provider.base_url) as client:
        client.complete({**payload, "max_tokens": 1})
    assert provider.payloads[0]["messages"] == payload["messages"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes"])
def test_what_json_cannot_hold_is_not_sent(provider: FakeProvider, value: object) -> None:
    with Client(base_url=provider.base_url) as client, pytest.raises(ConfigError, match="JSON"):
        client.complete({**ASK, "temperature": value})
    assert provider.requests == []


@pytest.mark.parametrize("key", ["sk-test-1", SecretStr("sk-test-1")])
def test_the_key_is_sent(provider: FakeProvider, key: str | SecretStr) -> None:
    with Client(base_url=provider.base_url, api_key=key) as client:
        client.complete(ASK)
    assert provider.requests[0].headers["authorization"] == "Bearer sk-test-1"


@pytest.mark.parametrize("key", [None, "", SecretStr("")])
def test_a_local_server_never_sees_the_openai_account(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, key: Any
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, f"private-{name}")
    with Client(base_url=provider.base_url, api_key=key) as client:
        client.complete(ASK)
    assert "private-" not in str(provider.requests[0].headers)
    assert provider.requests[0].headers["authorization"] == "Bearer none"


def test_default_headers_are_sent(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url, default_headers={"X-Gateway": "blue"}) as client:
        client.complete(ASK)
    assert provider.requests[0].headers["x-gateway"] == "blue"


def test_openai_without_a_key_sends_nothing() -> None:
    client = Client()
    assert client.base_url == OPENAI_URL
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        client.complete(ASK)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000/v1", "ftp://host/v1", "http://", "http:///v1", "http://host:port/v1", "http://a b/v1", "/v1",
     "http://user:pass@host/v1", "https://host/v1?key=secret", "http://[::1/v1"],
)  # fmt: skip
def test_a_base_url_that_cannot_work_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError) as info:
        Client(base_url=url)
    assert "pass@" not in str(info.value)
    assert "secret" not in str(info.value)


def test_a_trailing_slash_makes_no_difference(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url + "/") as client:
        client.complete(ASK)
    assert provider.requests[0].path == "/v1/chat/completions"


def test_a_missing_v1_is_guessed_in_the_error(provider: FakeProvider) -> None:
    root = provider.base_url.removesuffix("/v1")
    with Client(base_url=root) as client, pytest.raises(NotFound) as info:
        client.complete(ASK)
    assert repr(provider.base_url) in str(info.value)


@pytest.mark.parametrize("key", ["sk-with\nbreak", "sk-ключ", " sk-padded"])
def test_a_key_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigError) as info:
        Client(api_key=key)
    assert key.strip() not in str(info.value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "5", None])
def test_timeouts_are_positive_seconds(value: Any) -> None:
    with pytest.raises(ConfigError, match="idle"):
        Timeouts(idle=value)


def test_a_reply_carries_the_id_of_the_request(provider: FakeProvider) -> None:
    with Client(base_url=provider.base_url) as client:
        assert client.complete(ASK).request_id == "req-1"


def test_choices_come_in_the_order_of_their_index(provider: FakeProvider) -> None:
    provider.reply = lambda payload: ["a", "b", "c"]
    provider.script(_reversed_choices())
    with Client(base_url=provider.base_url) as client:
        assert client.complete({**ASK, "n": 3}).texts == ("a", "b", "c")


def _reversed_choices() -> Any:
    return Fault(edit=lambda body: {**body, "choices": body["choices"][::-1]})


async def test_async_and_sync_send_the_same(provider: FakeProvider) -> None:
    async with Client(base_url=provider.base_url, api_key="sk-test-1") as client:
        await client.acomplete(ASK)
        await asyncio.to_thread(client.complete, ASK)
    first, second = provider.requests
    assert (first.payload, first.headers) == (second.payload, second.headers)
