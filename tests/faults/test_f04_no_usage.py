"""F4: a reply that does not say what it used, or says something impossible, costs its worst case and is flagged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.booking import Receipt
from selfreg_sdk.meter import Meter, Reservation
from selfreg_sdk.usage import Usage
from tests.fake_provider import FakeProvider, Fault, huge_usage, negative_usage, no_usage, usage_says
from tests.faults.clients import must_fail
from tests.stack import FACES, Stack, call, complete, stack

Face = Callable[..., tuple[str, Receipt]]

FAULTS = {
    "missing": (no_usage(), "usage_missing"),
    "negative": (negative_usage(), "usage_missing"),
    "huge": (huge_usage(), "usage_missing"),
    "far beyond the request": (usage_says(10**7, 10**7), "usage_implausible"),
    "no numbers": (usage_says("many", None), "usage_missing"),
}


def costs_the_worst_case(on: Stack, face: Face, fault: Fault, flag: str) -> None:
    on.provider.script(fault)
    text, receipt = face(on, call("hi"))

    row = on.ledger[-1]
    assert text == "echo: hi"
    assert row.state == "settled"
    assert row.cost == row.worst == receipt.cost
    assert flag in row.flags
    assert flag in receipt.flags
    assert row.usage is None
    (status,) = on.shared.meter.status()
    assert status.spent >= on.provider.billed.usd
    assert status.held == 0


@pytest.mark.parametrize("face", FACES)
def test_f4_without_a_count_the_worst_case_is_charged_and_flagged(provider: FakeProvider, face: Face) -> None:
    with stack(provider, cap="1 USD") as on:
        for fault, flag in FAULTS.values():
            costs_the_worst_case(on, face, fault, flag)


class TrustingMeter(Meter):
    """Broken on purpose: what is not known is taken for nothing."""

    def settle(
        self,
        reservation: Reservation,
        *,
        cost: Decimal | None,
        usage: Usage | None,
        flags: Iterable[str] = (),
        response: Any = None,
    ) -> Decimal | None:
        return super().settle(reservation, cost=cost or Decimal(0), usage=usage, flags=flags, response=response)


def test_f4_the_check_catches_a_meter_that_takes_unknown_for_free(provider: FakeProvider) -> None:
    with stack(provider, cap="1 USD") as on:
        on.shared = replace(on.shared, meter=TrustingMeter(on.shared.store))
        must_fail(costs_the_worst_case, on, complete, *FAULTS["missing"])


def test_f4_a_count_above_the_worst_case_is_taken_at_its_word_and_flagged(provider: FakeProvider) -> None:
    """Servers that ignore max_tokens exist; the ledger must not fall below their bill."""
    provider.script(usage_says(10, 6400))
    with stack(provider, cap="1 USD") as on:
        complete(on, call("hi"))

        (row,) = on.ledger
        assert row.cost is not None
        assert row.worst is not None
        assert row.cost > row.worst
        assert "over_worst_case" in row.flags
