"""LangChain's rate limiters: one permit for each request, and one for a planning call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.rate_limiters import BaseRateLimiter, InMemoryRateLimiter
from langchain_openai import ChatOpenAI

from selfreg_sdk import ChatSelfReg
from tests.fake_provider import FakeProvider
from tests.langchain.asking import MODES, ask
from tests.sdk.regulated import MODEL, ONCE, chat, planning


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=planning()) as running:
        yield running


class Counting(BaseRateLimiter):
    """Counts permits, and on which side they were asked for."""

    def __init__(self) -> None:
        self.permits: list[str] = []

    def acquire(self, *, blocking: bool = True) -> bool:
        self.permits.append("sync")
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.permits.append("async")
        return True


def around(provider: FakeProvider, *, rate_limiter: BaseRateLimiter | None = None, **given: Any) -> ChatSelfReg:
    """The limiter is the inner model's, which would ask for permits itself, were it called by LangChain."""
    usual: dict[str, Any] = {"model": MODEL, "base_url": provider.base_url, "api_key": "sk-test"}
    inner = ChatOpenAI(**usual, http_socket_options=(), rate_limiter=rate_limiter)
    return ChatSelfReg(inner=inner, **({"store": ":memory:", "retry": ONCE} | given))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [chat, around])
async def test_a_permit_for_every_request(provider: FakeProvider, make: Any, mode: str) -> None:
    limiter = Counting()
    llm = make(provider, rate_limiter=limiter)
    side = "async" if mode in ("ainvoke", "abatch", "astream", "events v2", "aevents v3") else "sync"
    await ask(llm, mode)
    assert limiter.permits == [side] * 2, "the plan and the answer"
    await ask(llm, mode)
    assert limiter.permits == [side] * 3
    assert len(provider.requests) == 3


async def test_a_cached_answer_needs_none(provider: FakeProvider) -> None:
    limiter = Counting()
    llm = chat(provider, rate_limiter=limiter, cache=InMemoryCache(), planner="off")
    for _ in range(3):
        await ask(llm, "ainvoke")
    assert limiter.permits == ["async"]


async def test_another_model_that_plans_has_a_limiter_of_its_own(provider: FakeProvider) -> None:
    mine, theirs = Counting(), Counting()
    planner = chat(provider, model="planner", planner="off", rate_limiter=theirs)
    await ask(chat(provider, planner=planner, rate_limiter=mine), "ainvoke")
    assert (mine.permits, theirs.permits) == (["async"], ["async"])


def test_langchains_own_limiter_is_waited_for(provider: FakeProvider) -> None:
    limiter = InMemoryRateLimiter(requests_per_second=20, check_every_n_seconds=0.005, max_bucket_size=1)
    llm = chat(provider, rate_limiter=limiter)
    for _ in range(3):
        llm.invoke("hello")
    assert limiter.acquire(blocking=False) is False, "every permit so far was used"
    assert len(provider.requests) == 4
