"""OpenAI-compatible HTTP around one model: chat completions, models, health, metrics.

What may be asked is in `protocol`, how text is made is behind `worker`, how it travels back is in `answer`; this
file connects them.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from local_backend.answer import Answer, Reply
from local_backend.config import ServerSettings, SetupError
from local_backend.generate import Row
from local_backend.loading import context_length, end_tokens
from local_backend.prompt import encode_chat
from local_backend.protocol import ApiError, ChatRequest, parse_chat_request
from local_backend.worker import Generation, Worker

logger = logging.getLogger(__name__)

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept. Clients drop theirs after 5: with uvicorn's own 5, both close at once, and a request dies."""


def create_app(model: Any, tokenizer: Any, settings: ServerSettings) -> FastAPI:
    """Build the application around a model in eval mode and its tokenizer.

    The generation thread lives as long as the application's lifespan; `app.state.worker` is the thread's handle.

    Raises:
        SetupError: the longest context is unknown, or asked to be longer than the model's.
    """
    service = _Service(model, tokenizer, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.close)

    # No generated API pages: requests are parsed by `protocol`, so FastAPI would document them as untyped.
    app = FastAPI(title="selfreg", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.worker = service.worker
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(service.check_key)])
    v1.add_api_route("/chat/completions", service.chat, methods=["POST"])
    v1.add_api_route("/models", service.models, methods=["GET"])
    v1.add_api_route("/models/{name:path}", service.model, methods=["GET"])
    app.include_router(v1)
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/metrics", service.metrics, methods=["GET"])
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _crash)
    return app


def serve(model: Any, tokenizer: Any, settings: ServerSettings, announce: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM or SIGINT; answers under way are finished first, for at most `drain_seconds`.

    Once the model has produced its first token, `announce` gets one line: `selfreg serving NAME on http://HOST:PORT/v1`.

    Raises:
        SetupError: the port is taken, or the model fails on its first token.
    """
    app = create_app(model, tokenizer, settings)
    listener = _listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    line = f"selfreg serving {settings.model_name} on http://{host}:{listener.getsockname()[1]}/v1"
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=settings.drain_seconds,
        timeout_keep_alive=KEEP_ALIVE,
        lifespan="on",
    )
    server = _Server(config, app.state.worker, lambda: announce(line))
    if settings.api_key is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("no API key is set: whoever reaches %s can use this model", settings.host)
    with listener, suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    if server.failed:
        raise SetupError("the model failed on its first token; the log above says why")


class _Server(uvicorn.Server):
    """uvicorn that announces itself when the model is ready, and gives up when it will never be."""

    def __init__(self, config: uvicorn.Config, worker: Worker, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._worker = worker
        self._announce = announce
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await asyncio.to_thread(self._worker.started.wait)
        if self._worker.state == "ready":
            self._announce()
        else:
            self.failed = self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python appends its own account of the address, which the message has already.
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise SetupError(f"cannot listen on {host!r} port {port}: {reason}; choose another port, or 0") from error


class _Service:
    """The endpoints and what they share."""

    def __init__(self, model: Any, tokenizer: Any, settings: ServerSettings) -> None:
        self.settings = settings
        self.max_model_len = context_length(model, settings.max_model_len)
        self.tokenizer = tokenizer
        self.worker = Worker(model, tokenizer, eos_ids=end_tokens(model, tokenizer), max_queue=settings.max_queue)
        self.created = int(time.time())

    def check_key(self, request: Request) -> None:
        """Refuse a request without the right bearer token, when the server has one."""
        if self.settings.api_key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        good = hmac.compare_digest(key.encode(), self.settings.api_key.encode())
        if scheme.lower() != "bearer" or not good:
            raise ApiError(
                "Incorrect API key: send the server's key as 'Authorization: Bearer KEY'.",
                status=401,
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked = parse_chat_request(await _read_body(request, self.settings.max_body_bytes))
        self._check_model(asked.model)
        prompt = await asyncio.to_thread(encode_chat, self.tokenizer, asked.messages)
        generation = Generation(rows=self._rows(asked, prompt), stop=asked.stop)
        reply = Reply(
            asked,
            model=self.settings.model_name,
            prompt_tokens=len(prompt),
            decided=self.worker.heads and asked.selfreg.mode == "auto",
            text_of=lambda token: str(self.tokenizer.decode([token])),
        )
        return Answer(self.worker, generation, reply, asked)

    async def models(self) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, name: str) -> Response:
        """GET /v1/models/{name}."""
        self._check_model(name)
        return JSONResponse(self._card())

    async def health(self) -> Response:
        """GET /health: 200 only while requests can be answered."""
        state = self.worker.state
        return JSONResponse({"status": state}, status_code=200 if state == "ready" else 503)

    async def metrics(self) -> Response:
        """GET /metrics: Prometheus text, version 0.0.4."""
        totals, worker = self.worker.totals, self.worker
        lines: list[str] = []
        for name, kind, value, meaning in (
            ("requests_total", "counter", totals.requests, "Requests the model started on."),
            ("prompt_tokens_total", "counter", totals.prompt_tokens, "Prompt tokens, once per request."),
            ("completion_tokens_total", "counter", totals.completion_tokens, "Generated tokens of all samples."),
            ("temperature_total", "counter", totals.temperature, "Sum of the temperatures the tokens were drawn with."),
            ("top_p_total", "counter", totals.top_p, "Sum of the nucleus masses the tokens were drawn with."),
            ("contained_decisions_total", "counter", worker.contained_decisions, "Decisions of heads that were NaN."),
            ("requests_running", "gauge", worker.running, "Requests being answered now."),
            ("requests_waiting", "gauge", worker.waiting, "Requests in the queue."),
        ):
            lines += [f"# HELP selfreg_{name} {meaning}", f"# TYPE selfreg_{name} {kind}", f"selfreg_{name} {value}"]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.settings.model_name,
            "object": "model",
            "created": self.created,
            "owned_by": "selfreg",
            "selfreg": {"heads": self.worker.heads, "max_model_len": self.max_model_len},
        }

    def _check_model(self, name: str) -> None:
        if name not in (self.settings.model_name, "default"):
            raise ApiError(
                f"The model {name!r} does not exist; this server serves {self.settings.model_name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def _rows(self, asked: ChatRequest, prompt: tuple[int, ...]) -> tuple[Row, ...]:
        """One row per sample, each with a seed of its own.

        Raises:
            ApiError: 400, when prompt and answer do not fit the context, or all samples together are too long.
        """
        room = self.max_model_len - len(prompt)
        limit = asked.limit or max(min(room, self.settings.max_request_tokens // asked.n), 1)
        if limit > room:
            raise ApiError(
                f"This model's maximum context length is {self.max_model_len} tokens. However, you requested "
                f"{len(prompt) + limit} tokens ({len(prompt)} in the messages, {limit} in the completion). "
                "Please reduce the length of the messages or completion.",
                param="messages",
                code="context_length_exceeded",
            )
        if asked.n * limit > self.settings.max_request_tokens:
            raise ApiError(
                f"{asked.n} samples of {limit} tokens are more than the {self.settings.max_request_tokens} tokens "
                "this server generates for one request: lower 'n' or 'max_tokens'.",
                param="n" if asked.n > 1 else "max_tokens",
                code="invalid_value",
            )
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        return tuple(
            Row(
                prompt_ids=prompt,
                max_tokens=limit,
                temperature=asked.temperature,
                top_p=asked.top_p,
                heads=asked.selfreg.mode == "auto",
                temperature_bounds=asked.temperature_bounds,
                top_p_bounds=asked.top_p_bounds,
                trace=asked.selfreg.trace,
                top_k=asked.top_k,
                min_p=asked.min_p,
                repetition_penalty=asked.repetition_penalty,
                presence_penalty=asked.presence_penalty,
                frequency_penalty=asked.frequency_penalty,
                seed=_sample_seed(seed, index),
            )
            for index in range(asked.n)
        )


def _sample_seed(seed: int, index: int) -> int:
    """Seed of one sample: unrelated to its neighbours' and to those of the next request seed."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


async def _read_body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise ApiError(f"The request body is larger than {limit} bytes.", status=413, code="body_too_large")
    return bytes(body)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as every other refusal."""
    assert isinstance(error, HTTPException)
    refusal = ApiError(
        f"{error.detail}: {request.method} {request.url.path}", status=error.status_code, headers=error.headers
    )
    return await _api_error(request, refusal)


async def _gone(_: Request, __: Exception) -> Response:
    """The client left before its request was complete: no mistake of ours, and nobody to answer."""
    return Response(status_code=400)


async def _crash(request: Request, _: Exception) -> Response:
    return await _api_error(request, ApiError("The server made a mistake; its log says which.", status=500))
