"""What to do after a search: use its winner, or keep the baseline.

The winner of a search looks better than it is, for it was chosen for its luck, too. So nothing that the search saw counts
here, only examples that nothing was chosen on. Where these do not show the winner above the baseline, the advice is to keep
the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from selfreg_sdk.tuner.measuring.compare import Comparison, compare
from selfreg_sdk.tuner.measuring.measured import Measured

Advice = Literal["use the winner", "keep the baseline"]

LEAST = 6
"""Fewer examples tell nothing at 95 %: all of five may favour one of two equals by chance, once in 16 times."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The advice and its grounds.

    Attributes:
        advice: what to do.
        reason: why, in sentences for people.
        checked: winner against baseline.
    """

    advice: Advice
    reason: str
    checked: Comparison


def verdict(winner: Measured, baseline: Measured, budget: Decimal | None = None, *, seed: int = 0) -> Verdict:
    """Whether to use the winner of a search.

    Args:
        winner, baseline: measured on the same examples, none of which the search saw.
        budget: USD that a request may cost on average. A baseline that surely costs more is no choice, so a cheaper winner
            is advised whatever its score; a winner that surely costs more is not advised while the baseline keeps to it.
            Surely: all of the cost's interval lies above the budget.
        seed: as of `compare`.

    Raises:
        ConfigError: they were measured by different metrics.
    """
    checked = compare(winner, baseline, seed=seed)
    advice, grounds = _advice(winner, baseline, checked, math.inf if budget is None else float(budget))
    sides = (("winner", winner), ("baseline", baseline))
    notes = [note for who, measured in sides for note in _notes(who, measured, budget)]
    return Verdict(advice=advice, reason=" ".join([grounds, *notes]), checked=checked)


def difference_text(checked: Comparison) -> str:
    """The difference as people read it: "+0.12 [0.03, 0.21] on 40 examples"."""
    if not checked.examples:
        return "unknown: no example was tried with both"
    ends = f"[{checked.low:.3g}, {checked.high:.3g}]"
    return f"{checked.difference:+.3g} {ends} on {_count(checked.examples)}"


def _advice(winner: Measured, baseline: Measured, checked: Comparison, budget: float) -> tuple[Advice, str]:
    score = f"its score differs by {difference_text(checked)}"
    if baseline.cost_low > budget and checked.cost_ratio is not None:
        dear = f"The baseline costs {_usd(baseline.cost)} a request, above the budget of {_usd(budget)};"
        if checked.cost_ratio.mean < 1:
            above = ", still above the budget" if winner.cost > budget else ""
            return "use the winner", f"{dear} the winner costs {_usd(winner.cost)}{above}; {score}."
        return "keep the baseline", f"{dear} but the winner is not cheaper: {_usd(winner.cost)}."
    if winner.cost_low > budget:
        return (
            "keep the baseline",
            f"The winner costs {_usd(winner.cost)} a request on examples the search did not see, above the budget of "
            f"{_usd(budget)}; {score}.",
        )
    if not checked.examples:
        return (
            "keep the baseline",
            "No example that the search did not see was tried with both, so nothing can be told.",
        )
    if checked.examples < LEAST:
        return (
            "keep the baseline",
            f"{_count(checked.examples)} that the search did not see, too few to tell: give at least {LEAST}, better 30; "
            f"the winner's score differs by {difference_text(checked)}.",
        )
    unseen = f"{difference_text(checked)} that the search did not see"
    if checked.verdict == "no better":
        cheaper = checked.cost_ratio is not None and checked.cost_ratio.high < 1
        saves = f" It costs {checked.cost_ratio.mean:.0%} of the baseline." if cheaper and checked.cost_ratio else ""
        return "keep the baseline", f"The winner does not beat the baseline: {unseen}.{saves}"
    if checked.verdict == "better":
        return "use the winner", f"The winner beats the baseline: {unseen}."
    return (
        "use the winner",
        f"The winner probably beats the baseline, but the examples are too few to be sure: {unseen}.",
    )


def _notes(who: str, measured: Measured, budget: Decimal | None) -> Iterator[str]:
    if budget is not None and measured.outcomes and measured.cost_low <= budget < measured.cost:
        yield f"There the {who} costs {_usd(measured.cost)} a request, above the budget, but perhaps by chance."
    if measured.failed:
        yield f"With the {who} {measured.failed} of {_count(measured.examples)} failed, which counts as the worst."
    if measured.ending == "money":
        yield f"The money ended after {measured.examples} of {_count(measured.wanted)} with the {who}."


def _count(examples: int) -> str:
    return f"{examples} example{'' if examples == 1 else 's'}"


def _usd(amount: float) -> str:
    return f"{amount:.3g} USD"
