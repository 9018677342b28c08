"""Server-sent events to chat-completion chunks, without I/O: bytes in, chunks out.

Event format: https://html.spec.whatwg.org/multipage/server-sent-events.html. The promise: a stream is complete, or it
is an error. Blank lines, comments, CRLF, repeated ``[DONE]`` and characters split between reads are all normal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from selfreg_sdk.errors import MalformedReply, ProviderError, TruncatedStream
from selfreg_sdk.wire.json_text import json_object
from selfreg_sdk.wire.replies import Chunk, content_text, parse_usage

_MOST_LINE_BYTES = 16 * 2**20
_QUIET_FIELDS = (b"event", b"id", b"retry")


class ChunkReader:
    """Reads one streamed chat completion.

    Feed it bytes as they come; call :meth:`end` when the body has ended. ``done`` turns true at ``[DONE]``.

    Args:
        n: samples asked for.
        reported: makes the error out of a chunk that carries one, or returns None.
    """

    def __init__(self, *, n: int, reported: Callable[[dict[str, Any]], ProviderError | None]) -> None:
        self.done = False
        self._n = n
        self._reported = reported
        self._pending: list[bytes] = []  # an unfinished line, in pieces
        self._pending_bytes = 0
        self._data: list[bytes] = []  # the lines of an event that is not yet valid JSON
        self._finished: dict[int, bool] = {}
        self._text: list[str] = []
        self._usage_seen = False

    @property
    def answered(self) -> bool:
        """Every sample asked for has its finish_reason."""
        return len(self._finished) >= self._n and all(self._finished.values())

    @property
    def finished(self) -> bool:
        """Nothing that matters can follow."""
        return self.done or (self.answered and self._usage_seen)

    @property
    def partial(self) -> str:
        """Text of the first sample so far."""
        return "".join(self._text)

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Chunks completed by ``data``.

        Raises:
            MalformedReply: a line that is no part of an event stream, or data that is not JSON.
            ProviderError: the event reported an error.
        """
        for line in self._lines(data):
            if self.done:
                return
            if (chunk := self._line(line)) is not None:
                yield chunk

    def end(self) -> Iterator[Chunk]:
        """The last chunks, once the body has ended.

        Raises:
            TruncatedStream: a finish_reason is missing.
        """
        rest = b"".join(self._pending).rstrip(b"\r")
        self._pending.clear()
        if not self.done:
            try:
                if (chunk := self._line(rest)) is not None:
                    yield chunk
                self._line(b"")
            except MalformedReply:
                if not (self._finished or b"data:".startswith(rest[:5])):
                    raise  # no event stream at all
                if not self._complete():
                    raise self.truncated("the body ends inside a line") from None
        if not self._complete():
            raise self.truncated("the body ended")

    def truncated(self, why: str) -> TruncatedStream:
        """The error for a stream that stopped before its finish_reason."""
        open_samples = [index for index, finished in self._finished.items() if not finished]
        missing = f"samples {open_samples} open" if open_samples else f"{len(self._finished)} of {self._n} samples seen"
        return TruncatedStream(
            f"stream cut off: {why} without a finish_reason ({missing}); the text so far is in .partial",
            partial=self.partial,
        )

    def _complete(self) -> bool:
        # With [DONE] the server itself says that no sample is missing; without it only the number asked for tells.
        return self.answered or (self.done and bool(self._finished) and all(self._finished.values()))

    def _lines(self, data: bytes) -> list[bytes]:
        self._pending_bytes += len(data)
        if self._pending_bytes > _MOST_LINE_BYTES:
            raise MalformedReply(f"a line of the stream exceeds {_MOST_LINE_BYTES} bytes", status=200)
        if not self._pending and data.endswith(b"\n"):  # whole lines: what servers send nearly always
            self._pending_bytes = 0
            return data.splitlines()
        self._pending.append(data)
        if b"\n" not in data and b"\r" not in data and not self._pending[0].endswith(b"\r"):
            return []
        lines = b"".join(self._pending).splitlines(keepends=True)
        # A final "\r" may be half of "\r\n": wait for the next bytes.
        rest = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        self._pending = [rest] if rest else []
        self._pending_bytes = len(rest)
        return [line.rstrip(b"\r\n") for line in lines]

    def _line(self, line: bytes) -> Chunk | None:
        """Take one line; the chunk that it completes."""
        if line.startswith(b"data:"):
            return self._event(line[5:].strip())
        line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if self._data:
                event = b"\n".join(self._data)
                self._data.clear()
                raise MalformedReply(
                    "the stream holds data that is not a JSON object", status=200, body=_excerpt(event)
                )
            return None
        if line.startswith(b"data:"):
            return self._event(line[5:].strip())
        if line[:1] == b":" or line.partition(b":")[0] in _QUIET_FIELDS:
            return None
        chunk = json_object(line)  # an error sent as plain JSON in place of a stream
        failure = self._reported(chunk) if chunk is not None else None
        raise failure or MalformedReply(
            "the reply to a streaming request is not an event stream", status=200, body=_excerpt(line)
        )

    def _event(self, data: bytes) -> Chunk | None:
        if not data:
            return None
        if data == b"[DONE]":
            self.done = True
            return None
        if self._data:
            self._data.append(data)
            data = b"\n".join(self._data)
        body = json_object(data)
        if body is None:  # the event may go on in the next line; a blank line decides
            self._data = self._data or [data]
            return None
        self._data.clear()
        if failure := self._reported(body):
            raise failure
        return self._note(body)

    def _note(self, body: dict[str, Any]) -> Chunk:
        choices = body.get("choices", [])
        if choices is None:
            choices = []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise MalformedReply(f"'choices' of a chunk is {choices!r:.80}", status=200)
        for choice in choices:
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            delta = choice.get("delta")
            if index == 0 and isinstance(delta, dict):
                self._text.append(content_text(delta.get("content")) or "")
            self._finished[index] = bool(choice.get("finish_reason")) or self._finished.get(index, False)
        usage = parse_usage(body.get("usage"))
        self._usage_seen = self._usage_seen or body.get("usage") is not None
        return Chunk(body=body, usage=usage)


def _excerpt(data: bytes) -> str:
    return data[:500].decode("utf-8", "replace")
