"""The wire, outbound: one answer on its way to the client, whole or as a stream of events.

A client that leaves takes its generation with it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from local_backend.protocol import ApiError, ChatRequest
from local_backend.textstream import FinishReason
from local_backend.worker import Generation, GenerationFailed, Job, Piece, QueueFull, Worker, WorkerStopped


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One finished sample: its text, why it ended, and the tokens it took (the end token counts)."""

    text: str
    finish_reason: FinishReason
    tokens: int


class Reply:
    """Writes the bodies of one answer, whole or as a stream of chunks, all under one id."""

    def __init__(self, request: ChatRequest, *, model: str, prompt_tokens: int) -> None:
        self._request = request
        self._prompt_tokens = prompt_tokens
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": self._usage([choice.tokens for choice in choices]),
            "selfreg": self._selfreg([choice.tokens for choice in choices]),
        }

    def chunk(self, index: int, delta: Mapping[str, str], finish_reason: FinishReason | None = None) -> dict[str, Any]:
        """One streamed piece of one sample."""
        choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice])

    def last_chunk(self, index: int, finish_reason: FinishReason, tokens: Sequence[int]) -> dict[str, Any]:
        """The piece that ends the last open sample; it carries the `selfreg` report of the whole answer."""
        return {**self.chunk(index, {}, finish_reason), "selfreg": self._selfreg(tokens)}

    def usage_chunk(self, tokens: Sequence[int]) -> dict[str, Any]:
        """What `stream_options.include_usage` asks for: no choices, the usage of all samples."""
        return {**self._chunk([]), "usage": self._usage(tokens)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        body = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        options = self._request.stream_options
        # With usage asked for, OpenAI puts "usage": null on every chunk but the last.
        return {**body, "usage": None} if options is not None and options.include_usage else body

    def _usage(self, tokens: Sequence[int]) -> dict[str, int]:
        completion = sum(tokens)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self._prompt_tokens + completion,
        }

    def _selfreg(self, tokens: Sequence[int]) -> dict[str, Any]:
        temperature, top_p = self._request.effective_temperature, self._request.effective_top_p
        report: dict[str, Any] = {"mode": "fixed", "temperature_mean": temperature, "top_p_mean": top_p}
        if self._request.selfreg.trace:
            report["trace"] = [{"temperature": [temperature] * used, "top_p": [top_p] * used} for used in tokens]
        return report


class Answer(Response):
    """Submits a generation and sends what comes of it; a client that leaves takes the generation with it."""

    def __init__(self, worker: Worker, generation: Generation, reply: Reply, asked: ChatRequest) -> None:
        super().__init__()
        self._worker = worker
        self._generation = generation
        self._reply = reply
        self._asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send; a refusal before the first byte is raised as ApiError for the app to answer."""
        try:
            job = self._worker.submit(self._generation)
        except (QueueFull, WorkerStopped) as error:
            raise _as_api_error(error) from None
        watch = asyncio.create_task(_cancel_when_gone(job, receive))
        try:
            await (self._stream(job, send) if self._asked.stream else self._whole(job, scope, receive, send))
        finally:
            watch.cancel()
            job.cancel()

    async def _whole(self, job: Job, scope: Scope, receive: Receive, send: Send) -> None:
        texts = [""] * self._asked.n
        choices: dict[int, Choice] = {}
        async for piece in _pieces(job):
            texts[piece.row] += piece.text
            if piece.finish_reason is not None:
                choices[piece.row] = Choice(
                    text=texts[piece.row], finish_reason=piece.finish_reason, tokens=piece.tokens
                )
        if job.cancelled:
            return
        body = self._reply.whole([choices[row] for row in range(self._asked.n)])
        await JSONResponse(body)(scope, receive, send)

    async def _stream(self, job: Job, send: Send) -> None:
        pieces = _pieces(job)
        # A failure before the first token can still be told by the status, so the headers wait for it.
        pending = await anext(pieces, None)
        if pending is None:
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")],
            }
        )
        for row in range(self._asked.n):
            await _send_event(send, self._reply.chunk(row, {"role": "assistant", "content": ""}))
        tokens: dict[int, int] = {}
        try:
            while pending is not None:
                await self._send_piece(send, pending, tokens)
                pending = await anext(pieces, None)
        except ApiError as error:
            # No [DONE]: a stream that broke must not look like one that ended.
            await _send_event(send, error.body())
        else:
            if job.cancelled:
                return
            options = self._asked.stream_options
            if options is not None and options.include_usage:
                await _send_event(send, self._reply.usage_chunk(list(tokens.values())))
            await _send(send, b"data: [DONE]\n\n")
        await _send(send, b"", more=False)

    async def _send_piece(self, send: Send, piece: Piece, tokens: dict[int, int]) -> None:
        if piece.text:
            await _send_event(send, self._reply.chunk(piece.row, {"content": piece.text}))
        if piece.finish_reason is None:
            return
        tokens[piece.row] = piece.tokens
        if len(tokens) < self._asked.n:
            await _send_event(send, self._reply.chunk(piece.row, {}, piece.finish_reason))
        else:
            used = [tokens[row] for row in range(self._asked.n)]
            await _send_event(send, self._reply.last_chunk(piece.row, piece.finish_reason, used))


async def _pieces(job: Job) -> AsyncIterator[Piece]:
    """The pieces of a job, one by one; its failures as what the client is told."""
    try:
        async for step in job:
            for piece in step:
                yield piece
    except (GenerationFailed, WorkerStopped) as error:
        raise _as_api_error(error) from None


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, QueueFull):
        return ApiError(
            f"The server is full: {error}. Try again shortly.",
            status=429,
            code="queue_full",
            headers={"retry-after": "1"},
        )
    if isinstance(error, WorkerStopped):
        return ApiError(f"The server cannot answer: {error}.", status=503, code="worker_stopped")
    return ApiError(f"The request failed: {error}.", status=500, code="generation_failed")


async def _cancel_when_gone(job: Job, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.cancel()


async def _send(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _send_event(send: Send, body: Mapping[str, Any]) -> None:
    # Escaped, because readers that split lines the Unicode way would break an event at a U+2028 or U+0085.
    text = json.dumps(body, separators=(",", ":"))
    await _send(send, b"data: " + text.encode() + b"\n\n")
