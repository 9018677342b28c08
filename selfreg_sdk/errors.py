"""Every error selfreg raises, in one tree.

::

    SelfregError
    ├── ConfigError (ValueError)          change what you passed, nothing was sent
    │   ├── UnknownPriceError             a cap needs a price; name one or drop the cap
    │   └── StoreError                    the store file or URL cannot be used as it is
    ├── BudgetExceeded                    the worst case of the call does not fit; nothing was sent
    ├── Refused                           the model declined to answer in the form that was asked for; it is paid
    └── ProviderError                     the other side; says whether to retry and whether it may have billed
        ├── ConnectFailed                 no connection: refused, DNS, TLS            retry, not billed
        ├── ProviderTimeout               no answer in time                           retry, maybe billed
        ├── RateLimited                   429                                         retry, not billed
        ├── ServerFailed                  5xx                                         retry
        ├── AuthFailed                    401, 403
        ├── NotFound                      404: model or path
        ├── BadRequest                    400, 422
        │   ├── ParameterRejected         names one field of the request in ``param``
        │   └── ContextLengthExceeded
        ├── MalformedReply                200, but not a chat completion               retry, maybe billed
        └── TruncatedStream               the stream ended without a finish_reason     retry, maybe billed

The branch tells what the caller can do about it. Messages print values with ``!r`` and never contain API keys.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

Billed = Literal["no", "unknown"]


class SelfregError(Exception):
    """Root of all errors raised by selfreg."""


class ConfigError(SelfregError, ValueError):
    """The caller passed or configured something that cannot work; nothing was sent or spent."""


class UnknownPriceError(ConfigError):
    """A spending cap is set, but the price of the model is not known."""


class StoreError(ConfigError):
    """The store cannot be opened, read or written as it is."""


class Refused(SelfregError):
    """The model declined to answer where an answer of a given form was asked for; the call is paid all the same.

    Attributes:
        refusal: what the model said.
    """

    def __init__(self, refusal: str) -> None:
        self.refusal = refusal
        super().__init__(
            f"the model refused to answer: {refusal!r}; ask for it differently, or read the message itself"
        )

    def __reduce__(self) -> tuple[type[Refused], tuple[str]]:
        return Refused, (self.refusal,)


class BudgetExceeded(SelfregError):
    """The worst case of the next call does not fit under the cap, so it was not sent.

    Attributes:
        scope: name of the budget that refused.
        cap, spent, held, wanted: USD.
    """

    def __init__(self, *, scope: str, cap: Decimal, spent: Decimal, held: Decimal, wanted: Decimal) -> None:
        self.scope, self.cap, self.spent, self.held, self.wanted = scope, cap, spent, held, wanted
        super().__init__(
            f"budget {scope!r}: cap {cap} USD, spent {spent}, held by calls in flight {held}; "
            f"this call may cost up to {wanted} USD and was not sent. "
            f"Raise the cap, lower max_tokens or n, or use another budget name ('selfreg budget show' lists them)."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_budget_exceeded, (self.scope, self.cap, self.spent, self.held, self.wanted))


def _rebuild_budget_exceeded(
    scope: str, cap: Decimal, spent: Decimal, held: Decimal, wanted: Decimal
) -> BudgetExceeded:
    return BudgetExceeded(scope=scope, cap=cap, spent=spent, held=held, wanted=wanted)


class ProviderError(SelfregError):
    """The provider failed or answered with something unusable.

    Attributes:
        retryable: the same request may succeed later.
        billed: "no" when the provider certainly did not charge, else "unknown" (counted at the worst case).
        status: HTTP status, if there was one.
        retry_after: seconds the provider asked to wait.
        body: an excerpt of the reply, at most 500 characters.
    """

    retryable: bool = False
    billed: Billed = "no"

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        billed: Billed | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        body: str | None = None,
    ) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable
        if billed is not None:
            self.billed = billed
        self.status = status
        self.retry_after = retry_after
        self.body = body[:500] if body is not None else None


class ConnectFailed(ProviderError):
    """No connection was made: refused, unknown host, TLS."""

    retryable = True


class ProviderTimeout(ProviderError):
    """No answer, or no further chunk, within the time allowed."""

    retryable = True
    billed: Billed = "unknown"


class RateLimited(ProviderError):
    """HTTP 429; ``retry_after`` holds the provider's wish in seconds."""

    retryable = True


class ServerFailed(ProviderError):
    """HTTP 5xx."""

    retryable = True
    billed: Billed = "unknown"


class AuthFailed(ProviderError):
    """HTTP 401 or 403."""


class NotFound(ProviderError):
    """HTTP 404: no such model, or the URL is not an OpenAI-compatible endpoint."""


class BadRequest(ProviderError):
    """HTTP 400 or 422.

    Attributes:
        param: the request field the provider complains about, if it named one.
    """

    param: str | None = None


class ParameterRejected(BadRequest):
    """The provider does not take the request field named in ``param``."""

    def __init__(self, message: str, *, param: str, status: int | None = 400, body: str | None = None) -> None:
        super().__init__(message, status=status, body=body)
        self.param = param

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_parameter_rejected, (str(self), self.param, self.status, self.body))


def _rebuild_parameter_rejected(message: str, param: str, status: int | None, body: str | None) -> ParameterRejected:
    return ParameterRejected(message, param=param, status=status, body=body)


class ContextLengthExceeded(BadRequest):
    """Prompt and max_tokens do not fit the context window.

    Attributes:
        room: output tokens that would have fitted, if the provider said how long window and prompt are.
    """

    room: int | None = None


class MalformedReply(ProviderError):
    """Status 200, but the body is not a chat completion."""

    retryable = True
    billed: Billed = "unknown"


class TruncatedStream(ProviderError):
    """The stream ended without a finish_reason.

    Attributes:
        partial: the text received so far; never cached, never scored.
    """

    retryable = True
    billed: Billed = "unknown"

    def __init__(self, message: str, *, partial: str = "", body: str | None = None) -> None:
        super().__init__(message, body=body)
        self.partial = partial
