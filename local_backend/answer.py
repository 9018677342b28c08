"""The wire, outbound: one answer on its way to the client, whole or as a stream of events.

A client that leaves takes its generation with it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from local_backend.generate import Token
from local_backend.protocol import ApiError, ChatRequest
from local_backend.textstream import FinishReason
from local_backend.trace import RowTrace
from local_backend.worker import Generation, GenerationFailed, Job, Piece, QueueFull, Worker, WorkerStopped


@dataclass(kw_only=True)
class Choice:
    """One sample as far as it has come: its text, the tokens it took (the end token counts), and why it ended."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece in."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish_reason = piece.finish_reason


class Reply:
    """Writes the bodies of one answer, whole or as a stream of chunks, all under one id.

    Args:
        request: what was asked.
        model: name the model is served under.
        prompt_tokens: length of the prompt.
        decided: the model's heads decide, rather than the request's numbers.
        text_of: the text of one token, for traces.
    """

    def __init__(
        self, request: ChatRequest, *, model: str, prompt_tokens: int, decided: bool, text_of: Callable[[int], str]
    ) -> None:
        self._request = request
        self._prompt_tokens = prompt_tokens
        self._mode = "auto" if decided else "fixed"
        self._text_of = text_of
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
            "usage": self._usage(choices),
            "selfreg": {**self._report(choices), **self._trace(*(choice.tokens for choice in choices))},
        }

    def opening(self, index: int) -> dict[str, Any]:
        """The first chunk of one sample: who speaks."""
        return self._chunk([_delta(index, {"role": "assistant", "content": ""})])

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """A streamed piece of one sample: its text, then its end; the first of them carries the trace of its tokens."""
        bodies = [self._chunk([_delta(piece.row, {"content": piece.text})])] if piece.text else []
        if piece.finish_reason is not None:
            bodies.append(self._chunk([_delta(piece.row, {}, piece.finish_reason)]))
        trace = self._trace(piece.tokens)
        return [{**bodies[0], **({"selfreg": trace} if trace else {})}, *bodies[1:]]

    def closing(self, chunk: Mapping[str, Any], choices: Sequence[Choice]) -> dict[str, Any]:
        """The chunk that ends the last open sample, with the `selfreg` report of the whole answer."""
        return {**chunk, "selfreg": {**self._report(choices), **chunk.get("selfreg", {})}}

    def usage_chunk(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """What `stream_options.include_usage` asks for: no choices, the usage of all samples."""
        return {**self._chunk([]), "usage": self._usage(choices)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        body = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        options = self._request.stream_options
        # With usage asked for, OpenAI puts "usage": null on every chunk but the last.
        return {**body, "usage": None} if options is not None and options.include_usage else body

    def _usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        completion = sum(len(choice.tokens) for choice in choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self._prompt_tokens + completion,
        }

    def _report(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Who decided, and the means over all tokens of all samples."""
        tokens = [token for choice in choices for token in choice.tokens]
        return {
            "mode": self._mode,
            "temperature_mean": _short(fmean(token.temperature for token in tokens)),
            "top_p_mean": _short(fmean(token.top_p for token in tokens)),
        }

    def _trace(self, *samples: Sequence[Token]) -> dict[str, Any]:
        """If it was asked for: one entry for each of the body's choices, and in it one number for each token."""
        if not self._request.selfreg.trace:
            return {}
        return {"trace": [self._sample_trace(tokens) for tokens in samples]}

    def _sample_trace(self, tokens: Sequence[Token]) -> dict[str, Any]:
        trace = RowTrace(
            token=[token.id for token in tokens],
            temperature=[_short(token.temperature) for token in tokens],
            top_p=[_short(token.top_p) for token in tokens],
            entropy=[_short(token.entropy or 0.0) for token in tokens],
            probability=[_short(token.probability or 0.0) for token in tokens],
        )
        return {"text": [self._text_of(token.id) for token in tokens], **asdict(trace)}


def _delta(index: int, delta: Mapping[str, str], finish_reason: FinishReason | None = None) -> dict[str, Any]:
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}


def _short(value: float) -> float:
    """Six digits: all that float32 holds for sure, and a third of what its decimal expansion would take."""
    return float(f"{value:.6g}")


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
        choices = [Choice() for _ in range(self._asked.n)]
        async for piece in _pieces(job):
            choices[piece.row].add(piece)
        if job.cancelled:
            return
        await JSONResponse(self._reply.whole(choices))(scope, receive, send)

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
            await _send_event(send, self._reply.opening(row))
        choices = [Choice() for _ in range(self._asked.n)]
        try:
            while pending is not None:
                choices[pending.row].add(pending)
                *bodies, last = self._reply.chunks(pending)
                finished = all(choice.finish_reason is not None for choice in choices)
                for body in (*bodies, self._reply.closing(last, choices) if finished else last):
                    await _send_event(send, body)
                pending = await anext(pieces, None)
        except ApiError as error:
            # No [DONE]: a stream that broke must not look like one that ended.
            await _send_event(send, error.body())
        else:
            if job.cancelled:
                return
            options = self._asked.stream_options
            if options is not None and options.include_usage:
                await _send_event(send, self._reply.usage_chunk(choices))
            await _send(send, b"data: [DONE]\n\n")
        await _send(send, b"", more=False)


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
