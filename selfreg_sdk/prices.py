"""What a call costs and what it may cost at most. Prices come from genai-prices' bundled table and the user's overrides.

An unknown price is an error, never zero.

Whose price? A model name says little: anybody can serve "gpt-4.1-mini" from a box in the office, and a proxy may charge
what it likes. So the table is asked only about endpoints that it knows by host; for every other base_url (loopback, a
proxy, your own server) only overrides count. Without a base_url the name alone decides, as for the providers' own
clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfreg_sdk.endpoint import parse_base_url
from selfreg_sdk.errors import ConfigError, UnknownPriceError
from selfreg_sdk.money import EXACT
from selfreg_sdk.price_table import Price, PriceTier, per_token, table_price
from selfreg_sdk.prompt_bound import prompt_token_bound
from selfreg_sdk.usage import Usage

__all__ = [
    "Price",
    "PriceOverride",
    "PriceTier",
    "Prices",
    "cost",
    "prompt_token_bound",
    "trusted",
    "worst_case",
]

_ZERO = Decimal(0)

# Factor beyond which reported usage says more about the reporter than about the call.
_ABSURD = 100


class PriceOverride(BaseModel):
    """The user's own price for a model, in USD per million tokens; strings keep decimals exact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd_per_mtok: Decimal = Field(default=_ZERO, ge=0, le=1_000_000, allow_inf_nan=False)
    output_usd_per_mtok: Decimal = Field(default=_ZERO, ge=0, le=1_000_000, allow_inf_nan=False)
    cached_input_usd_per_mtok: Decimal | None = Field(default=None, ge=0, le=1_000_000, allow_inf_nan=False)
    free: bool = False

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        """Accept the one word ``free``."""
        return {"free": True} if value == "free" else value

    @model_validator(mode="after")
    def _whole(self) -> PriceOverride:
        """Both prices, or free; half a price would make the other half zero without a word."""
        given = {"input_usd_per_mtok", "output_usd_per_mtok"} & self.model_fields_set
        if self.free and (given or "cached_input_usd_per_mtok" in self.model_fields_set):
            raise ValueError("free and a price contradict each other; keep one")
        if not self.free and len(given) < 2:
            raise ValueError("give both input_usd_per_mtok and output_usd_per_mtok, or the word free")
        return self


class Prices:
    """Looks up prices; overrides first, then the table.

    Args:
        overrides: model name → override, or a YAML file ``prices: {my-model: {input_usd_per_mtok: "0.10",
            output_usd_per_mtok: "0.40"}}`` (or ``my-model: free``).

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; names it.
    """

    def __init__(self, overrides: Mapping[str, PriceOverride] | Path | None = None) -> None:
        self._overrides = _read(overrides) if isinstance(overrides, Path) else dict(overrides or {})
        self._found: dict[tuple[str, str | None, str | None], tuple[date, Price | str]] = {}

    def lookup(
        self, model: str, *, base_url: str | None = None, provider: str | None = None, at: datetime | None = None
    ) -> Price:
        """The price of a model where it is served.

        Args:
            base_url: the endpoint; the table counts only if its host is that of a known provider.
            provider: the name of a provider ("openai", "anthropic"), for clients whose URL is not visible.
            at: aware datetime; None is now. Prices that change with the date follow it.

        Raises:
            UnknownPriceError: no override, and the table does not know it; the message shows the override to write.
        """
        if at is not None:
            return self._look_up(model, base_url, provider, at)
        # Prices change with the day, not with the call. That there is none is found out as slowly, so it is kept too.
        now, key = datetime.now(UTC), (model, base_url, provider)
        day, found = self._found.get(key, (None, ""))
        if day != now.date():
            try:
                found = self._look_up(model, base_url, provider, now)
            except UnknownPriceError as unknown:
                found = str(unknown)
            self._found[key] = now.date(), found
        if isinstance(found, str):
            raise UnknownPriceError(found)
        return found

    def _look_up(self, model: str, base_url: str | None, provider: str | None, at: datetime) -> Price:
        override = self._overrides.get(model)
        if override is not None:
            return _from_override(model, override, at)
        price = table_price(model, base_url=base_url, provider=provider, at=at)
        if price is None:
            where = (
                f" at {parse_base_url(base_url).hostname!r}" if base_url else f" of {provider!r}" if provider else ""
            )
            raise UnknownPriceError(
                f"no price is known for model {model!r}{where}; put into the prices file "
                f'`prices: {{{json.dumps(model)}: {{input_usd_per_mtok: "0.10", output_usd_per_mtok: "0.40"}}}}` '
                f"with its real prices, or `{{{json.dumps(model)}: free}}` if it costs nothing"
            )
        return price


def worst_case(price: Price, *, prompt_tokens: int, max_tokens: int, n: int = 1) -> Decimal:
    """USD that a call can cost at most: every prompt token uncached, every one of ``n`` samples at full length.

    Args:
        prompt_tokens: an upper bound, see ``prompt_token_bound``.
        max_tokens: the limit sent, hidden reasoning included.
    """
    if prompt_tokens < 0 or max_tokens < 0 or n < 1:
        raise ConfigError(f"prompt_tokens={prompt_tokens!r}, max_tokens={max_tokens!r}, n={n!r} are no call")
    # The prompt may turn out shorter than its bound, so every tier up to it is reachable, and so is a full cache hit,
    # should a table ever price that higher.
    tiers = [None, *(tier for tier in price.tiers if prompt_tokens > tier.above_prompt_tokens)]
    return max(
        _charge(price, tier, fresh, prompt_tokens - fresh, max_tokens * n)
        for tier in tiers
        for fresh in (prompt_tokens, 0)
    )


def cost(price: Price, usage: Usage) -> Decimal:
    """USD for what was used; exact, never rounded."""
    tier = next((tier for tier in reversed(price.tiers) if usage.prompt_tokens > tier.above_prompt_tokens), None)
    return _charge(price, tier, usage.prompt_tokens - usage.cached_tokens, usage.cached_tokens, usage.completion_tokens)


def trusted(usage: Usage | None, *, bound: Usage) -> Usage | None:
    """The usage a provider reported, or None when it cannot be true; then the worst case is charged.

    It cannot be true when a count is negative or no whole number, when a part exceeds its whole, or when it is beyond
    100 times the bound. Between the bound and that it is taken at its word and flagged, because such servers exist
    (max_tokens ignored), and the ledger must not fall below the bill.

    Args:
        bound: worst case in tokens: the prompt bound, and max_tokens times n.
    """
    if usage is None:
        return None
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens, usage.cached_tokens)
    if any(isinstance(count, bool) or not isinstance(count, int) or count < 0 for count in counts):
        return None
    if usage.cached_tokens > usage.prompt_tokens or usage.reasoning_tokens > usage.completion_tokens:
        return None
    if usage.prompt_tokens > _ABSURD * max(bound.prompt_tokens, 1):
        return None
    if usage.completion_tokens > _ABSURD * max(bound.completion_tokens, 1):
        return None
    return usage


def _charge(price: Price, tier: PriceTier | None, fresh: int, cached: int, completion: int) -> Decimal:
    rates = tier or price
    cached_rate = rates.cached_input_per_token
    parts = (
        (fresh, rates.input_per_token),
        (cached, rates.input_per_token if cached_rate is None else cached_rate),
        (completion, rates.output_per_token),
    )
    total = price.per_request
    for count, rate in parts:
        total = EXACT.add(total, EXACT.multiply(Decimal(count), rate))
    return total


def _read(path: Path) -> dict[str, PriceOverride]:
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"prices file {str(path)!r} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"prices file {str(path)!r} is not YAML: {error}") from error
    entries = content.get("prices") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or set(content) != {"prices"}:
        raise ConfigError(f"prices file {str(path)!r} must hold one mapping, `prices:`, from model name to price")
    overrides = {}
    for model, entry in entries.items():
        try:
            overrides[str(model)] = PriceOverride.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"prices file {str(path)!r}, model {model!r}{field and f', {field}'}: {first['msg']} "
                f"(got {first['input']!r})"
            ) from None
    return overrides


def _from_override(model: str, override: PriceOverride, at: datetime) -> Price:
    cached = override.cached_input_usd_per_mtok
    return Price(
        model=model,
        input_per_token=per_token(override.input_usd_per_mtok),
        output_per_token=per_token(override.output_usd_per_mtok),
        cached_input_per_token=None if cached is None else per_token(cached),
        source="override",
        as_of=at,
    )
