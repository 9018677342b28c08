"""Marks in the journal: what a scorer, a judge or a user's own calls cost, and what becomes of a purchase they fail on."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.booking import CallSpec
from selfreg_sdk.calls import Retry
from selfreg_sdk.errors import ServerFailed
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.doors import Doors
from selfreg_sdk.tuner.scoring.judge import Judging
from selfreg_sdk.tuner.scoring.scoring import Scoring, ScoringError
from selfreg_sdk.tuner.search.drawing import DrawStep, ScoreStep, adrive
from tests.fake_provider import FakeProvider, Payload, ok, server_error
from tests.tuner.journaled import EXAMPLES, MODEL, OTHER, counted, desk, opened, quickly, texts, wish

ONCE = Retry(attempts=1)


async def test_a_scorer_that_fails_fails_the_purchase_which_is_paid() -> None:
    def score(answer: str, example: Example) -> float:
        if example.id == "e1":
            raise KeyError("no such thing")
        return 1.0

    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store, scoring=Scoring(score)) as one:
            fine, failed = await quickly(one.buy(wish(0), wish(1), mark=True))
            assert (fine.fate, failed.fate, failed.marks) == ("bought", "failed", None)
            assert "KeyError: 'no such thing'" in failed.reason
            assert failed.cost == fine.cost > 0
            assert len(texts(failed)) == 2
            (unmarked,) = await quickly(one.buy(wish(1)))
            assert (unmarked.fate, texts(unmarked)) == ("bought", texts(failed))
            assert unmarked.drawn is not None
            with pytest.raises(ScoringError, match="no such thing"):
                await one.journal.mark(EXAMPLES[1], unmarked.drawn.samples)
        assert provider.billed.calls == 2


def judged(doors: Doors) -> Scoring:
    return Scoring(doors[OTHER].judge(Judging(rubric="It is short."), task_key="t"))


def grader(payload: Payload) -> Any:
    verdict = json.dumps({"reason": "so", "verdict": "right"})
    return verdict if payload["model"] == OTHER else counter(payload)


counter = counted()


async def test_what_a_judge_costs_is_in_the_purchase_and_found_again() -> None:
    with FakeProvider(reply=grader) as provider, opened() as store:
        async with desk(provider.base_url, store, judge=judged) as one:
            (bought,) = await quickly(one.buy(wish(count=3), mark=True))
            assert [mark.score for mark in bought.marks or ()] == [1.0] * 3
            assert bought.drawn is not None
            assert bought.cost == bought.drawn.cost + bought.marking == one.spent
            assert bought.marking > 0
            assert len(provider.payloads) == 4
            assert {entry.purpose for entry in one.shared.meter.ledger()} == {"trial", "score"}
            worst = one.journal.worst(wish().config, wish().messages, 3, EXAMPLES[0])
            unmarked = one.journal.worst(wish().config, wish().messages, 3)
            assert bought.cost < worst
            assert worst - unmarked == 3 * (
                one.journal.worst(wish().config, wish().messages, 1, EXAMPLES[0])
                - one.journal.worst(wish().config, wish().messages, 1)
            )
            assert await quickly(one.buy(wish(count=3), mark=True)) == [bought]
        async with desk(provider.base_url, store, judge=judged, study="two") as two:
            (found,) = await quickly(two.buy(wish(count=3), mark=True))
            assert (found.cost, found.marks) == (0, bought.marks)
        assert len(provider.payloads) == 4


async def test_a_judge_out_of_order_is_an_outage_and_one_without_money_a_refusal() -> None:
    with FakeProvider(reply=grader) as provider, opened() as store:
        async with desk(provider.base_url, store, judge=judged, retry=ONCE, parallel=1) as one:
            provider.script(ok(), server_error(503))
            with pytest.raises(ServerFailed):
                await quickly(one.buy(wish(count=1), mark=True))
            assert [row.state for row in one.rows] == ["open"]
        async with desk(provider.base_url, store, judge=judged, cap="0.0003") as one:
            (refused,) = await quickly(one.buy(wish(count=1), mark=True))
            assert (refused.fate, refused.marks) == ("refused", None)
            assert refused.refused == ("study:s", Decimal("0.0003"))
            assert len(texts(refused)) == 1
            assert (await quickly(one.buy(wish(count=1))))[0].fate == "bought"
        async with desk(provider.base_url, store, judge=judged) as one:
            (bought,) = await quickly(one.buy(wish(count=1), mark=True))
            assert bought.fate == "bought"
            assert one.spent == bought.cost
        assert sum(payload["model"] == MODEL for payload in provider.payloads) == 1


async def test_what_a_scorer_of_the_users_own_spends_counts_under_the_study() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            door = one.doors[OTHER]

            async def score(answer: str, example: Example) -> float:
                body = {"model": OTHER, "messages": [{"role": "user", "content": answer}], "max_tokens": 8}
                spec = CallSpec(model=OTHER, payload=body, max_tokens=8)
                reply, _ = await door.calls.acomplete(spec, door.channel)
                return float(len(reply.texts))

            one.journal._scoring = Scoring(score)
            (bought,) = await quickly(one.buy(wish(), mark=True))
            assert bought.fate == "bought"
            assert bought.cost == one.spent
            assert bought.marking > 0


async def test_an_outage_ends_a_search_and_fails_none_of_its_trials() -> None:
    def search(step: Any) -> Any:
        return (yield step)

    async def value(example: Example, samples: Any) -> float:
        return (await one.journal.mark(example, samples))[0].score

    with FakeProvider(reply=grader) as provider, opened() as store:
        async with desk(provider.base_url, store, judge=judged, retry=ONCE) as one:
            provider.script(server_error(503))
            step = DrawStep(requests=(wish(0), wish(1)))
            with pytest.raises(ServerFailed):
                await quickly(adrive(search(step), one.journal.draws, value))
            drawn = await quickly(adrive(search(step), one.journal.draws, value))
            provider.script(server_error(503))
            scores = ScoreStep(answers=tuple((EXAMPLES[i], drawn[i].samples) for i in (0, 1)))
            with pytest.raises(ServerFailed):
                await quickly(adrive(search(scores), one.journal.draws, value))
            assert await quickly(adrive(search(scores), one.journal.draws, value)) == [1.0, 1.0]
