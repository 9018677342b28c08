"""F5: an unknown price under a cap is refused unless the user names one; a new price table leaves old rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from selfreg_sdk.errors import BudgetExceeded, UnknownPriceError
from selfreg_sdk.meter import Meter
from selfreg_sdk.prices import Price, PriceOverride, Prices, cost, worst_case
from selfreg_sdk.store import Store
from selfreg_sdk.usage import Usage
from tests.faults.spending import INFO

CAP = Decimal("1.00")
USAGE = Usage(prompt_tokens=1000, completion_tokens=1000)


@pytest.fixture
def meter() -> Iterator[Meter]:
    with Store.open(":memory:") as store:
        yield Meter(store)


class ZeroPrices(Prices):
    """Broken on purpose: what is not known costs nothing."""

    def lookup(
        self, model: str, *, base_url: str | None = None, provider: str | None = None, at: datetime | None = None
    ) -> Price:
        try:
            return super().lookup(model, base_url=base_url, provider=provider, at=at)
        except UnknownPriceError:
            free = Decimal(0)
            return Price(
                model=model, input_per_token=free, output_per_token=free, source="none", as_of=datetime.now(UTC)
            )


def calls_let_through(meter: Meter, prices: Prices, model: str, *, base_url: str | None = None) -> int:
    """Calls of one million output tokens that a cap of 1 USD lets through, at most 20."""
    for number in range(20):
        try:
            price = prices.lookup(model, base_url=base_url)
            worst = worst_case(price, prompt_tokens=0, max_tokens=1_000_000)
            reservation = meter.reserve(scopes=[("b", CAP)], worst=worst, info=INFO)
        except (UnknownPriceError, BudgetExceeded):
            return number
        meter.settle(reservation, cost=worst, usage=USAGE)
    return 20


def test_f5_an_unknown_model_is_not_called_under_a_cap(meter: Meter) -> None:
    assert calls_let_through(meter, Prices(), "house-model") == 0


def test_f5_the_check_catches_a_table_that_counts_unknown_as_zero(meter: Meter) -> None:
    assert calls_let_through(meter, ZeroPrices(), "house-model") == 20


def test_f5_a_known_name_at_an_unknown_host_is_not_called_under_a_cap(meter: Meter) -> None:
    assert calls_let_through(meter, Prices(), "gpt-4.1-mini", base_url="http://127.0.0.1:9/v1") == 0


def test_f5_an_override_makes_the_model_callable_at_its_price(meter: Meter, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text('prices: {house-model: {input_usd_per_mtok: "0.10", output_usd_per_mtok: "0.40"}}')
    assert calls_let_through(meter, Prices(file), "house-model") == 2


def test_f5_the_meter_itself_refuses_an_unknown_worst_case_under_a_cap(meter: Meter) -> None:
    with pytest.raises(UnknownPriceError, match="override"):
        meter.reserve(scopes=[("free", None), ("b", CAP)], worst=None, info=INFO)
    assert meter.ledger() == ()


def test_f5_without_a_cap_an_unknown_price_is_recorded_as_unknown_never_as_zero(meter: Meter) -> None:
    reservation = meter.reserve(scopes=[("b", None)], worst=None, info=INFO)
    assert meter.settle(reservation, cost=None, usage=USAGE) is None

    (entry,) = meter.ledger()
    assert (entry.worst, entry.cost, entry.flags) == (None, None, ("unpriced",))
    assert (meter.totals().unpriced, meter.status()[0].unpriced) == (1, 1)
    assert entry.usage == USAGE


def test_f5_a_price_change_in_the_middle_of_a_study_leaves_old_rows_unchanged(meter: Meter) -> None:
    def call(prices: Prices) -> None:
        price = prices.lookup("house-model")
        worst = worst_case(price, prompt_tokens=2000, max_tokens=2000)
        reservation = meter.reserve(scopes=[("b", None)], worst=worst, info=INFO)
        meter.settle(reservation, cost=cost(price, USAGE), usage=USAGE)

    call(Prices({"house-model": PriceOverride(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))}))
    before = meter.ledger()
    call(Prices({"house-model": PriceOverride(input_usd_per_mtok=Decimal(10), output_usd_per_mtok=Decimal(20))}))

    newest, oldest = meter.ledger()
    assert (oldest,) == before
    assert (oldest.cost, newest.cost) == (Decimal("0.003"), Decimal("0.03"))
    assert meter.status()[0].spent == Decimal("0.033")
