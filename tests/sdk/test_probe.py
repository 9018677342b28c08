"""Asking a server for its models."""

from __future__ import annotations

import socket

import pytest

from selfreg_sdk.errors import ConfigError, ConnectFailed, MalformedReply, NotFound, ProviderTimeout
from selfreg_sdk.probe import probe
from tests.fake_provider import FakeProvider


def test_models_are_listed_in_the_servers_order() -> None:
    with FakeProvider(models=("b", "a")) as provider:
        assert probe(provider.base_url, api_key="sk-1") == ["b", "a"]
        assert provider.requests[0].headers["authorization"] == "Bearer sk-1"
        assert provider.billed.calls == 0


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ConnectFailed, match=str(port)):
        probe(f"http://127.0.0.1:{port}/v1")


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        with pytest.raises(ProviderTimeout) as info:
            probe(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1", timeout=0.2)
        assert info.value.billed == "no"


def test_the_wrong_path(provider: FakeProvider) -> None:
    with pytest.raises(NotFound, match="/v1"):
        probe(provider.base_url.removesuffix("/v1"))


def test_something_else_than_a_list_of_models(provider: FakeProvider) -> None:
    provider.models_body = b"<html>hello</html>"
    with pytest.raises(MalformedReply, match="OpenAI-compatible"):
        probe(provider.base_url)


def test_no_url() -> None:
    with pytest.raises(ConfigError):
        probe("not a url")
