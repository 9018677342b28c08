"""A loopback server that speaks one provider's dialect, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.adapters.dialects import Dialect, Json


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An error instead of an answer."""

    status: int
    message: str = "no"


Treat = Refusal | Literal["cut", "hang"]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Json


class Server:
    """Answers every request with the dialect's one answer; a context manager.

    Args:
        dialect: what it speaks.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.sent: list[Sent] = []
        self.refuses: dict[str, Refusal] = {}
        """Refuse whatever has this text in its JSON."""
        self._treats: deque[Treat] = deque()
        self._closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def bodies(self) -> list[Json]:
        return [sent.body for sent in self.sent]

    def script(self, *treats: Treat) -> None:
        """Treat the next requests so, in this order."""
        self._treats.extend(treats)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, call: BaseHTTPRequestHandler) -> None:
        text = call.rfile.read(int(call.headers.get("content-length", 0)))
        body = json.loads(text or b"{}")
        self.sent.append(Sent(path=call.path, headers={k.lower(): v for k, v in call.headers.items()}, body=body))
        treat = self._treats.popleft() if self._treats else self._standing(text.decode())
        if isinstance(treat, Refusal):
            error = json.dumps(self.dialect.error(treat.status, treat.message)).encode()
            return self._send(call, treat.status, "application/json", [error])
        if treat == "hang":
            self._closing.wait(20)
            call.close_connection = True
            return None
        if not self.dialect.streams(call.path, body):
            return self._send(call, 200, "application/json", [json.dumps(self.dialect.whole(body)).encode()])
        parts = self.dialect.stream(body)
        return self._send(call, 200, self.dialect.content_type, parts[: -self.dialect.end] if treat == "cut" else parts)

    def _standing(self, text: str) -> Refusal | None:
        return next((refusal for name, refusal in self.refuses.items() if f'"{name}"' in text), None)

    def _send(self, call: BaseHTTPRequestHandler, status: int, content_type: str, parts: list[bytes]) -> None:
        """With the end of the connection as the end of the body, so that a cut stream looks like a whole one."""
        call.send_response(status)
        call.send_header("content-type", content_type)
        call.send_header("connection", "close")
        call.end_headers()
        for part in parts:
            call.wfile.write(part)
            call.wfile.flush()
        call.close_connection = True
