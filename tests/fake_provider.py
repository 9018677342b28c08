"""A loopback provider that behaves, misbehaves on demand, and knows the truth about what it billed.

In a test::

    with FakeProvider() as provider:
        provider.script(rate_limited(seconds=1), hang_between_chunks())   # the next two requests
        ...                                                               # later ones get good answers
        assert provider.billed.calls == 1

For several processes it runs in one of its own, see `tests.provider_process`; ``read_bills(FILE)`` sums the truth.

Generation is billed whether or not the answer arrives; error statuses are not. It is a raw socket server with a thread per
connection, because it must cut, stall and reset connections at any byte.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.fake_billing import Billed, count_tokens, prompt_tokens
from tests.fake_billing import read_bills as read_bills
from tests.fake_faults import *  # noqa: F403  (tests import provider and faults from here)
from tests.fake_faults import Fault, IgnoreParam, Payload, RejectParam, rejection, status
from tests.fake_wire import Request, events, pieces, read_request, stream_body

MILLION = Decimal(1_000_000)


def echo(payload: Payload) -> str:
    """The default answer: the last message, marked."""
    messages = payload.get("messages") or [{"content": ""}]
    return f"echo: {messages[-1].get('content')}"


class FakeProvider:
    """An OpenAI-compatible server on a free loopback port; a context manager.

    Args:
        reply: the answer to a payload: one for all samples, or a list with one per sample. Each is a text, or a message
            (fields beside ``role``), for tool calls.
        price: USD per million prompt and completion tokens.
        rules: standing rules, see :class:`RejectParam` and :class:`IgnoreParam`.
        models: ids that GET /v1/models lists.
        bills: a file to append one JSON line per billed call to, for other processes to read.
        latency: seconds every answer takes.
    """

    def __init__(
        self,
        *,
        reply: Callable[[Payload], str | Payload | list[str]] = echo,
        price: tuple[Decimal, Decimal] = (Decimal("0.40"), Decimal("1.60")),
        rules: tuple[RejectParam | IgnoreParam, ...] = (),
        models: tuple[str, ...] = ("fake-model",),
        bills: Path | str | None = None,
        latency: float = 0.0,
        port: int = 0,
    ) -> None:
        self.reply = reply
        self.price = price
        self.rules = list(rules)
        listed = [{"id": name, "object": "model"} for name in models]
        self.models_body = json.dumps({"object": "list", "data": listed}).encode()
        self.latency = latency
        self.requests: list[Request] = []
        self.disconnects = 0  # clients that left before their answer was complete
        self.connections_made = 0
        self.closing = threading.Event()
        self._bills = Path(bills) if bills is not None else None
        self._billed = Billed()
        self._queue: deque[Fault] = deque()
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="fake-provider", daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def billed(self) -> Billed:
        with self._changed:
            return self._billed

    @property
    def connections_open(self) -> int:
        return len(self._connections)

    @property
    def payloads(self) -> list[Payload]:
        """The bodies of all chat completions so far."""
        return [request.payload for request in self.requests if request.method == "POST"]

    def script(self, *faults: Fault) -> None:
        """Treat the next requests so, in this order; after them the default again."""
        with self._changed:
            self._queue.extend(faults)

    def wait_until(self, condition: Callable[[FakeProvider], bool], timeout: float = 10.0) -> bool:
        """Wait until ``condition(self)`` holds, e.g. ``lambda p: p.disconnects == 1``."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    def __enter__(self) -> FakeProvider:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(timeout=5)

    def bill(self, prompt: int, completion: int) -> None:
        usd = (prompt * self.price[0] + completion * self.price[1]) / MILLION
        one = Billed(calls=1, prompt_tokens=prompt, completion_tokens=completion, usd=usd)
        with self._changed:
            self._billed += one
            if self._bills is not None:
                row = {"calls": 1, "prompt_tokens": prompt, "completion_tokens": completion, "usd": str(usd)}
                with self._bills.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            self._changed.notify_all()

    def note(self, request: Request) -> Fault:
        """Record a request and say how to treat it."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            for rule in self.rules:
                named = rule.param in request.payload and rule.model in (None, request.payload.get("model"))
                if named and isinstance(rule, RejectParam):
                    return rejection(rule)
            return self._queue.popleft() if self._queue and request.method == "POST" else Fault()

    def effective(self, payload: Payload) -> Payload:
        ignored = {
            rule.param
            for rule in self.rules
            if isinstance(rule, IgnoreParam) and rule.model in (None, payload.get("model"))
        }
        return {key: value for key, value in payload.items() if key not in ignored}

    def client_left(self) -> None:
        with self._changed:
            self.disconnects += 1
            self._changed.notify_all()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._connections.add(connection)
                self.connections_made += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as reader:
                while not self.closing.is_set() and (request := read_request(reader)) is not None:
                    if not _Exchange(self, connection, request).run():
                        return
        except (OSError, ValueError):
            return  # not HTTP (a TLS hello), or the client went away
        finally:
            with self._changed:
                self._connections.discard(connection)
                self._changed.notify_all()


class _Gone(Exception):
    """The client closed the connection, or the provider closes down."""


class _Exchange:
    """One request and its answer on one connection."""

    def __init__(self, provider: FakeProvider, connection: socket.socket, request: Request) -> None:
        self.provider = provider
        self.connection = connection
        self.request = request

    def run(self) -> bool:
        """Answer; true when the connection may serve another request."""
        fault = self.provider.note(self.request)
        try:
            if self.request.path == "/v1/models":
                return self.send(Fault(), self.provider.models_body, "application/json")
            if self.request.path != "/v1/chat/completions":
                fault = status(404, f"Unknown path {self.request.path}", body={"detail": "Not Found"})
            if fault.status != 200:
                self.pause(fault.delay)
                text = fault.error_body if isinstance(fault.error_body, str) else json.dumps(fault.error_body)
                return self.send(fault, text.encode(), "text/html" if text.startswith("<") else "application/json")
            return self.complete(fault)
        except _Gone:
            if not self.provider.closing.is_set():
                self.provider.client_left()
            return False

    def complete(self, fault: Fault) -> bool:
        payload = self.provider.effective(self.request.payload)
        completion = self.completion(payload)
        if fault.billed:
            self.provider.bill(completion["usage"]["prompt_tokens"], completion["usage"]["completion_tokens"])
        self.pause(fault.delay + self.provider.latency)
        while fault.gate is not None and not fault.gate.is_set():
            self.pause(0.01)
        if payload.get("stream"):
            if fault.body is not None:
                return self.send(fault, fault.body, fault.content_type or "application/json")
            sent = events(completion, usage=bool((payload.get("stream_options") or {}).get("include_usage")))
            if fault.edit_events:
                sent = fault.edit_events(sent)
            return self.send(fault, stream_body(sent, fault.eol), "text/event-stream")
        if fault.edit:
            completion = fault.edit(completion)
        body = fault.body if fault.body is not None else json.dumps(completion, ensure_ascii=False).encode()
        return self.send(fault, body, fault.content_type or "application/json")

    def completion(self, payload: Payload) -> Payload:
        count = payload.get("n") or 1
        replies = self.provider.reply(payload)
        answers: list[Any] = replies[:count] if isinstance(replies, list) else [replies] * count
        cap = payload.get("max_completion_tokens") or payload.get("max_tokens")
        choices, spent = [], 0
        for index, answer in enumerate(answers):
            if isinstance(answer, dict):
                spent += count_tokens(json.dumps(answer))
                message = {"role": "assistant", **answer}
                reason = "tool_calls" if answer.get("tool_calls") else "stop"
            else:
                over = cap is not None and count_tokens(answer) > cap
                text = answer if cap is None else answer[: 4 * cap]
                spent += count_tokens(text)
                message = {"role": "assistant", "content": text}
                reason = "length" if over else "stop"
            choices.append({"index": index, "message": message, "finish_reason": reason})
        used = prompt_tokens(payload)
        return {
            "id": f"chatcmpl-{len(self.provider.requests)}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": payload.get("model"),
            "choices": choices,
            "usage": {"prompt_tokens": used, "completion_tokens": spent, "total_tokens": used + spent},
        }

    def send(self, fault: Fault, body: bytes, content_type: str) -> bool:
        """Send status, headers and body the way the fault wants; true when the connection can go on."""
        stream = content_type == "text/event-stream"
        framing = fault.framing or ("chunked" if stream else "length")
        headers = [("content-type", content_type), ("x-request-id", f"req-{len(self.provider.requests)}")]
        headers.append({
            "length": ("content-length", str(len(body))),
            "chunked": ("transfer-encoding", "chunked"),
            "close": ("connection", "close"),
        }[framing])  # fmt: skip
        head = f"HTTP/1.1 {fault.status} Scripted\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in (*headers, *fault.headers)
        )
        if fault.hang_at == 0.0:
            self.pause(float("inf"))
        if fault.cut_at == 0.0:
            return self.cut(fault)
        self.write(head.encode() + b"\r\n")
        stop = next((int(len(body) * share) for share in (fault.hang_at, fault.cut_at) if share is not None), len(body))
        for piece in pieces(body[:stop], fault, whole=not stream):
            self.write(b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            self.pause(fault.byte_pause)
        if fault.hang_at is not None:
            self.pause(float("inf"))
        if fault.cut_at is not None:
            return self.cut(fault)
        if framing == "chunked":
            self.write(b"0\r\n\r\n")
        return framing != "close"

    def cut(self, fault: Fault) -> bool:
        if fault.reset:
            time.sleep(0.05)  # let the client read what was sent: a reset discards it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def write(self, data: bytes) -> None:
        try:
            self.connection.sendall(data)
        except OSError as error:
            raise _Gone from error

    def pause(self, seconds: float) -> None:
        """Wait, watching whether the client leaves."""
        end, watch = time.monotonic() + seconds, select.poll()  # select() knows no file beyond the 1024th
        watch.register(self.connection, select.POLLIN)
        while (left := end - time.monotonic()) > 0:
            readable = watch.poll(1000 * min(left, 0.02))
            if self.provider.closing.is_set():
                raise _Gone
            if readable:
                try:
                    gone = not self.connection.recv(1, socket.MSG_PEEK)
                except OSError:
                    gone = True
                if gone:
                    raise _Gone
                time.sleep(min(left, 0.02))  # a pipelined request: it waits its turn
