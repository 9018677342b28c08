"""One way to drive the client through its four faces, and naive clients the fault tests must catch."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from selfreg_sdk.client import Client, Timeouts

CALM = Timeouts(connect=20, first_byte=20, idle=20, total=60)  # for what must not time out on a busy machine
QUICK = Timeouts(connect=20, first_byte=1.0, idle=1.0, total=60)  # for servers that hang
HANG = 15.0  # a generous bound: what takes longer has hung
ASK: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "grüße 🦊"}]}
ANSWER = "echo: grüße 🦊"

Face = Callable[..., str]


def complete(client: Any, payload: dict[str, Any] = ASK, **limits: Any) -> str:
    return client.complete(payload, **limits).texts[0] or ""


def acomplete(client: Any, payload: dict[str, Any] = ASK, **limits: Any) -> str:
    async def run() -> str:
        async with client:
            return (await client.acomplete(payload, **limits)).texts[0] or ""

    return asyncio.run(run())


def stream(client: Any, payload: dict[str, Any] = ASK, **limits: Any) -> str:
    return "".join(delta_text(chunk.body) for chunk in client.stream(payload, **limits))


def astream(client: Any, payload: dict[str, Any] = ASK, **limits: Any) -> str:
    async def run() -> str:
        async with client:
            return "".join([delta_text(chunk.body) async for chunk in client.astream(payload, **limits)])

    return asyncio.run(run())


WHOLE = (complete, acomplete)
STREAMED = (stream, astream)
FACES = (*WHOLE, *STREAMED)


def delta_text(body: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in body["choices"] if choice["index"] == 0)


def caught(wanted: type[BaseException], face: Face, client: Any, payload: dict[str, Any] = ASK, **limits: Any) -> Any:
    """The error of type ``wanted`` that the call raises; anything else fails the test."""
    with pytest.raises(wanted) as info:
        face(client, payload, **limits)
    return info.value


def make(base_url: str, **options: Any) -> Client:
    return Client(base_url=base_url, **{"timeouts": CALM, **options})


class NaiveStreamer:
    """The broken variant: joins whatever arrives and never asks whether that was all."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def stream(self, payload: dict[str, Any]) -> Iterator[Any]:
        try:
            with httpx.stream("POST", f"{self.base_url}/chat/completions", json={**payload, "stream": True}) as reply:
                for line in reply.iter_lines():
                    if line.startswith("data: {"):
                        yield _Seen(json.loads(line[6:]))
        except (ValueError, httpx.RequestError):
            return


class NaiveCompleter:
    """The broken variant: takes any 200 for an answer and gives the defaults to whatever is missing."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def complete(self, payload: dict[str, Any]) -> Any:
        try:
            body = httpx.post(f"{self.base_url}/chat/completions", json=payload).json()
            return _Seen({"choices": body["choices"]}, [c["message"]["content"] for c in body["choices"]] or [""])
        except (ValueError, KeyError, TypeError, RecursionError, httpx.RequestError):
            return _Seen({}, [""])


class _Seen:
    def __init__(self, body: Any, texts: list[Any] | None = None) -> None:
        self.body = body
        self.texts = texts or [""]


def must_fail(check: Callable[..., None], *arguments: Any) -> None:
    """The test of the test: ``check`` must reject a broken variant."""
    assert not inspect.iscoroutinefunction(check)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(*arguments)
