"""The usage on an answer is what the provider billed for it, in every mode, once, and without the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler

from selfreg_sdk import ChatSelfReg, Retry
from tests.fake_provider import FakeProvider, RejectParam, server_error
from tests.langchain.asking import CHUNKS, MODES, Runs, around, ask, usage_of
from tests.sdk.regulated import MODEL, answers, chat, is_plan, planning, plans, record, wanting

PLANNER = "planner-model"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=planning()) as running:
        yield running


def counted(handler: UsageMetadataCallbackHandler, model: str = MODEL) -> dict[str, int]:
    """What LangChain's own counter says of one model, without details."""
    found = dict(handler.usage_metadata[model])
    return {name: found[name] for name in ("input_tokens", "output_tokens", "total_tokens")}  # type: ignore[misc]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [chat, around])
@pytest.mark.parametrize("case", ["plain", "samples", "retry", "rejected"])
async def test_usage_is_the_bill(provider: FakeProvider, make: Any, mode: str, case: str) -> None:
    given: dict[str, Any] = {"planner": "off"}
    match case:
        case "samples":
            given |= {"aggregation": "any of 3"}
        case "retry":
            given |= {"retry": Retry(attempts=2, first_wait=0.0)}
            provider.script(server_error())
        case "rejected":
            given |= wanting(temperature=0.5)
            provider.rules.append(RejectParam(param="temperature"))
    handler = UsageMetadataCallbackHandler()
    message = await ask(make(provider, **given), mode, config={"callbacks": [handler]})
    assert counted(handler) == usage_of(provider.billed)
    assert message.usage_metadata is not None
    assert message.usage_metadata["total_tokens"] == usage_of(provider.billed)["total_tokens"]
    assert record(message)["flags"] == []
    sent = {"plain": 1, "samples": 1, "retry": 2, "rejected": 2}[case]
    assert len(provider.requests) == sent


@pytest.mark.parametrize("mode", MODES)
async def test_the_plans_usage_stands_on_the_plans_run(provider: FakeProvider, mode: str) -> None:
    handler, runs = UsageMetadataCallbackHandler(), Runs()
    message = await ask(chat(provider, planner=PLANNER), mode, config={"callbacks": [handler, runs]})
    (plan,) = runs.inside(runs.roots[0])
    both = usage_of(provider.billed)
    assert message.usage_metadata is not None
    mine, theirs = counted(handler), counted(handler, PLANNER)
    assert {name: mine[name] + theirs[name] for name in both} == both
    assert mine["total_tokens"] == message.usage_metadata["total_tokens"]
    assert theirs["total_tokens"] == plan.message.usage_metadata["total_tokens"]
    assert (len(plans(provider)), len(answers(provider))) == (1, 1)


@pytest.mark.parametrize("mode", CHUNKS)
@pytest.mark.parametrize("make", [chat, around])
async def test_one_chunk_carries_usage_and_it_is_the_last(provider: FakeProvider, make: Any, mode: str) -> None:
    llm = make(provider)
    chunks = list(llm.stream("hello")) if mode == "stream" else [chunk async for chunk in llm.astream("hello")]
    assert [chunk.usage_metadata is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
    assert [bool(chunk.response_metadata.get("selfreg")) for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
    (payload,) = answers(provider)
    assert payload["stream_options"] == {"include_usage": True}
    assert all(chunk.text or chunk.response_metadata for chunk in chunks), "no chunk is there for nothing"


@pytest.mark.parametrize("make", [chat, around])
async def test_a_batch_counts_every_answer(provider: FakeProvider, make: Any) -> None:
    handler = UsageMetadataCallbackHandler()
    llm = make(provider, planner="off")
    llm.batch(["one", "three", "fifteen"], {"callbacks": [handler]})
    await llm.abatch(["one", "three", "fifteen"], {"callbacks": [handler]})
    llm.generate([llm._convert_input(text).to_messages() for text in ("a", "b")], callbacks=[handler])
    assert provider.billed.calls == 8
    assert counted(handler) == usage_of(provider.billed)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_an_inner_models_samples_in_several_calls_are_summed(provider: FakeProvider, way: str) -> None:
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage

    said = [AIMessage("a", usage_metadata={"input_tokens": 5, "output_tokens": number, "total_tokens": 5 + number})
            for number in (1, 2, 3)]  # fmt: skip
    llm = ChatSelfReg(inner=GenericFakeChatModel(messages=iter(said)), store=":memory:", planner="off")
    message = await ask(llm, way, selfreg_aggregation="any of 3")
    assert message.usage_metadata == {"input_tokens": 15, "output_tokens": 6, "total_tokens": 21}


def test_a_mode_that_asks_for_no_usage_is_still_counted(provider: FakeProvider) -> None:
    chunks = list(chat(provider, planner="off").stream("hello", stream_usage=False))
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    assert not any(is_plan(payload) for payload in provider.payloads)
