"""Which n fit and which configuration is returned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.tuner.pool.choose import Caution, explored, kept, offers, value
from selfreg_sdk.tuner.pool.grid import Floats
from selfreg_sdk.tuner.pool.spend import Bill

CAUTION = Caution()


def bill(each: Floats, doubt: float = 0.0, examples: float = 0.0) -> Bill:
    nothing = np.zeros(len(each))
    return Bill(
        base=nothing + 1.0,
        each=each,
        known=np.ones(len(each), bool),
        prompt=nothing + examples**2,
        output=nothing,
        joint=nothing,
        vague=nothing,
        doubt=nothing + doubt,
        hope=nothing,
    )


def test_with_certainty_the_budget_alone_decides() -> None:
    exact = bill(np.array([1.0, 2.0, 20.0]))
    keep = kept(exact, 9.0, 10, CAUTION)
    assert [int((row > 0.5).sum()) for row in keep] == [8, 4, 0]
    assert explored(exact, 9.0, 10, CAUTION).tolist() == [8, 4, 0]
    assert list(zip(*(part.tolist() for part in offers(keep, CAUTION)), strict=True)) == [(0, 8), (1, 4)]


def test_ignorance_allows_a_look_but_no_return() -> None:
    vague = bill(np.array([2.0]), doubt=1.0)
    assert explored(vague, 9.0, 10, CAUTION)[0] > offers(kept(vague, 9.0, 10, CAUTION), CAUTION)[1].max()


def test_doubt_that_reading_cannot_remove_forbids_a_look() -> None:
    """At n = 4 the mean is the budget: 95 % sure to stay within 5 % of it takes an error of .27 at most."""
    assert explored(bill(np.array([2.0]), examples=0.2), 9.0, 4, CAUTION)[0] == 4
    assert explored(bill(np.array([2.0]), examples=0.4), 9.0, 4, CAUTION)[0] == 3


def test_arms_never_heard_are_never_returned() -> None:
    silent = replace(bill(np.array([1.0])), known=np.zeros(1, bool))
    assert not offers(kept(silent, 9.0, 10, CAUTION), CAUTION)[0].size


@given(
    each=st.lists(st.floats(0.01, 30.0), min_size=1, max_size=5),
    doubt=st.floats(0.0, 5.0),
    examples=st.floats(0.0, 5.0),
    budget=st.floats(0.5, 50.0),
)
def test_every_offer_is_expected_to_keep_the_promise(
    each: list[float], doubt: float, examples: float, budget: float
) -> None:
    costs = bill(np.array(each), doubt, examples)
    keep = kept(costs, budget, 10, CAUTION)
    cell, n = offers(keep, CAUTION)
    assert np.all(costs.mean(np.arange(1, 11.0)[None, :])[cell, n - 1] <= budget)
    assert np.all(keep[cell, n - 1] >= CAUTION.least)
    assert np.all((keep >= 0) & (keep <= 1))
    assert len(set(zip(cell.tolist(), n.tolist(), strict=True))) == len(cell)


def test_of_equal_scores_the_surer_budget_wins_and_of_equals_the_first() -> None:
    keep = np.array([0.9, 0.99, 0.99])
    assert value(np.array([0.6, 0.6, 0.6]), keep, CAUTION).argmax() == 1
    assert value(np.array([0.7, 0.6, 0.6]), keep, CAUTION).argmax() == 0
    assert value(np.array([-0.2, -0.1, -0.3]), keep, CAUTION).argmax() == 0
