"""The books of one call: what it may cost, what is reserved for it, what it did cost.

Sync and async callers share this; `selfreg_sdk.calls` decides when each step happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from selfreg_sdk.ambient import ambient_budgets, noting_refusals, request_id_here
from selfreg_sdk.cache import ResponseCache, cache_key
from selfreg_sdk.channel import Answer
from selfreg_sdk.errors import ConfigError, ProviderError, UnknownPriceError
from selfreg_sdk.meter import AttemptInfo, Meter, Reservation
from selfreg_sdk.money import Budget
from selfreg_sdk.prices import Price, Prices, cost, prompt_token_bound, trusted, worst_case
from selfreg_sdk.store.ledger import Purpose
from selfreg_sdk.usage import Usage


@dataclass(frozen=True, kw_only=True)
class CallSpec:
    """One paid call, before it is made.

    Attributes:
        model: the model that answers.
        payload: the whole request body as it goes on the wire.
        max_tokens: cap on output tokens per sample, None if there is none.
        n: samples asked for.
        params: decoding parameters sent, for the ledger.
        purpose, task_key, request_id, config_version: what the call is for; all rows of one request share its id.
        cached: answer from the exact cache, and store the answer there.
        sample_index: separates repeated draws of the same payload in the cache.
        record_key: store the answer under this key, and do not look for one first: whoever asks has done so.
    """

    model: str
    payload: Mapping[str, Any]
    max_tokens: int | None
    n: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    purpose: Purpose = "answer"
    task_key: str = ""
    request_id: str = field(default_factory=request_id_here)
    config_version: int | None = None
    cached: bool = False
    sample_index: int = 0
    record_key: str | None = None

    @cached_property
    def prompt_tokens(self) -> int | None:
        """At most so many tokens of prompt; None if nobody can tell."""
        return prompt_token_bound(self.payload)


@dataclass(frozen=True, kw_only=True)
class Quote:
    """What one attempt may cost.

    Attributes:
        price: None if the price is not known.
        worst: USD at most; None without a price or without a token cap.
        bound: the same in tokens, over all samples.
    """

    price: Price | None
    worst: Decimal | None
    bound: Usage | None


@dataclass
class Receipt:
    """What a call cost; filled in while it runs, complete when it has ended.

    Attributes:
        cost: USD over all attempts, None once one of unknown cost is among them.
        usage: tokens of the attempt that answered.
        attempts: attempts made; 0 when the answer came from the cache.
        started: some piece of a stream was handed out.
        flags: anything unusual, e.g. "usage_missing" or "cache".
    """

    cost: Decimal | None = Decimal(0)
    usage: Usage | None = None
    attempts: int = 0
    started: bool = False
    flags: tuple[str, ...] = ()

    def add(self, cost: Decimal | None) -> None:
        """Count the cost of one more attempt."""
        self.cost = None if cost is None or self.cost is None else self.cost + cost

    def flag(self, name: str) -> None:
        """Remember something unusual, once."""
        if name not in self.flags:
            self.flags = (*self.flags, name)


@dataclass(frozen=True, kw_only=True)
class Books:
    """Prices, budgets and the ledger, as one call sees them.

    Attributes:
        meter: keeps the ledger.
        prices: what tokens cost.
        cache: exact response cache.
        budgets: name to budget; a call must fit under all of them, and under those of the block it is made in.
        base_url: endpoint the prices are looked up for; None is the vendor's own.
        provider: whose price list applies, if the endpoint does not tell.
    """

    meter: Meter
    prices: Prices
    cache: ResponseCache
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    base_url: str | None = None
    provider: str | None = None

    @property
    def limits(self) -> Mapping[str, Budget]:
        """Every budget that a call made here and now must fit under: the own ones and the ambient ones."""
        around = ambient_budgets(self.meter)
        return {**around, **self.budgets} if around else self.budgets

    def price(self, model: str) -> Price | None:
        """The model's price, None if unknown and no budget needs it.

        Raises:
            UnknownPriceError: unknown, and a budget is set.
        """
        try:
            return self.prices.lookup(model, base_url=self.base_url, provider=self.provider)
        except UnknownPriceError:
            if self.limits:
                raise
            return None

    def quote(self, spec: CallSpec) -> Quote:
        """The most one attempt can cost.

        Raises:
            UnknownPriceError: the price is unknown and a budget is set.
            ConfigError: a budget is set and nothing limits the cost of the call.
        """
        price = self.price(spec.model)
        prompt = spec.prompt_tokens
        if self.limits and (reason := _without_limit(spec, prompt)):
            raise ConfigError(f"a budget is set, but the call to {spec.model!r} {reason}")
        if prompt is None or spec.max_tokens is None:
            return Quote(price=price, worst=None, bound=None)
        worst = None
        if price is not None:
            worst = worst_case(price, prompt_tokens=prompt, max_tokens=spec.max_tokens, n=spec.n)
        bound = Usage(prompt_tokens=prompt, completion_tokens=spec.max_tokens * spec.n)
        return Quote(price=price, worst=worst, bound=bound)

    def affordable_tokens(self, *, model: str, prompt_tokens: int | None) -> int | None:
        """Output tokens the tightest budget still pays for after the prompt; None if nothing limits them.

        Reads the database: not for event loops. There, ask ``comfortable`` first and come here in a thread.

        Raises:
            UnknownPriceError: the price is unknown and a budget is set.
        """
        price, caps = self.price(model), dict(self.scopes())
        if not caps or price is None or prompt_tokens is None or price.output_per_token == 0:
            return None
        used = {status.scope: status.spent + status.held for status in self.meter.status(caps)}
        left = min(cap - used.get(scope, Decimal(0)) for scope, cap in caps.items())
        after_prompt = left - worst_case(price, prompt_tokens=prompt_tokens, max_tokens=0, n=1)
        return max(int(after_prompt / price.output_per_token), 0)

    def comfortable(self, worst: Decimal | None) -> bool:
        """Whether every budget has so much room that there is no need to ask what a call may cost at most.

        Pure arithmetic on what this process saw when it last wrote, so it may be called on an event loop. It is no
        promise: the reservation decides.

        Args:
            worst: USD, the worst case of the call as it would be sent without regard to budgets (``Quote.worst``).

        Returns:
            True without budgets, or when ``worst`` fits 100 times under each of them by sums seen in the last 10
            seconds. False when nothing was seen yet: then ``affordable_tokens`` tells.
        """
        caps = dict(self.scopes())
        if not caps:
            return True
        room = None if worst is None else self.meter.room(caps, within=_RECENT)
        return room is not None and worst is not None and room >= _COMFORT * worst

    def scopes(self) -> list[tuple[str, Decimal]]:
        """The keys of all limits at this moment, with their caps; where two share a key, the lower cap counts."""
        now, caps = datetime.now(UTC), dict[str, Decimal]()
        for name, budget in (*ambient_budgets(self.meter).items(), *self.budgets.items()):
            scope = budget.scope_key(name, now)
            caps[scope] = min(budget.cap, caps.get(scope, budget.cap))
        return list(caps.items())

    def reserve(self, spec: CallSpec, endpoint: str, attempt: int) -> Booking:
        """Reserve the worst case of one attempt.

        Raises:
            BudgetExceeded: it does not fit; nothing was reserved.
        """
        asked = self._ask(spec, endpoint, attempt)
        with noting_refusals():
            reservation = self.meter.reserve(scopes=self.scopes(), worst=asked.quote.worst, info=asked.info)
        return Booking(books=self, asked=asked, reservation=reservation)

    async def areserve(self, spec: CallSpec, endpoint: str, attempt: int) -> Booking:
        """`reserve` on an event loop. If the task is cancelled meanwhile, what was reserved is given back."""
        asked = self._ask(spec, endpoint, attempt)
        with noting_refusals():
            reservation = await self.meter.areserve(scopes=self.scopes(), worst=asked.quote.worst, info=asked.info)
        return Booking(books=self, asked=asked, reservation=reservation)

    def _ask(self, spec: CallSpec, endpoint: str, attempt: int) -> _Asked:
        info = AttemptInfo(
            request_id=spec.request_id,
            attempt=attempt,
            purpose=spec.purpose,
            model=spec.model,
            endpoint=endpoint,
            task_key=spec.task_key,
            config_version_id=spec.config_version,
            params=spec.params,
        )
        return _Asked(spec=spec, quote=self.quote(spec), info=info)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One attempt, quoted and ready to be reserved."""

    spec: CallSpec
    quote: Quote
    info: AttemptInfo


@dataclass(frozen=True, kw_only=True)
class Booking:
    """One reservation, to be closed exactly once: settled or failed."""

    books: Books
    asked: _Asked
    reservation: Reservation

    def settle(self, receipt: Receipt, usage: Usage | None, answer: Answer | None = None) -> None:
        """Book what the provider reported; an absent or impossible report costs the worst case and is flagged.

        The answer is stored in the same transaction, if the call is cached.
        """
        bill = self._bill(receipt, usage, answer)
        receipt.add(self.books.meter.settle(self.reservation, **bill))

    async def asettle(self, receipt: Receipt, usage: Usage | None, answer: Answer | None = None) -> None:
        """`settle` on an event loop. Paid answers are always booked: a cancelled task is cancelled after that."""
        bill = self._bill(receipt, usage, answer)
        receipt.add(await self.books.meter.asettle(self.reservation, **bill))

    def fail(self, receipt: Receipt, exc: BaseException) -> None:
        """Close after an error: free when nothing was sent or billed, else charged at the worst case."""
        if _was_free(exc):
            self.books.meter.release(self.reservation, reason=type(exc).__name__)
        else:
            self._suspect(receipt)
            self.books.meter.mark_unknown(self.reservation, reason=type(exc).__name__)

    async def afail(self, receipt: Receipt, exc: BaseException) -> None:
        """`fail` on an event loop. The books are closed even if the task is cancelled meanwhile."""
        if _was_free(exc):
            await self.books.meter.arelease(self.reservation, reason=type(exc).__name__)
        else:
            self._suspect(receipt)
            await self.books.meter.amark_unknown(self.reservation, reason=type(exc).__name__)

    def _bill(self, receipt: Receipt, usage: Usage | None, answer: Answer | None) -> dict[str, Any]:
        """What the meter is told of an answer; notes the usage on the receipt."""
        spec, quote, endpoint = self.asked.spec, self.asked.quote, self.asked.info.endpoint
        counted = usage if quote.bound is None else trusted(usage, bound=quote.bound)
        if counted is None:
            receipt.flag("usage_missing" if usage is None else "usage_implausible")
        receipt.usage = counted
        response = None
        if answer is not None and (spec.cached or spec.record_key is not None):
            response = self.books.cache.record(
                spec.record_key or cache_key(spec.payload, endpoint=endpoint),
                answer.body,
                sample_index=spec.sample_index,
                model=spec.model,
                endpoint=endpoint,
            )
        return {
            # Without a price or a count the meter charges the worst case.
            "cost": None if quote.price is None or counted is None else cost(quote.price, counted),
            "usage": counted,
            "flags": receipt.flags,
            "response": response,
        }

    def _suspect(self, receipt: Receipt) -> None:
        receipt.add(self.asked.quote.worst)
        receipt.flag("attempt_unknown")


_COMFORT = 100
"""How often the worst case of a call must fit under a budget to make it without a look at what is left."""

_RECENT = 10.0
"""Seconds for which remembered sums are good enough for that."""

_DEARER = {"service_tier": ("auto", "default", "flex"), "web_search_options": ()}
"""Request fields that make a call cost more than the price list says, and their values that do not."""


def _was_free(exc: BaseException) -> bool:
    return isinstance(exc, ConfigError) or (isinstance(exc, ProviderError) and exc.billed == "no")


def _without_limit(spec: CallSpec, prompt_tokens: int | None) -> str | None:
    """Why nothing limits the cost of a call, with the remedy; None if it is limited."""
    if prompt_tokens is None:
        return "holds images or files, whose tokens nobody can bound beforehand; make it without a budget"
    if spec.max_tokens is None:
        return "has no cap on its output; set max_tokens"
    for name, harmless in _DEARER.items():
        if spec.payload.get(name) is not None and spec.payload[name] not in harmless:
            return f"asks for {name}={spec.payload[name]!r}, which costs more than the price list says; leave it out"
    return None
