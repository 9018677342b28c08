from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError, UnknownPriceError
from selfreg_sdk.prices import (
    Price,
    PriceOverride,
    Prices,
    PriceTier,
    cost,
    prompt_token_bound,
    trusted,
    worst_case,
)
from selfreg_sdk.usage import Usage

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MTOK = Decimal(1_000_000)


def price(fresh: str = "2", output: str = "8", cached: str | None = "0.5", tiers: tuple[PriceTier, ...] = ()) -> Price:
    return Price(
        model="m",
        input_per_token=Decimal(fresh) / MTOK,
        output_per_token=Decimal(output) / MTOK,
        cached_input_per_token=None if cached is None else Decimal(cached) / MTOK,
        tiers=tiers,
        source="test",
        as_of=NOW,
    )


# the table


def test_a_model_is_found_by_name_provider_and_host() -> None:
    found = [
        Prices().lookup("gpt-4.1-mini", at=NOW),
        Prices().lookup("gpt-4.1-mini", provider="OpenAI", at=NOW),
        Prices().lookup("gpt-4.1-mini", base_url="https://api.openai.com/v1", at=NOW),
        Prices().lookup("gpt-4.1-mini", base_url="https://user:pw@API.OPENAI.COM:443/v1/", at=NOW),
    ]
    assert {one.input_per_token for one in found} == {Decimal("0.4") / MTOK}
    assert {one.output_per_token for one in found} == {Decimal("1.6") / MTOK}
    assert {one.cached_input_per_token for one in found} == {Decimal("0.1") / MTOK}
    assert all(one.source.startswith("genai-prices") and "openai/gpt-4.1-mini" in one.source for one in found)


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "https://proxy.example.com/v1",
        "https://api.openai.com.example.net/v1",
        "https://example.net/api.openai.com/v1",
        "https://example.net/x.googleapis.com",
        "https://api.openai.com@example.net/v1",
        "https://notapi.openai.com.example.net",
    ],
)
def test_a_known_name_at_another_host_has_no_price(base_url: str) -> None:
    with pytest.raises(UnknownPriceError, match="gpt-4"):
        Prices().lookup("gpt-4.1-mini", base_url=base_url)


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("gpt-4.1-mini", "https://my-resource.openai.azure.com/openai/v1"),
        ("openai/gpt-4.1-mini", "https://openrouter.ai/api/v1"),
        ("kimi-k2-0905-preview", "https://api.moonshot.cn/v1"),
        ("llama-3.3-70b-versatile", "https://api.groq.com/openai/v1"),
    ],
)
def test_other_providers_are_found_by_their_host(model: str, base_url: str) -> None:
    assert Prices().lookup(model, base_url=base_url, at=NOW).output_per_token > 0


@pytest.mark.parametrize("model", ["no-such-model", "text-embedding-3-small", "whisper-1", ""])
def test_what_has_no_price_per_token_is_unknown_and_the_remedy_works(model: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownPriceError) as caught:
        Prices().lookup(model)
    remedy = str(caught.value).split("`")[1]
    (tmp_path / "prices.yaml").write_text(remedy)
    assert Prices(tmp_path / "prices.yaml").lookup(model).source == "override"


def test_where_writing_to_the_cache_costs_more_that_is_the_price_of_input() -> None:
    assert Prices().lookup("claude-sonnet-5", at=NOW).input_per_token == Decimal("2.5") / MTOK


def test_long_prompts_have_their_own_price() -> None:
    terra = Prices().lookup("gpt-6.1-terra", at=NOW)
    (tier,) = terra.tiers
    assert tier.above_prompt_tokens == 272_000
    short = cost(terra, Usage(prompt_tokens=272_000, completion_tokens=0))
    long = cost(terra, Usage(prompt_tokens=272_001, completion_tokens=0))
    assert long > short * Decimal("1.9")
    assert worst_case(terra, prompt_tokens=272_001, max_tokens=0) >= long


def test_prices_follow_the_date_and_take_the_dearest_hour() -> None:
    old = Prices().lookup("o3", at=datetime(2025, 6, 1, tzinfo=UTC))
    new = Prices().lookup("o3", at=datetime(2025, 7, 1, tzinfo=UTC))
    assert old.input_per_token > new.input_per_token
    hours = [Prices().lookup("deepseek-chat", at=NOW.replace(hour=hour)) for hour in range(24)]
    assert len({(one.input_per_token, one.output_per_token) for one in hours}) == 1


def test_no_price_of_the_table_is_below_what_the_table_itself_would_charge() -> None:
    from genai_prices import Usage as TheirUsage
    from genai_prices.data import providers

    from selfreg_sdk.price_table import _from_table

    used = Usage(prompt_tokens=1_000_000, completion_tokens=1_000, cached_tokens=400_000)
    theirs = TheirUsage(input_tokens=1_000_000, output_tokens=1_000, cache_read_tokens=400_000)
    compared = 0
    for provider in providers:
        for entry in provider.models:
            ours = _from_table(entry.id, provider, entry, NOW)
            if ours is not None:
                billed = entry.calc_price(theirs, provider, genai_request_timestamp=NOW).total_price
                assert cost(ours, used) >= billed, (provider.id, entry.id)
                compared += 1
    assert compared > 1000


# overrides


def test_an_override_wins_over_the_table_everywhere() -> None:
    own = Prices({"gpt-4.1-mini": PriceOverride(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(3))})
    for base_url in (None, "http://127.0.0.1/v1", "https://api.openai.com/v1"):
        found = own.lookup("gpt-4.1-mini", base_url=base_url)
        assert (found.input_per_token, found.output_per_token) == (1 / MTOK, 3 / MTOK)
        assert found.source == "override"


def test_overrides_are_read_from_yaml_exactly(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(
        'prices:\n  a: {input_usd_per_mtok: "0.10", output_usd_per_mtok: 0.4, cached_input_usd_per_mtok: "0.01"}\n'
        "  b: free\n  c: {free: true}\n"
    )
    prices = Prices(file)
    a, b, c = (prices.lookup(name) for name in "abc")
    assert (a.input_per_token, a.output_per_token) == (Decimal("1e-7"), Decimal("4e-7"))
    assert a.cached_input_per_token == Decimal("1e-8")
    assert worst_case(b, prompt_tokens=10**6, max_tokens=10**6) == 0
    assert worst_case(c, prompt_tokens=10**6, max_tokens=10**6) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prices: {m: {input_usd_per_mtok: -1, output_usd_per_mtok: 1}}", ("'m'", "input_usd_per_mtok", "-1")),
        ("prices: {m: {input_usd_per_mtok: .nan, output_usd_per_mtok: 1}}", ("'m'", "finite")),
        ("prices: {m: {input_usd_per_mtok: 1}}", ("'m'", "both")),
        ("prices: {m: {free: true, input_usd_per_mtok: 1, output_usd_per_mtok: 1}}", ("'m'", "contradict")),
        ("prices: {m: {input: 1}}", ("'m'", "input")),
        ("prices: {m: cheap}", ("'m'", "cheap")),
        ("price: {m: free}", ("prices:",)),
        ("prices: [", ("not YAML",)),
        ("", ("prices:",)),
    ],
)
def test_a_wrong_prices_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "own-prices.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        Prices(file)
    assert all(word in str(caught.value) for word in (*words, "own-prices.yaml")), str(caught.value)


def test_a_prices_file_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Prices(tmp_path / "none.yaml")


# sums

COUNTS = st.integers(0, 10**9)
RATES = st.decimals(min_value=0, max_value=1000, places=6, allow_nan=False)


@given(COUNTS, COUNTS, RATES, RATES, RATES, st.data())
def test_costs_are_exact(
    prompt: int, completion: int, fresh: Decimal, output: Decimal, cached: Decimal, data: st.DataObject
) -> None:
    hits = data.draw(st.integers(0, prompt))
    exact = (Fraction(fresh) * (prompt - hits) + Fraction(cached) * hits + Fraction(output) * completion) / 10**6
    used = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=hits)
    assert Fraction(cost(price(str(fresh), str(output), str(cached)), used)) == exact


@given(COUNTS, st.integers(0, 10**6), st.integers(1, 128), RATES, RATES, RATES, RATES, st.integers(0, 10**6), st.data())
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(
    prompt: int,
    max_tokens: int,
    n: int,
    fresh: Decimal,
    output: Decimal,
    cached: Decimal,
    long: Decimal,
    start: int,
    data: st.DataObject,
) -> None:
    tier = PriceTier(above_prompt_tokens=start, input_per_token=long / MTOK, output_per_token=output / MTOK)
    one = price(str(fresh), str(output), str(cached), tiers=(tier,))
    used_prompt = data.draw(st.integers(0, prompt))
    used = Usage(
        prompt_tokens=used_prompt,
        completion_tokens=data.draw(st.integers(0, max_tokens * n)),
        cached_tokens=data.draw(st.integers(0, used_prompt)),
    )
    assert cost(one, used) <= worst_case(one, prompt_tokens=prompt, max_tokens=max_tokens, n=n)


def test_cached_tokens_without_a_price_of_their_own_cost_as_much_as_others() -> None:
    used = Usage(prompt_tokens=100, completion_tokens=0, cached_tokens=100)
    assert cost(price(cached=None), used) == 100 * Decimal("2") / MTOK


@pytest.mark.parametrize("bad", [{"prompt_tokens": -1}, {"max_tokens": -1}, {"n": 0}])
def test_a_call_that_cannot_be_has_no_worst_case(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        worst_case(price(), **{"prompt_tokens": 1, "max_tokens": 1, "n": 1, **bad})


# usage that cannot be true

BOUND = Usage(prompt_tokens=100, completion_tokens=50)


@pytest.mark.parametrize(
    "used",
    [
        Usage(prompt_tokens=-1, completion_tokens=1),
        Usage(prompt_tokens=1, completion_tokens=-1),
        Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=2),
        Usage(prompt_tokens=1, completion_tokens=1, reasoning_tokens=2),
        Usage(prompt_tokens=1, completion_tokens=1, reasoning_tokens=-1),
        Usage(prompt_tokens=10_001, completion_tokens=1),
        Usage(prompt_tokens=1, completion_tokens=5_001),
        Usage(prompt_tokens=1.5, completion_tokens=1),  # type: ignore[arg-type]
        Usage(prompt_tokens=True, completion_tokens=1),
        None,
    ],
)
def test_usage_that_cannot_be_true_is_unknown(used: Usage | None) -> None:
    assert trusted(used, bound=BOUND) is None


@pytest.mark.parametrize(
    "used", [BOUND, Usage(prompt_tokens=0, completion_tokens=0), Usage(prompt_tokens=10_000, completion_tokens=5_000)]
)
def test_usage_that_may_be_true_is_taken_at_its_word(used: Usage) -> None:
    assert trusted(used, bound=BOUND) == used


# the bound of a prompt


@given(st.lists(st.text(max_size=200), max_size=4))
def test_the_bound_is_above_one_token_for_every_byte(texts: list[str]) -> None:
    payload = {"model": "m", "messages": [{"role": "user", "content": text} for text in texts]}
    bound = prompt_token_bound(payload)
    assert bound is not None
    assert bound >= sum(len(text.encode()) for text in texts) + 16 * len(texts)


def test_the_bound_counts_what_normalising_adds() -> None:
    ligature = "\ufdfa" * 100  # 3 bytes each; 33 after NFKC
    bound = prompt_token_bound({"messages": [{"role": "user", "content": ligature}]})
    assert bound is not None
    assert bound >= 3300


def test_the_bound_counts_tools_schemas_and_unknown_fields() -> None:
    messages = [{"role": "user", "content": "hi"}]
    plain = prompt_token_bound({"messages": messages})
    assert plain is not None
    extras: list[dict[str, Any]] = [
        {"tools": [{"type": "function", "function": {"name": "f", "description": "d" * 500}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"description": "d" * 500}}}},
        {"documents": ["d" * 500]},
    ]
    for extra in extras:
        bound = prompt_token_bound({"messages": messages, **extra})
        assert bound is not None
        assert bound >= plain + 500


def test_the_bound_takes_text_parts_and_plain_prompts() -> None:
    parts = [{"type": "text", "text": "x" * 300}]
    for payload in ({"messages": [{"role": "user", "content": parts}]}, {"prompt": "x" * 300}):
        bound = prompt_token_bound(payload)
        assert bound is not None
        assert 300 <= bound <= 300 + 400


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "something_new"])
def test_media_have_no_bound(kind: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": kind, kind: {}}]}
    assert prompt_token_bound({"messages": [message]}) is None


def test_nothing_is_fetched() -> None:
    """The table is the one in the package, even if another part of the program turned on fetching."""
    from genai_prices import data_snapshot

    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=[], from_auto_update=True))
    try:
        assert json.dumps(str(Prices().lookup("gpt-4.1-mini").input_per_token))
    finally:
        data_snapshot.set_custom_snapshot(None)
