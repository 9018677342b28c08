"""Prices out of genai-prices' bundled table. Nothing is ever fetched.

Where the table leaves a choice (time-of-day prices, cache writes that usage does not report), the dearer one counts: the
ledger must not fall below the bill. What cannot be bounded from a chat call is left unpriced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from selfreg_sdk.endpoint import parse_base_url
from selfreg_sdk.money import EXACT

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_MTOK = Decimal(1_000_000)
_ZERO = Decimal(0)

# Prices of things that a plain chat call does not use, or that need content or tools the caller asks for.
_NOT_FOR_TEXT = re.compile(r"audio|image|video|searches|1h_mtok|document")


@dataclass(frozen=True, kw_only=True)
class PriceTier:
    """Prices of the whole call once its prompt is longer than ``above_prompt_tokens``; USD per token."""

    above_prompt_tokens: int
    input_per_token: Decimal
    output_per_token: Decimal
    cached_input_per_token: Decimal | None = None


@dataclass(frozen=True, kw_only=True)
class Price:
    """Prices of one model, in USD per token.

    Attributes:
        input_per_token: where writing to the provider's prompt cache costs more than plain input, that price, since
            usage does not tell them apart.
        cached_input_per_token: for prompt tokens read from the provider's cache; None: as input.
        per_request: USD for each call on top.
        tiers: dearer (or cheaper) prices for long prompts, by rising threshold.
        source: "override", or "genai-prices VERSION PROVIDER/MODEL".
        as_of: when it was looked up.
    """

    model: str
    input_per_token: Decimal
    output_per_token: Decimal
    cached_input_per_token: Decimal | None = None
    per_request: Decimal = _ZERO
    tiers: tuple[PriceTier, ...] = ()
    source: str
    as_of: datetime


def table_price(model: str, *, base_url: str | None, provider: str | None, at: datetime) -> Price | None:
    """The price of a model at an endpoint, or of a provider, or (neither given) of the provider its name points to.

    Returns:
        None when the endpoint, the provider or the model is not in the table, or its prices are not per token.
    """
    found = _find(model, base_url, provider)
    return None if found is None else _from_table(model, *found, at)


def per_token(per_mtok: Decimal) -> Decimal:
    """USD per million tokens to USD per token, exact."""
    return EXACT.divide(per_mtok, _MTOK)


def _find(model: str, base_url: str | None, provider: str | None) -> tuple[Provider, ModelInfo] | None:
    """The table's entry for a model at an endpoint, or of a provider, or by name alone."""
    # The bundled snapshot itself, not whatever an updater elsewhere in the process may have fetched.
    from genai_prices.data import providers

    if base_url is not None:
        parts = parse_base_url(base_url)
        candidates = [known for known in providers if _serves(known, parts.hostname or "", parts.path)]
    elif provider is not None:
        name = provider.strip().lower()
        candidates = [known for known in providers if known.id == name]
        candidates = candidates or [
            known for known in providers if known.provider_match and known.provider_match.is_match(name)
        ]
    else:
        candidates = [known for known in providers if known.model_match and known.model_match.is_match(model.lower())]
    for known in candidates:
        entry = known.find_model(model, all_providers=providers)
        if entry is not None:
            return known, entry
    return None


def _serves(provider: Provider, host: str, path: str) -> bool:
    """Whether the whole host is the provider's; the table's patterns alone also match api.openai.com.example.net."""
    root = f"https://{host}/"
    found = re.match(provider.api_pattern, root)
    if found is not None:
        # A pattern that ends in a dot leaves the top-level domain open.
        open_end = provider.api_pattern.endswith("\\.") and root[found.end() : -1].isalpha()
        return found.end() >= len(root) - 1 or open_end
    # Some hosts serve several providers under different paths. With ".*" a path could pose as a host.
    return ".*" not in provider.api_pattern and re.match(provider.api_pattern, f"https://{host}{path}") is not None


def _from_table(model: str, provider: Provider, entry: ModelInfo, at: datetime) -> Price | None:
    """The table's prices as ours; None when they are not per token, or have parts that cannot be bounded."""
    from genai_prices import __version__

    rates = [_rates(price) for price in _active(entry, at)]
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return None
    thresholds = sorted({start for rate in known for start in rate.starts})
    # Several prices by the time of day: the dearest of them, part by part.
    tiers = [(start, *_dearest([rate.at(start) for rate in known])) for start in (-1, *thresholds)]
    base, *higher = tiers
    return Price(
        model=model,
        input_per_token=base[1],
        output_per_token=base[2],
        cached_input_per_token=base[3],
        per_request=max(rate.per_request for rate in known),
        tiers=tuple(
            PriceTier(
                above_prompt_tokens=start, input_per_token=fresh, output_per_token=output, cached_input_per_token=cached
            )
            for start, fresh, output, cached in higher
        ),
        source=f"genai-prices {__version__} {provider.id}/{entry.id}",
        as_of=at,
    )


def _active(entry: ModelInfo, at: datetime) -> list[ModelPrice]:
    """The prices that may apply: the latest by date, and all that depend on the time of day."""
    from genai_prices.types import ModelPrice, StartDateConstraint, TimeOfDateConstraint

    if isinstance(entry.prices, ModelPrice):
        return [entry.prices]
    dated = [
        conditional.prices
        for conditional in entry.prices
        if conditional.constraint is None
        or (isinstance(conditional.constraint, StartDateConstraint) and conditional.constraint.active(at))
    ]
    hourly = [
        conditional.prices for conditional in entry.prices if isinstance(conditional.constraint, TimeOfDateConstraint)
    ]
    return (dated[-1:] or [entry.prices[0].prices]) + hourly


@dataclass(frozen=True, kw_only=True)
class _Rates:
    """One of the table's price sets, per token, as functions of the prompt's length."""

    price: ModelPrice
    per_request: Decimal
    starts: frozenset[int]

    def at(self, start: int) -> tuple[Decimal, Decimal, Decimal | None]:
        """(input, output, cached input) for prompts just above ``start`` tokens."""
        fresh = max(_tier(self.price, name, start) or _ZERO for name in ("input_mtok", "cache_write_mtok"))
        output = max(_tier(self.price, name, start) or _ZERO for name in ("output_mtok", "output_reasoning_mtok"))
        return fresh, output, _tier(self.price, "cache_read_mtok", start)


def _rates(price: ModelPrice) -> _Rates | None:
    given = {name: value for name, value in vars(price).items() if value is not None}
    tokens = {"input_mtok", "output_mtok"}
    bounded = tokens | {"cache_read_mtok", "cache_write_mtok", "output_reasoning_mtok", "requests_kcount"}
    if not tokens <= given.keys() or any(name not in bounded and not _NOT_FOR_TEXT.search(name) for name in given):
        return None
    starts = frozenset(tier.start for value in given.values() for tier in getattr(value, "tiers", ()))
    # Per thousand requests.
    request = given.get("requests_kcount", _ZERO)
    if not isinstance(request, Decimal):
        return None
    return _Rates(price=price, per_request=EXACT.divide(request, Decimal(1000)), starts=starts)


def _tier(price: ModelPrice, name: str, start: int) -> Decimal | None:
    value = getattr(price, name, None)
    if value is None:
        return None
    reached = [tier.price for tier in getattr(value, "tiers", ()) if tier.start <= start]
    return per_token(reached[-1] if reached else getattr(value, "base", value))


def _dearest(rates: list[tuple[Decimal, Decimal, Decimal | None]]) -> tuple[Decimal, Decimal, Decimal | None]:
    fresh, output, cached = zip(*rates, strict=True)
    # Without a price of its own, a cached token costs as much as a fresh one.
    known = None if None in cached else max(value for value in cached if value is not None)
    return max(fresh), max(output), known
