"""The provider the other tests trust: what it answers, what it bills, what it breaks."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests import fake_provider as fake
from tests.fake_provider import Billed, FakeProvider, read_bills
from tests.provider_process import provider_process

ASK: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "12345678"}]}
ONE = {"prompt_tokens": 5, "completion_tokens": 4}  # 3 + 2 tokens asked, "echo: 12345678" answered


def post(provider: FakeProvider, **more: Any) -> httpx.Response:
    return httpx.post(f"{provider.base_url}/chat/completions", json={**ASK, **more}, timeout=5)


def test_the_official_client_understands_it(provider: FakeProvider) -> None:
    with openai.OpenAI(base_url=provider.base_url, api_key="none", max_retries=0) as sdk:
        whole = sdk.chat.completions.create(**ASK, n=2)
        assert [choice.message.content for choice in whole.choices] == ["echo: 12345678"] * 2
        options: Any = {"include_usage": True}
        chunks = list(sdk.chat.completions.create(**ASK, stream=True, stream_options=options))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "echo: 12345678"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 4
        assert [model.id for model in sdk.models.list()] == ["fake-model"]


def test_usage_and_bill_agree(provider: FakeProvider) -> None:
    usage = post(provider, n=3).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 12)
    assert provider.billed == Billed(calls=1, prompt_tokens=5, completion_tokens=12, usd=Decimal("0.0000212"))


@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
def test_the_cap_on_tokens_holds(provider: FakeProvider, cap: str) -> None:
    body = post(provider, **{cap: 2}).json()
    assert body["choices"][0]["message"]["content"] == "echo: 12"
    assert body["choices"][0]["finish_reason"] == "length"
    assert provider.billed.completion_tokens == 2


def test_answers_are_scripted_per_sample() -> None:
    with FakeProvider(reply=lambda payload: [f"sample {i}" for i in range(payload["n"])]) as provider:
        assert [choice["message"]["content"] for choice in post(provider, n=2).json()["choices"]] == [
            "sample 0",
            "sample 1",
        ]


@pytest.mark.parametrize(
    "fault", [fake.early_close("length"), fake.reset_mid_body(), fake.closed_before_headers(), fake.truncated_json()]
)
def test_generation_is_billed_though_the_answer_is_lost(provider: FakeProvider, fault: fake.Fault) -> None:
    provider.script(fault)
    with pytest.raises((httpx.TransportError, ValueError)):
        post(provider).json()
    assert provider.billed.calls == 1
    assert provider.billed.completion_tokens == ONE["completion_tokens"]


def test_generation_is_billed_though_the_client_left(provider: FakeProvider) -> None:
    provider.script(fake.hang_before_headers())
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{provider.base_url}/chat/completions", json=ASK, timeout=0.2)
    assert provider.wait_until(lambda p: p.disconnects == 1)
    assert provider.billed.calls == 1


@pytest.mark.parametrize("fault", [fake.rate_limited(), fake.server_error(), fake.context_length_exceeded()])
def test_error_statuses_are_free(provider: FakeProvider, fault: fake.Fault) -> None:
    provider.script(fault)
    assert post(provider).status_code == fault.status
    assert provider.billed == Billed()


def test_scripts_are_used_in_order_and_once(provider: FakeProvider) -> None:
    provider.script(fake.rate_limited(seconds=3), fake.server_error(503))
    assert [post(provider).status_code for _ in range(3)] == [429, 503, 200]
    assert [request.payload for request in provider.requests] == [ASK] * 3


def test_standing_rules_hold_for_their_model_and_when_the_field_is_there() -> None:
    rules = (fake.RejectParam(param="temperature", model="picky"), fake.IgnoreParam(param="n"))
    with FakeProvider(rules=rules) as provider:
        rejected = post(provider, model="picky", temperature=0.5)
        assert (rejected.status_code, rejected.json()["error"]["param"]) == (400, "temperature")
        assert post(provider, model="picky").status_code == 200
        assert post(provider, temperature=0.5).status_code == 200
        assert len(post(provider, n=4).json()["choices"]) == 1
        assert provider.payloads[-1]["n"] == 4


def test_a_gate_holds_the_answer_after_the_bill(provider: FakeProvider) -> None:
    gate = threading.Event()
    provider.script(fake.wait_for(gate))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, provider)
        assert provider.wait_until(lambda p: p.billed.calls == 1)
        assert not answer.done()
        gate.set()
        assert answer.result(timeout=10).status_code == 200


def test_many_clients_at_once(provider: FakeProvider) -> None:
    url = f"{provider.base_url}/chat/completions"
    with httpx.Client() as client, ThreadPoolExecutor(16) as pool:
        assert {reply.status_code for reply in pool.map(lambda _: client.post(url, json=ASK), range(64))} == {200}
    assert provider.billed.calls == len(provider.requests) == 64


def test_closing_frees_hanging_clients(provider: FakeProvider) -> None:
    provider.script(fake.hang_before_headers())
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, provider)
        provider.wait_until(lambda p: p.billed.calls == 1)
        provider.close()
        assert isinstance(answer.exception(timeout=10), httpx.TransportError)


def test_as_a_process_of_its_own_with_a_file_of_bills(tmp_path: Path) -> None:
    bills = tmp_path / "bills.jsonl"
    assert read_bills(bills) == Billed()
    with provider_process(bills) as base_url:
        for _ in range(3):
            assert httpx.post(f"{base_url}/chat/completions", json=ASK).status_code == 200
        assert read_bills(bills) == Billed(calls=3, prompt_tokens=15, completion_tokens=12, usd=Decimal("0.0000252"))


def test_nothing_but_loopback_can_be_reached() -> None:
    with pytest.raises(RuntimeError, match="loopback only"), socket.socket() as outside:
        outside.connect(("192.0.2.1", 80))
    with pytest.raises(socket.gaierror, match="loopback only"):
        socket.getaddrinfo("example.com", 80)
