"""Measuring configurations: what is asked, what counts, what it costs, and where it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.errors import ConfigError, ConnectFailed
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.tuner.journal.journal import Bought
from selfreg_sdk.tuner.measuring.evaluate import aevaluate, aevaluate_each
from selfreg_sdk.tuner.measuring.measured import Measured
from selfreg_sdk.tuner.scoring.metrics import Metric, metric
from selfreg_sdk.tuner.search.drawing import DrawRequest
from tests.tuner.measuring import FakeJournal, bought, measured

EXAMPLES = [Example(id=f"e{index}", fields={"question": f"{index} + 1?", "answer": index + 1}) for index in range(10)]
PLAIN = Prompt(name="plain", messages=(("user", "{question}"),))
LONG = Prompt(name="long", messages=(("system", "Think."), ("user", "Solve {question}")))
CONFIG = {"model": "small", "temperature": 0.5}


def number(request: DrawRequest) -> int:
    return int(request.example.id[1:])


def right(request: DrawRequest) -> Bought:
    return bought(request, [1.0] * request.count)


def odd_ones(request: DrawRequest) -> Bought:
    """Right on every second example."""
    return bought(request, [float(number(request) % 2)] * request.count)


async def run(journal: FakeJournal, config: Any = CONFIG, by: str = "first", **more: Any) -> Measured:
    return await aevaluate(config, EXAMPLES, [PLAIN], journal, metric(by), **{"span": (0.0, 1.0), **more})


async def test_every_example_is_asked_once_as_the_configuration_says() -> None:
    journal = FakeJournal(odd_ones)
    found = await run(journal)

    assert [request.example for request in journal.asked] == EXAMPLES
    first = journal.asked[0]
    assert (first.config, first.count, first.start) == ({**CONFIG, "prompt": "plain"}, 1, 0)
    assert first.messages == [{"role": "user", "content": "0 + 1?"}]
    assert (found.score, found.examples, found.wanted, found.failed, found.ending) == (0.5, 10, 10, 0, "done")
    assert found.low == pytest.approx(0.237, abs=1e-3)
    assert found.config == {**CONFIG, "prompt": "plain", "n": 1}


async def test_a_vote_is_taken_over_n_samples_of_one_request() -> None:
    def two_of_three(request: DrawRequest) -> Bought:
        return bought(request, [1.0, 0.0, 1.0], ballots=["4", "5", "4"])

    journal = FakeJournal(two_of_three)
    found = await run(journal, {**CONFIG, "n": 3}, by="vote")
    assert (found.score, {request.count for request in journal.asked}) == (1.0, {3})
    assert "n" not in journal.asked[0].config
    success = await run(FakeJournal(two_of_three), {**CONFIG, "n": 3}, by="expected_success")
    assert success.score == pytest.approx(1 - (1 / 3) ** 3)
    assert success.outcomes[0].scores == (1.0, 0.0, 1.0)


async def test_cost_tokens_and_seconds_are_those_of_requests() -> None:
    def priced(request: DrawRequest) -> Bought:
        return bought(request, [1.0] * request.count, price="0.02" if number(request) % 2 else "0.01")

    found = await run(FakeJournal(priced), {**CONFIG, "n": 2}, by="vote")
    assert found.cost == pytest.approx(0.03)  # 2 samples of .01 or .02, without what marking costs
    assert found.cost_low < found.cost < found.cost_high
    assert (found.prompt_tokens, found.output_tokens, found.seconds) == (20, 20, 0.5)
    assert found.spent == Decimal("0.33")  # with it


async def test_failed_examples_count_as_the_worst_and_are_counted() -> None:
    def fails(request: DrawRequest) -> Bought:
        if number(request) == 0:
            return Bought(fate="failed", reason="BadRequest: too long")
        if number(request) == 1:  # answered and paid, but nobody could score it
            scored = bought(request, [1.0])
            return Bought(fate="failed", drawn=scored.drawn, cost=scored.cost, reason="ScoringError: NaN")
        return right(request)

    found = await run(FakeJournal(fails))
    assert (found.examples, found.failed, found.score) == (10, 2, 0.8)
    assert [outcome.reason for outcome in found.outcomes[:3]] == ["BadRequest: too long", "ScoringError: NaN", ""]
    assert found.cost == pytest.approx(0.009)
    losses = await aevaluate(
        CONFIG, EXAMPLES, [PLAIN], FakeJournal(fails), metric("first", mode="min"), span=(0.0, 1.0)
    )
    assert losses.score == 1.0


async def test_without_a_known_range_the_worst_is_the_worst_seen() -> None:
    def scores(request: DrawRequest) -> Bought:
        return Bought(fate="failed", reason="no") if number(request) == 9 else bought(request, [number(request) - 3.0])

    found = await run(FakeJournal(scores), span=None)
    assert found.values["e9"] == -3.0
    nothing = await run(FakeJournal(lambda request: Bought(fate="failed", reason="no")), span=None)
    assert (math.isnan(nothing.score), nothing.failed) == (True, 10)


async def test_a_metric_of_the_users_that_raises_fails_its_examples() -> None:
    def worth(scores: Sequence[float], _: Any) -> float:
        return {1.0: 1.0, 0.0: math.nan}[scores[0]] if scores[0] < 2 else 1 / 0

    def scores(request: DrawRequest) -> Bought:
        return bought(request, [float(number(request) % 3)])

    mine = Metric(name="mine", reduce=worth)
    found = await aevaluate(CONFIG, EXAMPLES, [PLAIN], FakeJournal(scores), mine, span=(0.0, 1.0))
    assert (found.score, found.failed) == (0.3, 7)
    assert "returned nan" in found.outcomes[0].reason
    assert "ZeroDivisionError" in found.outcomes[2].reason


# -- money -------------------------------------------------------------------------------------------------------------


async def test_it_ends_when_the_cap_of_the_study_refuses_and_tells_how_far_it_came() -> None:
    journal = FakeJournal(right, cap="0.045")
    found = await run(journal, parallel=1)
    assert (found.examples, found.wanted, found.ending, found.score) == (4, 10, "money", 1.0)
    assert len(journal.asked) == 8  # the next four were handed over, and refused
    assert found.spent == Decimal("0.044")


async def test_what_came_after_a_refusal_does_not_count() -> None:
    """Which examples are tried must not depend on what they cost: the cheap ones among those left would fit."""

    def refuses(request: DrawRequest) -> Bought:
        return Bought(fate="refused", reason="the cap") if number(request) == 2 else right(request)

    found = await run(FakeJournal(refuses))
    assert [outcome.example for outcome in found.outcomes] == ["e0", "e1"]
    assert found.ending == "money"
    assert found.spent == Decimal("0.011") * 9


async def test_a_limit_is_kept_at_the_worst_case() -> None:
    journal = FakeJournal(right, price="0.01", worst="0.03")
    found = await run(journal, limit=Decimal("0.1"), parallel=8)
    assert found.ending == "money"
    # 3 at once at their worst, then as many as fit what these left: 0.067, 0.045 and 0.034 USD.
    assert journal.batches == [3, 2, 1, 1]
    assert found.spent <= Decimal("0.1")
    assert found.examples == 7
    assert (await run(FakeJournal(right), limit=Decimal("0.2"))).ending == "done"
    nothing = await run(FakeJournal(right), limit=Decimal(0))
    assert (nothing.examples, nothing.ending) == (0, "money")
    assert math.isnan(nothing.score)
    assert (nothing.low, nothing.high) == (0.0, 1.0)


async def test_an_endpoint_out_of_order_ends_it_with_the_error() -> None:
    def down(request: DrawRequest) -> Bought:
        raise ConnectFailed("nobody there")

    with pytest.raises(ConnectFailed):
        await run(FakeJournal(down))


# -- several -----------------------------------------------------------------------------------------------------------


async def test_several_are_tried_on_the_same_examples_however_far_the_money_goes() -> None:
    journal = FakeJournal(right, cap="0.055")
    ours, other = await aevaluate_each(
        [{**CONFIG, "prompt": "plain"}, {"model": "large", "prompt": "long"}],
        EXAMPLES,
        [PLAIN, LONG],
        journal,
        metric("first"),
        parallel=1,
    )
    assert [list(one.values) for one in (ours, other)] == [["e0", "e1"]] * 2
    assert (ours.ending, other.ending) == ("money", "money")
    assert ours.spent == Decimal("0.033")  # one more was answered, whose partner did not fit
    assert other.spent == Decimal("0.022")
    assert {request.config["model"]: len(request.messages) for request in journal.asked} == {"small": 1, "large": 2}


async def test_progress_is_told_on_the_way() -> None:
    heard: list[int] = []
    await run(FakeJournal(right), parallel=1, on_progress=lambda so_far: heard.append(so_far[0].examples))
    assert heard == [4, 8, 10]


async def test_other_samples_are_drawn_from_another_start() -> None:
    journal = FakeJournal(right)
    await run(journal, start=1000)
    assert {request.start for request in journal.asked} == {1000}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"temperature": 1.0}, "names no model"),
        ({"model": "m", "prompt": "other"}, "must be one of plain"),
        ({"model": "m", "n": 3}, "n=3 does not fit the metric 'first'"),
        ({"model": "m", "n": 0.5}, "n=0.5"),
    ],
)
async def test_what_cannot_be_measured_is_refused_before_the_first_call(config: dict[str, Any], said: str) -> None:
    journal = FakeJournal(right)
    with pytest.raises(ConfigError, match=said):
        await run(journal, config)
    assert not journal.asked


async def test_several_prompts_must_be_told_apart() -> None:
    with pytest.raises(ConfigError, match="must be one of plain, long"):
        await aevaluate(CONFIG, EXAMPLES, [PLAIN, LONG], FakeJournal(right), metric("first"))


def test_what_one_needs_of_a_measurement_is_there_even_if_nothing_was_tried() -> None:
    empty = measured([], span=None)
    assert math.isnan(empty.score)
    assert math.isnan(empty.cost)
    assert math.isnan(empty.prompt_tokens)
    assert (empty.seconds, empty.low, empty.high, empty.cost_low) == (None, -math.inf, math.inf, 0.0)
