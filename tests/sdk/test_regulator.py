"""The decision about one request: what is sent, with which money, and what happens after a refusal."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from policies import Bounds, DecodingParams, Interval
from selfreg_sdk.errors import BudgetExceeded, ParameterRejected
from selfreg_sdk.money import Budget
from selfreg_sdk.regulator import FALLBACK_MAX_TOKENS
from tests.fake_provider import FakeProvider
from tests.stack import CREATIVE, PLANNER, body, plans, request, stack, vote


def test_the_payload_is_the_request_and_what_was_compiled(provider: FakeProvider) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider) as on:
        decision = on.answering(planner=PLANNER).regulator.decide(request("hi"))

    assert decision.payload == {**body("hi"), "temperature": 1.2, "top_p": 0.95, "max_tokens": 512}
    assert decision.sends("temperature")
    assert not decision.sends("n")


def test_under_a_budget_an_answer_always_has_a_token_cap(provider: FakeProvider) -> None:
    with stack(provider) as free:
        assert free.answering().regulator.decide(request()).payload == body()
    with stack(provider, cap="1 USD") as on:
        assert on.answering().regulator.decide(request()).payload["max_tokens"] == FALLBACK_MAX_TOKENS
        narrow = on.answering(bounds=Bounds(max_tokens=10))
        assert narrow.regulator.decide(request()).payload["max_tokens"] == 10


def test_an_answer_shrinks_to_what_the_money_left_pays_for_and_is_sent(provider: FakeProvider) -> None:
    with stack(provider, cap="0.0009 USD") as on:
        answering = on.answering()
        outcome = answering.complete(request(), on.client)

        sent = outcome.decision.compiled.sent.max_tokens
        (change,) = outcome.record()["ignored"]
        assert sent is not None
        assert 1 < sent < FALLBACK_MAX_TOKENS
        assert (change["field"], change["why"]) == ("max_tokens", "budget")
        assert on.ledger[0].state == "settled"


def test_the_money_left_is_met_to_the_token_for_any_prompt_and_number_of_samples(provider: FakeProvider) -> None:
    dice = random.Random(7)
    with stack(provider, cap="1 USD") as on:
        for _ in range(60):
            cap = Decimal(dice.randint(300, 4000)) / 1_000_000
            on.budgets["b"] = Budget.parse(f"{cap:f} USD")
            n, text = dice.randint(2, 6), "grüße " * dice.randint(0, 20)
            answering = on.answering(defaults=DecodingParams(temperature=0.7, n=n))
            spec = answering.spec(answering.regulator.decide(request(text, aggregation=vote(n))))
            quote = on.calls.books.quote(spec)

            assert quote.worst is not None
            assert quote.price is not None
            if quote.worst <= cap:
                # What is left over would not have paid for one token more of each sample.
                assert (
                    spec.max_tokens == FALLBACK_MAX_TOKENS
                    or cap - quote.worst < (n + 1) * quote.price.output_per_token * 2
                )
            else:
                assert spec.max_tokens == 1


def test_nothing_left_is_refused_by_the_meter(provider: FakeProvider) -> None:
    with stack(provider, cap="0.00001 USD") as on, pytest.raises(BudgetExceeded):
        on.answering().complete(request(), on.client)
    assert provider.requests == []


def test_the_callers_token_cap_is_not_lowered_for_money(provider: FakeProvider) -> None:
    with stack(provider, cap="0.0009 USD") as on, pytest.raises(BudgetExceeded):
        on.answering().complete(request(caller=DecodingParams(max_tokens=5000)), on.client)
    assert provider.requests == []


def test_bounds_hold_for_policies_and_samples_of_an_aggregation_are_allowed(provider: FakeProvider) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider) as on:
        bounds = Bounds(temperature=Interval(low=0.1, high=0.6), n=1)
        decision = on.answering(planner=PLANNER, bounds=bounds).regulator.decide(request(aggregation=vote(5)))

    assert decision.payload["temperature"] == 0.6
    assert decision.payload["n"] == 5
    (lowered,) = [change for change in decision.compiled.adjustments if change.why == "bound"]
    assert (lowered.field, lowered.wanted, lowered.sent) == ("temperature", 1.2, 0.6)


def test_what_is_foreseen_is_what_a_failed_plan_leads_to(provider: FakeProvider) -> None:
    provider.reply = plans("no")
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator
        foreseen = regulator.foresee(request())
        assert provider.requests == []
        decided = regulator.decide(request())

        assert foreseen.would_plan is not None
        assert foreseen.would_plan.payload == on.planning[0]
        assert foreseen.payload == decided.payload
        assert regulator.foresee(request(plannable=False)).would_plan is None


def rejected(field: str) -> ParameterRejected:
    return ParameterRejected(f"{field} is not supported", param=field)


def test_a_refused_field_is_dropped_remembered_and_shown(provider: FakeProvider) -> None:
    with stack(provider) as on:
        regulator = on.answering(defaults=DecodingParams(temperature=0.3, top_p=0.5)).regulator
        before = regulator.decide(request())
        after = regulator.without(before, rejected("temperature"))

        assert before.payload == {**body(), "temperature": 0.3, "top_p": 0.5}
        assert after.payload == {**body(), "top_p": 0.5}
        assert after.rejected == ("temperature",)
        assert [(c.field, c.sent, c.why) for c in after.compiled.adjustments] == [("temperature", None, "capability")]
        assert on.shared.learned.learned(on.client.endpoint, "fake-model") == {"temperature": "rejected"}
        assert regulator.decide(request()).payload == after.payload


@pytest.mark.parametrize(
    ("caller", "field"),
    [
        ({"temperature": 0.9}, "temperature"),  # the caller's own
        ({}, "tools"),  # not a decoding field
        ({}, "seed"),  # not sent
        ({}, ""),
    ],
)
def test_a_refusal_that_is_not_ours_to_cure_is_the_callers(
    provider: FakeProvider, caller: dict[str, Any], field: str
) -> None:
    with stack(provider) as on:
        regulator = on.answering(defaults=DecodingParams(temperature=0.3)).regulator
        decision = regulator.decide(request(caller=DecodingParams(**caller)))
        with pytest.raises(ParameterRejected):
            regulator.without(decision, rejected(field))

        assert on.shared.learned.learned(on.client.endpoint, "fake-model") == {}


def test_the_same_field_is_not_dropped_twice(provider: FakeProvider) -> None:
    with stack(provider) as on:
        regulator = on.answering(defaults=DecodingParams(max_tokens=9)).regulator
        decision = regulator.decide(request())
        renamed = regulator.without(decision, rejected("max_tokens"))
        assert renamed.payload == {**body(), "max_completion_tokens": 9}
        dropped = regulator.without(renamed, rejected("max_completion_tokens"))
        assert dropped.payload == body()
        with pytest.raises(ParameterRejected):
            regulator.without(dropped, rejected("max_tokens"))
