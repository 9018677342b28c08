"""The key and secret headers stay in memory (F36, the client's part)."""

from __future__ import annotations

import logging
import pickle
import traceback
from typing import Any

import pytest
from pydantic import SecretStr

from selfreg_sdk.client import Client, Timeouts
from selfreg_sdk.errors import ProviderError
from tests import fake_provider as fake
from tests.fake_provider import FakeProvider

pytestmark = pytest.mark.usefixtures("transport")

KEY = "sk-canary-4711-do-not-print"
HEADER = "gateway-canary-0815"
ASK: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]}

FAILURES = [
    fake.status(401, f"Incorrect API key provided: {KEY}. Header {HEADER} is wrong too."),
    fake.status(400, f"Bad key {KEY}", body=f"<html>{KEY} {HEADER}</html>"),
    fake.error_200(f"upstream refused {KEY}", 401),
    fake.Fault(body=f"not JSON: {KEY} {HEADER}".encode()),
    fake.Fault(edit=lambda body: {**body, "choices": [KEY, HEADER]}, edit_events=lambda events: [KEY]),
    fake.closed_before_headers(),
    fake.hang_before_headers(),
    fake.hang_between_chunks(),
    fake.reset_mid_body(),
]


def everything_about(error: BaseException) -> str:
    """What a log, a crash reporter or a debugger that prints variables would show, causes and contexts included."""
    seen = "".join(traceback.format_exception(error))
    link: BaseException | None = error
    while link is not None:
        seen += f"{link!r} {link} {vars(link)} {link.args}"
        link = link.__cause__ or link.__context__
    return seen


@pytest.mark.parametrize("fault", FAILURES)
def test_errors_never_show_the_key(provider: FakeProvider, fault: fake.Fault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    options: dict[str, Any] = {
        "base_url": provider.base_url,
        "api_key": SecretStr(KEY),
        "default_headers": {"X-Gateway-Key": HEADER},
        "timeouts": Timeouts(first_byte=0.2, idle=0.2),
    }
    with Client(**options) as client:
        seen = f"{client!r} {client} {client.__dict__.keys()}"
        for face in (client.complete, lambda ask: list(client.stream(ask))):
            provider.script(fault)
            with pytest.raises(ProviderError) as info:
                face(ASK)
            seen += everything_about(info.value)
            seen += repr(pickle.dumps(info.value.args)) + str(info.value.body)
    seen += caplog.text
    assert KEY not in seen
    assert HEADER not in seen
    assert provider.requests[0].headers["authorization"] == f"Bearer {KEY}"  # the canary was really in use


def test_the_search_would_find_a_leak() -> None:
    error = ProviderError("failed")
    error.__context__ = ValueError(f"Bearer {KEY}")
    assert KEY in everything_about(error)


def test_refused_keys_are_not_repeated() -> None:
    with pytest.raises(TypeError) as info:
        pickle.dumps(Client(api_key=KEY))
    assert KEY not in everything_about(info.value)
