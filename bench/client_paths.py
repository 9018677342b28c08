"""The ways to make one chat completion that are compared: ours, the peers', and the floors under both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI

from bench.client_timing import Call
from policies import Aggregation, Plan, task_key
from selfreg_sdk import ChatSelfReg, PriceOverride, Prices
from selfreg_sdk.runtime import runtime
from selfreg_sdk.store.configs import ConfigRecord

MODEL, TASK = "bench-model", "bench"
PLAN = Plan(family="chat", determinism="steady", diversity="one", depth="none", length="paragraph")
PARAMS: dict[str, Any] = {"temperature": 0.3, "max_tokens": 512}
"""What `PLAN` means for a model nobody knows; peers get it from their caller, so that everybody sends the same."""
PRICES = Prices({MODEL: PriceOverride(input_usd_per_mtok="0.40", output_usd_per_mtok="1.60")})
KEY = "no-key-is-needed"


def conversation(messages: int) -> list[BaseMessage]:
    """``messages`` turns of text: a system prompt, then user and assistant."""
    turn = "The report of the {}th week says that deliveries were late again; what did the customer ask for?"
    made: list[BaseMessage] = [SystemMessage("Answer questions about reports in one sentence.")]
    for number in range(messages - 1):
        made.append((AIMessage if number % 2 else HumanMessage)(turn.format(number)))
    return made


def planned_store(path: Path) -> Path:
    """A store in which the task has a plan."""
    configs = runtime(path).configs
    key = str(task_key(name=TASK, messages=(), model=MODEL, aggregation=Aggregation()))
    record = ConfigRecord(
        task_key=key,
        model=MODEL,
        aggregation="first",
        params=PARAMS,
        plan=PLAN.as_dict(),
        provenance={"kind": "planned"},
    )
    configs.point(key, "production", configs.add_version(record))
    return path


def peer(url: str, **more: Any) -> ChatOpenAI:
    """LangChain's own model for the same endpoint."""
    return ChatOpenAI(model=MODEL, base_url=url, api_key=KEY, stream_usage=True, **PARAMS, **more)


def around(inner: ChatOpenAI, store: Path) -> ChatSelfReg:
    """Ours around it, the plan remembered and every call in the ledger."""
    return ChatSelfReg(inner=inner, store=store, task=TASK)


def own(url: str, store: Path | str, *, budget: str | None) -> ChatSelfReg:
    """Ours on the endpoint itself."""
    decides: dict[str, Any] = {"planner": "off", **PARAMS} if store == ":memory:" else {"task": TASK}
    return ChatSelfReg(model=MODEL, base_url=url, api_key=KEY, store=store, budget=budget, prices=PRICES, **decides)


def invoking(model: BaseChatModel, messages: list[BaseMessage]) -> Call:
    """One answer of a chat model."""

    async def call() -> None:
        await model.ainvoke(messages)

    return call


def streaming(model: BaseChatModel, messages: list[BaseMessage]) -> Call:
    """One answer in pieces."""

    async def call() -> None:
        async for _ in model.astream(messages):
            pass

    return call


def of_openai(url: str, messages: list[BaseMessage]) -> tuple[Call, openai.AsyncOpenAI]:
    """One answer of OpenAI's own client, without LangChain."""
    client, wire = openai.AsyncOpenAI(base_url=url, api_key=KEY), convert_to_openai_messages(messages)

    async def call() -> None:
        await client.chat.completions.create(model=MODEL, messages=wire, **PARAMS)  # type: ignore[arg-type]

    return call, client


def of_aiohttp(url: str, messages: list[BaseMessage], session: aiohttp.ClientSession) -> Call:
    """The bytes there and back, and JSON read and written: the floor under everybody."""
    body = {"model": MODEL, "messages": convert_to_openai_messages(messages), **PARAMS}

    async def call() -> None:
        async with session.post(f"{url}/chat/completions", data=json.dumps(body).encode()) as response:
            json.loads(await response.read())

    return call


class Constant(BaseChatModel):
    """Answers at once: the floor under every LangChain chat model."""

    @property
    def _llm_type(self) -> str:
        return "constant"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages)
