"""Asking a model that regulates another one, in every way LangChain has."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage

from selfreg_sdk import ChatSelfReg
from tests.sdk.regulated import ONCE

MODEL = "gpt-4.1-mini"
ANSWER = "echo: hello"
MODES = ("invoke", "ainvoke", "stream", "astream")


def around(inner: BaseChatModel, **given: Any) -> ChatSelfReg:
    usual: dict[str, Any] = {"inner": inner, "store": ":memory:", "retry": ONCE}
    return ChatSelfReg(**(usual | given))


async def ask(llm: BaseChatModel, mode: str, **kwargs: Any) -> AIMessage:
    """One answer; chunks are summed."""
    if mode == "invoke":
        return await asyncio.to_thread(llm.invoke, "hello", **kwargs)
    if mode == "ainvoke":
        return await llm.ainvoke("hello", **kwargs)
    if mode == "stream":
        chunks = await asyncio.to_thread(lambda: list(llm.stream("hello", **kwargs)))
    else:
        chunks = [chunk async for chunk in llm.astream("hello", **kwargs)]
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total  # type: ignore[return-value]
