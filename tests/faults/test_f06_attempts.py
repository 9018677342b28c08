"""F6: every HTTP request is one ledger row. The libraries below never repeat on their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.errors import ServerFailed
from selfreg_sdk.langchain.inner import InnerChannel
from tests.fake_provider import FakeProvider, closed_before_headers, rate_limited, server_error
from tests.faults.clients import must_fail
from tests.stack import MODEL, PRICES, QUICK, call, chat, stack


def openai_model(provider: FakeProvider, **given: Any) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=provider.base_url, api_key="k", **given)


def direct(provider: FakeProvider) -> ChatSelfReg:
    return chat(provider, store=":memory:", budget="1 USD")


def around(provider: FakeProvider) -> ChatSelfReg:
    inner = openai_model(provider, max_retries=5)
    return ChatSelfReg(inner=inner, store=":memory:", budget="1 USD", prices=PRICES, planner="off", retry=QUICK)


async def invoke(model: ChatSelfReg) -> None:
    model.invoke("hi")


async def ainvoke(model: ChatSelfReg) -> None:
    await model.ainvoke("hi")


async def stream(model: ChatSelfReg) -> None:
    list(model.stream("hi"))


async def astream(model: ChatSelfReg) -> None:
    [chunk async for chunk in model.astream("hi")]


def every_request_has_a_row(provider: FakeProvider, rows: list[Any]) -> None:
    assert len(rows) == len(provider.requests)
    assert sum(row.cost or 0 for row in rows) >= provider.billed.usd
    assert all(row.state != "reserved" for row in rows)


@pytest.mark.parametrize("make", [direct, around])
@pytest.mark.parametrize("use", [invoke, ainvoke, stream, astream])
async def test_f6_every_attempt_is_one_row(
    provider: FakeProvider, make: Callable[[FakeProvider], ChatSelfReg], use: Callable[[ChatSelfReg], Any]
) -> None:
    model = make(provider)
    provider.script(server_error(500), rate_limited())
    await use(model)
    provider.script(*[server_error(503)] * QUICK.attempts)
    with pytest.raises(ServerFailed):
        await use(model)
    provider.script(closed_before_headers())
    await use(model)

    assert len(provider.requests) == 3 + QUICK.attempts + 2
    every_request_has_a_row(provider, list(model.books.meter.ledger()))


@pytest.mark.parametrize("use", [invoke, ainvoke])
async def test_f6_the_users_own_model_keeps_its_retries(
    provider: FakeProvider, use: Callable[[ChatSelfReg], Any]
) -> None:
    """Ours is a copy: the object the user gave goes on as it was."""
    mine = openai_model(provider, max_retries=2)
    ChatSelfReg(inner=mine, store=":memory:", planner="off")
    provider.script(server_error(500))
    await use(mine)  # type: ignore[arg-type]

    assert mine.max_retries == 2
    assert len(provider.requests) == 2


def test_f6_the_check_catches_an_sdk_that_repeats_on_its_own(provider: FakeProvider) -> None:
    provider.script(rate_limited(), rate_limited())
    channel = InnerChannel(openai_model(provider, max_retries=2), [HumanMessage("hi")])
    with stack(provider, cap="1 USD") as on:
        on.calls.complete(replace(call("hi"), params={}), channel)

        must_fail(every_request_has_a_row, provider, list(on.ledger))
