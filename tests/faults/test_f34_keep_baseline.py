"""F34: a winner that does not beat the baseline on examples the search never saw is not advised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.measuring.compare import Comparison
from selfreg_sdk.tuner.measuring.measured import Measured
from selfreg_sdk.tuner.measuring.verdict import LEAST, Verdict, verdict
from tests.tuner.measuring import measured

STUDIES, CONFIGURATIONS, SEARCHED, HELD_OUT = 100, 40, 25, 30
Rule = Callable[[Measured, Measured, Measured, Measured], Verdict]


def advised(rule: Rule, *, gain: float = 0.0, seed: int = 0) -> tuple[float, float]:
    """Shares of simulated studies in which the winner is advised, and in which it is called better.

    All configurations are right with the chance of .6, but the first, which is better by ``gain``. The one with the most right
    answers on the examples searched wins; the baseline is another. The examples differ in difficulty.

    Args:
        rule: from winner and baseline, both on the examples searched and on those held out, to the advice.
    """
    source = np.random.default_rng(seed)
    chances = np.full(CONFIGURATIONS, 0.6)
    chances[0] += gain
    use = better = 0
    for _ in range(STUDIES):
        hard = source.normal(0, 0.15, SEARCHED + HELD_OUT)
        right = source.random((CONFIGURATIONS + 1, len(hard))) < np.append(chances, 0.6)[:, None] + hard
        best = int(right[:-1, :SEARCHED].sum(axis=1).argmax())
        parts = [measured(right[row, part].astype(float).tolist()) for row in (best, -1) for part in PARTS]
        said = rule(*parts)
        use += said.advice == "use the winner"
        better += said.checked.verdict == "better"
    return use / STUDIES, better / STUDIES


PARTS = (slice(None, SEARCHED), slice(SEARCHED, None))


def held_out(_: Measured, winner: Measured, __: Measured, baseline: Measured) -> Verdict:
    return verdict(winner, baseline)


def cursed(winner: Measured, _: Measured, baseline: Measured, __: Measured) -> Verdict:
    """A broken check: on the very examples that the winner was chosen on."""
    return verdict(winner, baseline)


def keeps_the_baseline_where_nothing_was_found(rule: Rule) -> None:
    """The property: of studies in which all configurations are equal, half keep the baseline, and few are told of a gain."""
    use, better = advised(rule)
    assert use <= 0.55
    assert better <= 0.05


def test_f34_noise_does_not_beat_the_baseline() -> None:
    keeps_the_baseline_where_nothing_was_found(held_out)


def test_f34_a_winner_that_is_better_is_advised() -> None:
    use, better = advised(held_out, gain=0.3)
    assert use > 0.9
    assert better > 0.6


def test_f34_the_test_catches_a_check_on_the_examples_of_the_search() -> None:
    """The winner's curse: nearly every study would have something to tell."""
    use, better = advised(cursed)
    assert use > 0.9
    assert better > 0.1
    with pytest.raises(AssertionError):
        keeps_the_baseline_where_nothing_was_found(cursed)


def test_f34_the_test_catches_a_rule_that_always_advises_the_winner() -> None:
    def always(_: Measured, winner: Measured, __: Measured, baseline: Measured) -> Verdict:
        return Verdict(advice="use the winner", reason="it won", checked=verdict(winner, baseline).checked)

    with pytest.raises(AssertionError):
        keeps_the_baseline_where_nothing_was_found(always)


# -- what the advice is, and in which words ----------------------------------------------------------------------------

RIGHT, WRONG = [1.0] * 12, [0.0] * 12
MIXED = [1.0, 0.0] * 6
CHEAP, DEAR = "0.001", "0.004"


def said(
    winner: Sequence[float | None],
    baseline: Sequence[float | None],
    *,
    costs: tuple[str, str] = (CHEAP, CHEAP),
    budget: str | None = None,
) -> tuple[str, str, Comparison]:
    found = verdict(
        measured(winner, cost=costs[0]), measured(baseline, cost=costs[1]), None if budget is None else Decimal(budget)
    )
    return found.advice, found.reason, found.checked


def test_a_sure_gain_is_advised() -> None:
    advice, reason, checked = said(RIGHT, WRONG)
    assert (advice, checked.verdict) == ("use the winner", "better")
    assert "The winner beats the baseline: +1 [0.471, 1] on 12 examples that the search did not see." in reason


def test_an_unsure_gain_is_advised_and_called_unsure() -> None:
    advice, reason, checked = said([*MIXED[:-1], 1.0], MIXED)
    assert (advice, checked.verdict) == ("use the winner", "probably better")
    assert "probably" in reason
    assert "too few to be sure" in reason


@pytest.mark.parametrize("winner", [MIXED, WRONG])
def test_no_gain_keeps_the_baseline(winner: list[float | None]) -> None:
    advice, reason, _ = said(winner, MIXED)
    assert advice == "keep the baseline"
    assert "does not beat the baseline" in reason
    assert "It costs" not in reason


def test_no_gain_at_a_lower_price_keeps_the_baseline_and_names_the_price() -> None:
    advice, reason, _ = said(MIXED, MIXED, costs=(CHEAP, DEAR))
    assert advice == "keep the baseline"
    assert "It costs 25% of the baseline." in reason


def test_too_few_examples_keep_the_baseline_and_say_so() -> None:
    assert "No example" in said([], [])[1]
    assert said([], [])[0] == "keep the baseline"
    for count in range(1, LEAST):
        advice, reason, _ = said(RIGHT[:count], WRONG[:count])
        assert advice == "keep the baseline"
        assert "too few to tell" in reason
    assert said(RIGHT[:LEAST], WRONG[:LEAST])[0] == "use the winner"


def test_a_winner_beyond_the_budget_is_not_advised() -> None:
    advice, reason, _ = said(RIGHT, WRONG, costs=(DEAR, CHEAP), budget="0.002")
    assert advice == "keep the baseline"
    assert "0.004 USD a request on examples the search did not see, above the budget of 0.002 USD" in reason


def test_a_winner_perhaps_beyond_the_budget_is_advised_with_a_word_about_it() -> None:
    costs = ["0.001", "0.0035"] * 6
    found = verdict(measured(RIGHT, cost=costs), measured(WRONG, cost=CHEAP), Decimal("0.002"))
    assert found.advice == "use the winner"
    assert "There the winner costs 0.00225 USD a request, above the budget, but perhaps by chance." in found.reason


def test_a_baseline_perhaps_beyond_the_budget_still_has_to_be_beaten() -> None:
    costs = ["0.001", "0.0035"] * 6
    found = verdict(measured(WRONG, cost=CHEAP), measured(RIGHT, cost=costs), Decimal("0.002"))
    assert found.advice == "keep the baseline"
    assert "does not beat the baseline" in found.reason
    assert "There the baseline costs 0.00225 USD a request, above the budget, but perhaps by chance." in found.reason


def test_a_baseline_beyond_the_budget_gives_way_to_a_cheaper_winner_only() -> None:
    advice, reason, checked = said(MIXED, RIGHT, costs=(CHEAP, DEAR), budget="0.002")
    assert (advice, checked.verdict) == ("use the winner", "no better")
    assert "The baseline costs 0.004 USD a request, above the budget of 0.002 USD; the winner costs 0.001 USD" in reason
    assert "-0.5" in reason

    advice, reason, _ = said(RIGHT, MIXED, costs=(DEAR, DEAR), budget="0.002")
    assert advice == "keep the baseline"
    assert "the winner is not cheaper" in reason

    advice, reason, _ = said(RIGHT, MIXED, costs=("0.003", DEAR), budget="0.002")
    assert advice == "use the winner"
    assert "still above the budget" in reason


def test_failures_and_an_early_end_are_named() -> None:
    winner = measured([None, *RIGHT], wanted=30, ending="money")
    reason = verdict(winner, measured([0.0, *WRONG])).reason
    assert "With the winner 1 of 13 examples failed, which counts as the worst." in reason
    assert "The money ended after 13 of 30 examples with the winner." in reason
    assert "baseline failed" not in reason


def test_measurements_by_different_metrics_are_refused() -> None:
    with pytest.raises(ConfigError, match="same metric"):
        verdict(measured(RIGHT), measured(RIGHT, mode="min"))
