"""F14: status 200 and yet no answer; and usage that cannot be true."""

from __future__ import annotations

from typing import Any

import pytest

from selfreg_sdk.errors import MalformedReply, RateLimited, ServerFailed
from selfreg_sdk.usage import Usage
from tests import fake_provider as fake
from tests.fake_provider import FakeProvider
from tests.faults.clients import ASK, WHOLE, Face, NaiveCompleter, caught, complete, make, must_fail

both_transports = pytest.mark.usefixtures("transport")


def body(**changes: Any) -> fake.Fault:
    return fake.Fault(edit=lambda completion: {**completion, **changes})


MALFORMED = [
    fake.truncated_json(),
    fake.html_200(),
    fake.json_string_200(),
    fake.empty_choices(),
    fake.null_content(),
    fake.no_finish_reason(),
    fake.Fault(body=b""),
    fake.Fault(body=b"[" * 100_000),
    fake.Fault(body=b"\xff\xfe"),
    body(choices=None),
    body(choices={"0": {}}),
    body(choices=[None]),
    body(choices=[{"index": 0, "finish_reason": "stop"}]),
    body(choices=[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}]),
]


def check_malformed(provider: FakeProvider, face: Face, client: Any, fault: fake.Fault) -> None:
    provider.script(fault)
    error = caught(MalformedReply, face, client)
    assert (error.retryable, error.billed) == (True, "unknown")
    assert len(error.body or "") <= 500


@both_transports
@pytest.mark.parametrize("face", WHOLE)
@pytest.mark.parametrize("fault", MALFORMED)
def test_f14_a_200_that_is_no_completion_is_malformed(provider: FakeProvider, face: Face, fault: fake.Fault) -> None:
    with make(provider.base_url) as client:
        check_malformed(provider, face, client, fault)


@pytest.mark.parametrize("fault", MALFORMED)
def test_f14_catches_a_client_that_takes_any_200(provider: FakeProvider, fault: fake.Fault) -> None:
    must_fail(check_malformed, provider, complete, NaiveCompleter(provider.base_url), fault)


@both_transports
def test_f14_the_excerpt_shows_what_came(provider: FakeProvider) -> None:
    provider.script(fake.html_200())
    with make(provider.base_url) as client:
        error = caught(MalformedReply, complete, client)
    assert "nginx" in error.body
    assert "text/html" in str(error)


@both_transports
@pytest.mark.parametrize("face", WHOLE)
def test_f14_an_error_body_under_status_200(provider: FakeProvider, face: Face) -> None:
    provider.script(fake.error_200(), fake.error_200("slow down", 429))
    with make(provider.base_url) as client:
        assert caught(ServerFailed, face, client).billed == "unknown"
        assert caught(RateLimited, face, client).billed == "unknown"


@both_transports
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (fake.null_content(tool_calls=[{"id": "1", "type": "function"}]), None),
        (fake.null_content(refusal="no"), None),
        (fake.null_content(reasoning_content="hm"), None),
        (fake.null_content(content=[{"type": "thinking"}, {"type": "text", "text": "part"}]), "part"),
        (fake.null_content(content=""), ""),
    ],
)
def test_f14_content_that_something_explains_is_accepted(
    provider: FakeProvider, fault: fake.Fault, text: str | None
) -> None:
    provider.script(fault)
    with make(provider.base_url) as client:
        assert client.complete(ASK).texts == (text,)


@both_transports
def test_f14_three_of_five_choices_are_visible(provider: FakeProvider) -> None:
    provider.script(fake.fewer_choices(3))
    with make(provider.base_url) as client:
        reply = client.complete({**ASK, "n": 5})
    assert len(reply.texts) == len(reply.finish_reasons) == 3
    assert reply.usage is not None
    assert reply.usage.completion_tokens == provider.billed.completion_tokens


IMPOSSIBLE = [
    fake.no_usage(),
    fake.negative_usage(),
    fake.huge_usage(),
    fake.usage_says(None, 3),
    fake.usage_says("12", 3),
    fake.usage_says(True, 3),
    body(usage="many"),
]


def check_usage(provider: FakeProvider, client: Any, fault: fake.Fault) -> None:
    provider.script(fault)
    assert client.complete(ASK).usage is None


@both_transports
@pytest.mark.parametrize("fault", IMPOSSIBLE)
def test_f14_missing_or_impossible_usage_is_none_in_a_reply(provider: FakeProvider, fault: fake.Fault) -> None:
    with make(provider.base_url) as client:
        check_usage(provider, client, fault)


def test_f14_catches_a_client_that_believes_any_usage(provider: FakeProvider) -> None:
    class Gullible:
        def complete(self, payload: dict[str, Any]) -> Any:
            reply = client.complete(payload)
            usage = reply.body["usage"]
            return type("Seen", (), {"usage": (usage["prompt_tokens"], usage["completion_tokens"])})

    with make(provider.base_url) as client:
        for fault in IMPOSSIBLE[1:3]:
            must_fail(check_usage, provider, Gullible(), fault)


@both_transports
@pytest.mark.parametrize("fault", [fake.no_usage(), fake.negative_usage(), fake.huge_usage()])
def test_f14_missing_or_impossible_usage_is_none_in_a_stream(provider: FakeProvider, fault: fake.Fault) -> None:
    provider.script(fault)
    with make(provider.base_url) as client:
        assert all(chunk.usage is None for chunk in client.stream(ASK))


@both_transports
def test_f14_usage_details_and_unlisted_reasoning(provider: FakeProvider) -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 30}, "prompt_tokens_details": {"cached_tokens": 4}}
    provider.script(fake.usage_says(10, 40, total_tokens=50, **details), fake.usage_says(10, 5, total_tokens=45))
    with make(provider.base_url) as client:
        assert client.complete(ASK).usage == Usage(
            prompt_tokens=10, completion_tokens=40, reasoning_tokens=30, cached_tokens=4
        )
        # Reasoning that only the total tells is billed too.
        assert client.complete(ASK).usage == Usage(prompt_tokens=10, completion_tokens=35)
