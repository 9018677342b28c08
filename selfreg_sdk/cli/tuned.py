"""What a tuning found, for people and as JSON: the winner beside the baseline, the frontier, how to use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from selfreg_sdk.cli.figures import config_text, score_text, seconds_text, usd_text
from selfreg_sdk.cli.output import out, table

if TYPE_CHECKING:
    from selfreg_sdk.tuner.measuring.compare import Comparison
    from selfreg_sdk.tuner.measuring.measured import Measured
    from selfreg_sdk.tuner.study.cascade_check import CheckedCascade
    from selfreg_sdk.tuner.study.results import Candidate, Tuned

MEASURED_COLUMNS = ["score", "USD a request", "median time", "answer", "configuration"]

_ENDINGS = {
    "budget": "its money did",
    "trials": "its trials did",
    "space": "nothing affordable was left to learn",
    "idle": "nothing new was proposed any more",
}


def show_tuned(tuned: Tuned, *, fields: Sequence[str] = (), store: object = None) -> None:
    """The end of a tuning, for people.

    Args:
        tuned: it.
        fields: that the winner's prompt fills in.
        store: where it is kept, unless that is where everybody looks.
    """
    if tuned.measured is not None and tuned.baseline is not None:
        title = f"{tuned.study}: the winner beside the baseline, on {tuned.measured.examples} held-out examples"
        rows = [["baseline", *measured_row(tuned.baseline)], ["winner", *measured_row(tuned.measured)]]
        if tuned.cascade is not None:
            *figures, _, _ = measured_row(tuned.cascade.measured)
            rows.append(["cascade", *figures, "cascade", str(tuned.cascade)])
        table(title, ["", *MEASURED_COLUMNS], rows)
    elif tuned.winner is not None:
        table(
            f"{tuned.study}: the winner, as expected on new examples", MEASURED_COLUMNS, [candidate_row(tuned.winner)]
        )
    say(f"{tuned.verdict}: {tuned.reason}")
    show_frontier(tuned.frontier)
    for line in usage_lines(tuned, fields=fields, store=store):
        say(line)
    say(money_text(tuned))
    for note in tuned.notes:
        say(f"note: {note}")


def show_frontier(frontier: Sequence[Candidate]) -> None:
    """Which quality is to be had for which cost."""
    if not frontier:
        say("no frontier: nothing was tried, or nothing fits")
        return
    rows = [[*candidate_row(each), None if each.keep is None else f"{each.keep:.0%}"] for each in frontier]
    title = "Frontier: none is better and cheaper than another; as expected on new examples"
    table(title, [*MEASURED_COLUMNS, "keeps budget"], rows)


def usage_lines(tuned: Tuned, *, fields: Sequence[str] = (), store: object = None) -> list[str]:
    """How the result is used, in Python."""
    if tuned.winner is None or not tuned.versions:
        return []
    saved = f"saved as version {', '.join(f'{version} ({model})' for model, version in tuned.versions.items())}"
    if tuned.verdict != "use the winner":
        return [f"{saved}, not in use"]
    given = f"{tuned.task!r}" + ("" if store is None else f", store={str(store)!r}")
    return [
        f"{saved}; to use it:",
        "",
        "    from selfreg_sdk import ChatSelfReg",
        f"    llm = ChatSelfReg.from_task({given})",
        f"    (llm.tuned_prompt | llm).invoke({dict.fromkeys(fields, '...')})",
        "",
    ]


def money_text(tuned: Tuned) -> str:
    """What it cost."""
    return (
        f"{usd_text(tuned.spent)} of {usd_text(tuned.total)} USD spent, checks and scoring included; "
        f"{tuned.configurations} configurations scored; the search ended because {_ENDINGS[tuned.ending]}"
    )


def candidate_row(candidate: Candidate) -> list[object]:
    """What a search expects of a configuration."""
    return [
        score_text(candidate.score, candidate.low, candidate.high),
        score_range(candidate.cost, candidate.cost_low, candidate.cost_high),
        seconds_text(candidate.seconds),
        candidate.aggregation,
        config_text(candidate.config),
    ]


def measured_row(measured: Measured) -> list[object]:
    """What a configuration did on examples."""
    from selfreg_sdk.tuner.study.searched import aggregation_of

    return [
        score_text(measured.score, measured.low, measured.high),
        score_range(measured.cost, measured.cost_low, measured.cost_high),
        seconds_text(measured.seconds),
        aggregation_of(measured.metric, measured.config.get("n") or 1),
        config_text(measured.config),
    ]


def score_range(cost: float, low: float | None, high: float | None) -> str:
    """``0.00041 [0.00039, 0.00043]``."""
    if low is None or high is None:
        return usd_text(cost)
    return f"{usd_text(cost)} [{usd_text(low)}, {usd_text(high)}]"


def say(text: str) -> None:
    """A line on stdout, as it is."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def tuned_json(tuned: Tuned) -> dict[str, Any]:
    """The end of a tuning, for programs."""
    return {
        "study": tuned.study,
        "task": tuned.task,
        "method": tuned.method,
        "verdict": tuned.verdict,
        "reason": tuned.reason,
        "winner": None if tuned.winner is None else candidate_json(tuned.winner),
        "held_out": {
            "winner": None if tuned.measured is None else measured_json(tuned.measured),
            "baseline": None if tuned.baseline is None else measured_json(tuned.baseline),
            "difference": None if tuned.checked is None else comparison_json(tuned.checked),
        },
        "cascade": None if tuned.cascade is None else cascade_json(tuned.cascade),
        "frontier": [candidate_json(each) for each in tuned.frontier],
        "per_model": {model: candidate_json(each) for model, each in tuned.per_model.items()},
        "versions": dict(tuned.versions),
        "spent_usd": str(tuned.spent),
        "total_usd": str(tuned.total),
        "ending": tuned.ending,
        "configurations": tuned.configurations,
        "notes": list(tuned.notes),
    }


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """A configuration with what is expected of it."""
    return {
        "config": dict(candidate.config),
        "aggregation": candidate.aggregation,
        "score": number(candidate.score),
        "score_low": number(candidate.low),
        "score_high": number(candidate.high),
        "cost_usd": number(candidate.cost),
        "cost_low_usd": number(candidate.cost_low),
        "cost_high_usd": number(candidate.cost_high),
        "keeps_budget": number(candidate.keep),
        "seconds": number(candidate.seconds),
        "examples": candidate.examples,
    }


def measured_json(measured: Measured) -> dict[str, Any]:
    """A configuration with what it did."""
    return {
        "config": dict(measured.config),
        "metric": measured.metric.name,
        "score": number(measured.score),
        "score_low": number(measured.low),
        "score_high": number(measured.high),
        "cost_usd": number(measured.cost),
        "cost_low_usd": number(measured.cost_low),
        "cost_high_usd": number(measured.cost_high),
        "seconds": number(measured.seconds),
        "prompt_tokens": number(measured.prompt_tokens),
        "output_tokens": number(measured.output_tokens),
        "examples": measured.examples,
        "failed": measured.failed,
        "wanted": measured.wanted,
        "spent_usd": str(measured.spent),
    }


def cascade_json(cascade: CheckedCascade) -> dict[str, Any]:
    """A cascade with what it did on held-out examples, beside the best single configuration."""
    measured = {name: value for name, value in measured_json(cascade.measured).items() if name != "config"}
    return {
        "config": cascade.candidate.config.written(),
        "used": cascade.used,
        "held_out": measured,
        "beside_winner": comparison_json(cascade.beside),
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """One configuration against another."""
    return {
        "difference": number(comparison.difference),
        "low": number(comparison.low),
        "high": number(comparison.high),
        "examples": comparison.examples,
        "p": number(comparison.p),
        "verdict": comparison.verdict,
    }


def number(value: float | Decimal | None) -> float | None:
    """A number as JSON has it: null for what is not known, or no number."""
    return None if value is None or not math.isfinite(value) else float(value)
