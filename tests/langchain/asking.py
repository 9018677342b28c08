"""Every way to call a chat model, and listeners that remember what LangChain told them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import LLMResult
from langchain_openai import ChatOpenAI

from selfreg_sdk import ChatSelfReg
from tests.fake_billing import Billed, count_tokens, prompt_tokens
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import MODEL, ONCE, Payload

WHOLE = ("invoke", "ainvoke", "batch", "abatch")
CHUNKS = ("stream", "astream")
EVENTS = ("events v2", "events v3", "aevents v3")
MODES = (*WHOLE, *CHUNKS, *EVENTS)
ANSWER = "echo: hello"


def around(provider: FakeProvider, inner: dict[str, Any] | None = None, **given: Any) -> ChatSelfReg:
    """A regulated ChatOpenAI on the provider; its client is not kept by its URL for the process and its first event loop."""
    usual = {"model": MODEL, "base_url": provider.base_url, "api_key": "sk-test", "http_socket_options": ()}
    return ChatSelfReg(inner=ChatOpenAI(**(usual | (inner or {}))), **({"store": ":memory:", "retry": ONCE} | given))


async def ask(llm: Any, mode: str, text: Any = "hello", config: Any = None, **kwargs: Any) -> AIMessage:
    """One answer through one of LangChain's methods; chunks are summed."""
    match mode:
        case "invoke":
            return await asyncio.to_thread(llm.invoke, text, config, **kwargs)
        case "ainvoke":
            return await llm.ainvoke(text, config, **kwargs)
        case "batch":
            return (await asyncio.to_thread(llm.batch, [text], config, **kwargs))[0]
        case "abatch":
            return (await llm.abatch([text], config, **kwargs))[0]
        case "stream":
            return summed(await asyncio.to_thread(lambda: list(llm.stream(text, config, **kwargs))))
        case "astream":
            return summed([chunk async for chunk in llm.astream(text, config, **kwargs)])
        case "events v2":
            events = [event async for event in llm.astream_events(text, config, version="v2", **kwargs)]
            return summed([event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"])
        case "events v3":
            return await asyncio.to_thread(lambda: llm.stream_events(text, config, version="v3", **kwargs).output)
        case _:
            stream = await llm.astream_events(text, config, version="v3", **kwargs)
            try:
                return await stream.output
            finally:
                await asyncio.wait(
                    [stream._producer_task], timeout=10
                )  # it ends the run when the answer is out already


def summed(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


@dataclass
class Run:
    """One model run, as a listener sees it."""

    id: UUID
    parent: UUID | None
    name: str | None
    tags: list[str]
    metadata: dict[str, Any]
    params: dict[str, Any]
    tokens: list[Any] = field(default_factory=list)
    result: LLMResult | None = None
    error: BaseException | None = None

    @property
    def message(self) -> Any:
        assert self.result is not None
        return self.result.generations[0][0].message  # type: ignore[union-attr]


class Runs(BaseCallbackHandler):
    """Remembers every model run."""

    def __init__(self) -> None:
        self.all: dict[UUID, Run] = {}

    def on_chat_model_start(self, serialized: Any, messages: Any, **about: Any) -> None:
        assert about["run_id"] not in self.all
        self.all[about["run_id"]] = Run(
            id=about["run_id"],
            parent=about["parent_run_id"],
            name=about.get("name"),
            tags=about.get("tags") or [],
            metadata=about.get("metadata") or {},
            params=about.get("invocation_params") or {},
        )

    def on_llm_new_token(self, token: Any, **about: Any) -> None:
        self.all[about["run_id"]].tokens.append(token)

    def on_llm_end(self, response: LLMResult, **about: Any) -> None:
        run = self.all[about["run_id"]]
        assert run.result is None
        assert run.error is None
        run.result = response

    def on_llm_error(self, error: BaseException, **about: Any) -> None:
        run = self.all[about["run_id"]]
        assert run.result is None
        assert run.error is None
        run.error = error

    @property
    def roots(self) -> list[Run]:
        return [run for run in self.all.values() if run.parent not in self.all]

    def inside(self, root: Run) -> list[Run]:
        return [run for run in self.all.values() if run.parent == root.id]


class AsyncRuns(AsyncCallbackHandler):
    """The same for listeners that are coroutines."""

    def __init__(self) -> None:
        self.runs = Runs()

    async def on_chat_model_start(self, *args: Any, **about: Any) -> None:
        await asyncio.sleep(0)
        self.runs.on_chat_model_start(*args, **about)

    async def on_llm_end(self, *args: Any, **about: Any) -> None:
        self.runs.on_llm_end(*args, **about)

    async def on_llm_error(self, *args: Any, **about: Any) -> None:
        self.runs.on_llm_error(*args, **about)


def usage_of(billed: Billed) -> dict[str, int]:
    """A provider's bill as LangChain counts tokens."""
    return {
        "input_tokens": billed.prompt_tokens,
        "output_tokens": billed.completion_tokens,
        "total_tokens": billed.prompt_tokens + billed.completion_tokens,
    }


def worth(payload: Payload, *texts: str) -> dict[str, int]:
    """What the provider counts for one request and its answers."""
    spent = sum(count_tokens(text) for text in texts)
    return {
        "input_tokens": prompt_tokens(payload),
        "output_tokens": spent,
        "total_tokens": prompt_tokens(payload) + spent,
    }
