"""F10: error statuses. One request per call, the right class, and the provider's wish to wait."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import openai
import pytest

from selfreg_sdk.errors import (
    AuthFailed,
    BadRequest,
    ContextLengthExceeded,
    NotFound,
    ParameterRejected,
    ProviderError,
    RateLimited,
    ServerFailed,
)
from selfreg_sdk.wire.http_errors import retry_after
from tests import fake_provider as fake
from tests.fake_provider import FakeProvider
from tests.faults.clients import ANSWER, ASK, FACES, Face, caught, complete, make, must_fail

pytestmark = pytest.mark.usefixtures("transport")


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("fault", "wanted", "retryable"),
    [
        (fake.status(400), BadRequest, False),
        (fake.status(401), AuthFailed, False),
        (fake.status(403), AuthFailed, False),
        (fake.status(404), NotFound, False),
        (fake.status(422), BadRequest, False),
        (fake.context_length_exceeded(), ContextLengthExceeded, False),
        (fake.rate_limited(), RateLimited, True),
        (fake.server_error(500), ServerFailed, True),
        (fake.server_error(503), ServerFailed, True),
    ],
)
def test_f10_each_status_is_one_typed_error_and_one_request(
    provider: FakeProvider, face: Face, fault: fake.Fault, wanted: type[ProviderError], retryable: bool
) -> None:
    provider.script(fault)
    with make(provider.base_url) as client:
        error = caught(wanted, face, client)
    assert type(error) is wanted
    assert (error.status, error.retryable, error.billed) == (fault.status, retryable, "no")
    assert len(provider.requests) == 1
    assert provider.billed.calls == 0


def check_one_request(provider: FakeProvider, client: Any) -> None:
    provider.script(fake.server_error())
    with contextlib.suppress(ServerFailed):
        client.complete(ASK)
    assert len(provider.requests) == 1


def test_f10_client_does_not_retry(provider: FakeProvider) -> None:
    with make(provider.base_url) as client:
        check_one_request(provider, client)


def test_f10_catches_a_client_with_the_sdks_own_retries(provider: FakeProvider) -> None:
    class Retrying:
        def complete(self, payload: dict[str, object]) -> object:
            with openai.OpenAI(base_url=provider.base_url, api_key="none", max_retries=1) as sdk:
                return sdk.post("/chat/completions", body=payload, cast_to=object)

    must_fail(check_one_request, provider, Retrying())


def test_f10_a_server_error_of_unknown_make_may_have_been_billed(provider: FakeProvider) -> None:
    provider.script(fake.server_error(502, well_formed=False))
    with make(provider.base_url) as client:
        assert caught(ServerFailed, complete, client).billed == "unknown"


def test_f10_two_server_errors_then_an_answer(provider: FakeProvider) -> None:
    provider.script(fake.server_error(), fake.server_error())
    with make(provider.base_url) as client:
        for _ in range(2):
            caught(ServerFailed, complete, client)
        assert complete(client) == ANSWER
    assert provider.billed.calls == 1


def test_f10_an_exhausted_quota_is_not_worth_waiting_for(provider: FakeProvider) -> None:
    provider.script(fake.status(429, "You exceeded your current quota", error_code="insufficient_quota"))
    with make(provider.base_url) as client:
        assert caught(RateLimited, complete, client).retryable is False


def check_wait(provider: FakeProvider, read: Callable[[dict[str, str]], float | None] | None = None) -> None:
    for fault, wanted in [
        (fake.rate_limited(seconds=7), 7.0),
        (fake.rate_limited(seconds=0.25), 0.25),
        (fake.rate_limited(ms=1500), 1.5),
        (fake.rate_limited(date_in=-60), 0.0),
        (fake.rate_limited(seconds=86_400), 86_400.0),  # huge is reported as it is: the caller decides
        (fake.rate_limited(), None),
    ]:
        provider.script(fault)
        with make(provider.base_url) as client:
            error = caught(RateLimited, complete, client)
        waited = read(dict(fault.headers)) if read else error.retry_after
        assert waited == (wanted if wanted is None else pytest.approx(wanted)), fault.headers


def test_f10_retry_after_in_every_form(provider: FakeProvider) -> None:
    check_wait(provider)


def test_f10_retry_after_as_a_date(provider: FakeProvider) -> None:
    provider.script(fake.rate_limited(date_in=7200))
    with make(provider.base_url) as client:
        assert 3600 < caught(RateLimited, complete, client).retry_after <= 7200


def test_f10_catches_a_reader_of_seconds_alone(provider: FakeProvider) -> None:
    def seconds_only(headers: dict[str, str]) -> float | None:
        value = headers.get("retry-after")
        return float(value) if value and value.replace(".", "").isdigit() else None

    must_fail(check_wait, provider, seconds_only)


@pytest.mark.parametrize("value", ["soon", "", "nan", "-5", "inf", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_f10_a_senseless_wait_is_none(value: str) -> None:
    assert retry_after({"retry-after": value}) is None


@pytest.mark.parametrize("face", FACES)
def test_f10_a_rejected_parameter_is_named(provider: FakeProvider, face: Face) -> None:
    provider.rules.append(fake.RejectParam(param="temperature", model="fake-model"))
    with make(provider.base_url) as client:
        error = caught(ParameterRejected, face, client, {**ASK, "temperature": 0.2})
        assert (error.param, error.retryable, error.billed) == ("temperature", False, "no")
        assert face(client, ASK) == ANSWER
