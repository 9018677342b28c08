"""How a tuning reads: the progress on its way, the end of it, and what a dry run says."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from selfreg_sdk.cli.figures import config_text, score_text, seconds_text, usd_text
from selfreg_sdk.cli.frontier import affordable
from selfreg_sdk.cli.quoted import quote_json, show_quote
from selfreg_sdk.cli.tuned import show_tuned, tuned_json
from selfreg_sdk.cli.watch import watching
from selfreg_sdk.tuner.measuring.compare import compare
from selfreg_sdk.tuner.measuring.measured import Measured, Outcome
from selfreg_sdk.tuner.scoring.metrics import metric
from selfreg_sdk.tuner.study.results import Candidate, Progress, Quote, Tuned

CONFIG = {"model": "small", "prompt": "plain", "temperature": 0.2, "n": 5, "max_tokens": 64}
CANDIDATE = Candidate(
    config=CONFIG,
    aggregation="vote of 5",
    score=0.8125,
    low=0.7,
    high=0.9,
    cost=0.000123456,
    cost_low=0.00012,
    cost_high=0.00013,
    keep=0.97,
    seconds=1.25,
    examples=14,
)
PROGRESS = Progress(
    phase="search",
    spent=Decimal("0.0125"),
    total=Decimal("0.30"),
    requests=40,
    samples=160,
    configurations=12,
    best=CANDIDATE,
    seconds=3.5,
)


def measured(values: list[float], cost: str, config: dict[str, Any]) -> Measured:
    outcomes = tuple(
        Outcome(example=f"e{index}", value=value, cost=Decimal(cost), seconds=0.5) for index, value in enumerate(values)
    )
    return Measured(
        config=config,
        metric=metric("vote"),
        span=(0.0, 1.0),
        outcomes=outcomes,
        wanted=len(values),
        spent=Decimal(cost) * len(values),
    )


@pytest.fixture
def tuned() -> Tuned:
    ours = measured([1.0] * 7 + [0.0], "0.0001", CONFIG)
    theirs = measured([0.0] * 6 + [1.0] * 2, "0.00004", {"model": "small", "prompt": "plain", "n": 1})
    return Tuned(
        study="sums-1",
        task="sums",
        method="pool",
        verdict="use the winner",
        reason="Its score differs by +0.5.",
        winner=CANDIDATE,
        measured=ours,
        baseline=theirs,
        checked=compare(ours, theirs),
        frontier=(replace(CANDIDATE, score=0.6, cost=0.00001, aggregation="first", keep=None), CANDIDATE),
        per_model={"small": CANDIDATE},
        versions={"small": 7},
        spent=Decimal("0.0125"),
        total=Decimal("0.30"),
        ending="budget",
        configurations=12,
        notes=("ranges are tried at 5 values",),
    )


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreg_sdk.cli.output.out.width", 200, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def test_figures_read_without_exponents() -> None:
    assert [usd_text(value) for value in (Decimal("0.000413129"), 1e-7, 0.25, Decimal("12.345"), 0, None)] == [
        "0.000413", "0.0000001", "0.25", "12.34", "0", "unknown",
    ]  # fmt: skip
    assert score_text(0.8125, 0.7, 0.9) == "0.812 [0.700, 0.900]"
    assert [score_text(0.8125), score_text(float("nan"), 0.0, 1.0), usd_text(float("inf"))] == [
        "0.81",
        *["unknown"] * 2,
    ]
    assert [seconds_text(value) for value in (None, 0, 0.0123, 1.25, 42.4, 245)] == [
        None, "0.0 s", "12 ms", "1.2 s", "42 s", "4:05",
    ]  # fmt: skip
    assert config_text({"model": "small", "temperature": 0.123456, "n": 3}) == "model=small temperature=0.1235 n=3"


def test_a_terminal_gets_a_bar_and_a_log_gets_lines() -> None:
    for terminal, expected in ((True, "searching"), (False, "searching · 0.0125 of 0.3 USD · 40 requests")):
        text = io.StringIO()
        with watching(console=Console(file=text, force_terminal=terminal, width=200)) as show:
            show(PROGRESS)
        assert expected in text.getvalue()
        assert "best so far 0.812 [0.700, 0.900] at 0.000123 USD: model=small" in text.getvalue()


def test_a_log_gets_a_line_now_and_then_and_at_each_phase() -> None:
    text = io.StringIO()
    with watching(console=Console(file=text, force_terminal=False, width=200)) as show:
        for phase in ("search",) * 50 + ("check",) * 50 + ("done",):
            show(replace(PROGRESS, phase=phase, best=None))
    lines = text.getvalue().splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["searching", "checking on held-out examples", "done"]


def test_programs_get_no_progress() -> None:
    text = io.StringIO()
    with watching(quiet=True, console=Console(file=text, force_terminal=True)) as show:
        show(PROGRESS)
    assert text.getvalue() == ""


def test_the_end_for_people(tuned: Tuned, wide: None, capsys: pytest.CaptureFixture[str]) -> None:
    show_tuned(tuned, fields=("question",), store="here.db")
    shown = capsys.readouterr().out
    baseline, winner = (
        next(line for line in shown.splitlines() if f"│ {who} " in line) for who in ("baseline", "winner")
    )
    assert "0.250 [" in baseline
    assert "0.875 [" in winner
    assert "vote of 5" in winner
    for said in (
        "use the winner: Its score differs by +0.5.",
        "Frontier",
        "97%",
        "saved as version 7 (small)",
        "ChatSelfReg.from_task('sums', store='here.db')",
        "(llm.tuned_prompt | llm).invoke({'question': '...'})",
        "0.0125 of 0.3 USD spent",
        "note: ranges are tried at 5 values",
    ):
        assert said in shown


@pytest.mark.parametrize(
    ("budget", "best"), [("0.00001", "cheap"), ("0.0001", "cheap"), ("0.0005", "dear"), ("0.000001", None)]
)
def test_the_best_of_a_frontier_for_a_budget(budget: str, best: str | None) -> None:
    cheap = replace(CANDIDATE, config={"model": "cheap"}, score=0.6, cost=0.00001, cost_low=None, cost_high=None)
    dear = replace(CANDIDATE, config={"model": "dear"}, cost=0.0003, cost_low=0.0001, cost_high=0.0004)
    found = affordable((cheap, dear), Decimal(budget))
    assert (None if found is None else found.config["model"]) == best


def test_a_cost_that_is_not_known_well_enough_is_not_offered() -> None:
    for high, offered in ((0.00031, True), (0.0006, False)):
        dear = replace(CANDIDATE, cost=0.0003, cost_low=0.0003, cost_high=high)
        assert (affordable((dear,), Decimal("0.00031")) is not None) == offered


def test_the_end_without_a_winner(tuned: Tuned, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {"winner": None, "measured": None, "baseline": None, "checked": None, "frontier": (), "versions": {}}
    show_tuned(replace(tuned, verdict="nothing fits", reason="No configuration keeps the budget.", **nothing))
    shown = capsys.readouterr().out
    assert "nothing fits: No configuration keeps the budget." in shown
    assert "ChatSelfReg" not in shown


def test_a_winner_that_is_not_ahead_is_saved_and_not_used(tuned: Tuned, capsys: pytest.CaptureFixture[str]) -> None:
    show_tuned(replace(tuned, verdict="keep the baseline"))
    shown = capsys.readouterr().out
    assert "saved as version 7 (small), not in use" in shown
    assert "ChatSelfReg" not in shown


def test_the_end_for_programs(tuned: Tuned) -> None:
    found = json.loads(json.dumps(tuned_json(tuned), allow_nan=False))
    assert found["winner"]["config"] == CONFIG
    assert found["held_out"]["difference"]["difference"] == pytest.approx(0.625)
    assert found["held_out"]["winner"]["score"] == 0.875
    assert [each["aggregation"] for each in found["frontier"]] == ["first", "vote of 5"]
    assert (found["spent_usd"], found["total_usd"], found["versions"]) == ("0.0125", "0.30", {"small": 7})


def test_a_quote(capsys: pytest.CaptureFixture[str]) -> None:
    quote = Quote(
        study="sums",
        task="sums",
        method="pool",
        configurations=32,
        first={"small": Decimal("0.00012"), "large": Decimal("0.0012")},
        worst=Decimal("0.30"),
        aside=Decimal("0.06"),
        inference_budget=Decimal("0.0005"),
        examples=14,
        holdout=6,
        baseline=CONFIG,
        notes=("large: temperature is not taken, so it is not varied there",),
    )
    show_quote(quote)
    shown = capsys.readouterr().out
    for said in ("14 to search on, 6 held out", "32", "at most 0.3 USD, 0.06 of it", "0.0012", "not taken"):
        assert said in shown
    assert "nothing was sent" in shown
    found = json.loads(json.dumps(quote_json(quote)))
    assert found["first_request_usd"] == {"small": "0.00012", "large": "0.0012"}
    assert (found["worst_case_usd"], found["examples"]) == ("0.30", {"search": 14, "holdout": 6})
