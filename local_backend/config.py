"""How the server is set up: one frozen object, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class SetupError(ValueError):
    """The server cannot start with this model or these settings; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of one server; every one has a default that works on a laptop.

    Attributes:
        model_name: the name clients put in `model`; "default" is always accepted too.
        host: address to listen on. The default serves this machine alone.
        port: TCP port; 0 takes a free one.
        api_key: when set, every /v1 request must carry it as a bearer token. Never printed.
        max_model_len: longest prompt plus answer in tokens; None = what the model was built for.
        max_queue: requests that may wait behind the running one; the next is told 429.
        max_request_tokens: bound on n * max_tokens of one request: one request may not own the model for hours.
        max_body_bytes: bound on a request body.
        drain_seconds: how long a SIGTERM waits for answers under way.
    """

    model_name: str = "default"
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    max_model_len: int | None = None
    max_queue: int = 128
    max_request_tokens: int = 65_536
    max_body_bytes: int = 4 * 2**20
    drain_seconds: int = 30

    def __post_init__(self) -> None:
        """Reject settings no server can run with.

        Raises:
            SetupError: names the setting and its value.
        """
        if not self.model_name:
            raise SetupError("model_name is empty: clients need a name to ask for")
        if not 0 <= self.port <= 65535:
            raise SetupError(f"port={self.port!r} is no TCP port: use 0 (take a free one) to 65535")
        if self.api_key is not None and not self.api_key.strip():
            raise SetupError("api_key is blank: set a real key, or leave it out to serve without one")
        for name in ("max_model_len", "max_queue", "max_request_tokens", "max_body_bytes", "drain_seconds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SetupError(f"{name}={value!r} must be at least 1")
