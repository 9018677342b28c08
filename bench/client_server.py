"""A chat completions server that costs next to nothing: fixed replies from a bare asyncio protocol.

``python -m bench.client_server CORE`` prints its port and serves until its standard input ends. Under ``/s400/`` replies are
streams of 400 pieces, elsewhere they are one JSON object; under ``/d50/`` that comes after 50 ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from functools import cache

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb"/s(\d+)/")
_DELAY = re.compile(rb"/d(\d+)/")
_COMMON = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "bench-model"}
_USAGE = {"prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52}


def _response(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)


@cache
def _whole() -> bytes:
    message = {"role": "assistant", "content": "It is the one that was asked for, in a sentence of usual length."}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    reply = {**_COMMON, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    return _response(b"application/json", json.dumps(reply).encode())


@cache
def _stream(pieces: int) -> bytes:
    def event(choices: list[dict[str, object]], **more: object) -> bytes:
        chunk = {**_COMMON, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    deltas = [event([{"index": 0, "delta": {"content": f"word{n} "}, "finish_reason": None}]) for n in range(pieces)]
    first = event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    last = event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    body = b"".join([first, *deltas, last, event([], usage=_USAGE), b"data: [DONE]\n\n"])
    return _response(b"text/event-stream", body)


class _Protocol(asyncio.Protocol):
    """Answers every complete request on a connection that stays open."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held = self._held + data if self._held else data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end]
            length = _LENGTH.search(head)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self._held) < total:
                return
            self._held = self._held[total:]
            line = head[: head.find(b"\r\n")]
            wanted, late = _STREAM.search(line), _DELAY.search(line)
            reply = _stream(int(wanted[1])) if wanted else _whole()
            assert isinstance(self._transport, asyncio.WriteTransport)
            if late:
                asyncio.get_running_loop().call_later(int(late[1]) / 1000, self._transport.write, reply)
            else:
                self._transport.write(reply)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Protocol, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1:]:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(_serve())
