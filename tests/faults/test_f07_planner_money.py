"""F7: planning counts against the same cap, and a plan that fails never costs the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from selfreg_sdk.answering import Answering
from selfreg_sdk.calls import Calls
from selfreg_sdk.errors import BudgetExceeded
from tests.fake_provider import (
    FakeProvider,
    Fault,
    RejectParam,
    closed_before_headers,
    empty_choices,
    html_200,
    no_usage,
    rate_limited,
    server_error,
    status,
    truncated_json,
)
from tests.faults.clients import must_fail
from tests.stack import CREATIVE, PLANNER, QUICK, Stack, is_planning, plans, request, stack

FAILURES: dict[str, tuple[Fault, ...]] = {
    "server errors": (server_error(),) * QUICK.attempts,
    "rate limit": (rate_limited(seconds=3600),),
    "unauthorised": (status(401),),
    "no such model": (status(404),),
    "bad request": (status(400),),
    "html": (html_200(),) * QUICK.attempts,
    "cut off": (truncated_json(),) * QUICK.attempts,
    "no choices": (empty_choices(),) * QUICK.attempts,
    "no connection": (closed_before_headers(),) * QUICK.attempts,
}


def complete(on: Stack, answering: Answering, **changes: Any) -> Any:
    return answering.complete(request(**changes), on.client)


def acomplete(on: Stack, answering: Answering, **changes: Any) -> Any:
    return on.run(answering.acomplete(request(**changes), on.client))


FACES = (complete, acomplete)


def plan_and_answer_are_on_the_budget(on: Stack, answering: Answering) -> None:
    outcome = complete(on, answering)

    (budget,) = on.shared.meter.status(["b"])
    assert budget.spent == on.provider.billed.usd == outcome.cost
    assert [row.purpose for row in on.ledger] == ["plan", "answer"]
    assert len({row.request_id for row in on.ledger}) == 1


def test_f7_a_plan_counts_against_the_cap_of_the_answer(provider: FakeProvider) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider, cap="1 USD") as on:
        plan_and_answer_are_on_the_budget(on, on.answering(planner=PLANNER))


def test_f7_the_check_catches_a_planner_with_books_of_its_own(provider: FakeProvider) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider, cap="1 USD") as on, stack(provider) as off:
        answering = on.answering(planner=PLANNER)
        planner = answering.regulator._facts.planner
        assert planner is not None
        planner._calls = Calls(off.calls.books, retry=QUICK)
        must_fail(plan_and_answer_are_on_the_budget, on, answering)


@pytest.mark.parametrize("face", FACES)
def test_f7_plans_and_answers_together_stay_under_the_cap(provider: FakeProvider, face: Callable[..., Any]) -> None:
    provider.reply = plans(CREATIVE.to_json(), answer="x" * 4000)
    with stack(provider, cap="0.004 USD") as on:
        answering = on.answering(planner=PLANNER)
        for number in range(100):
            try:
                face(on, answering, task=f"task {number}")
            except BudgetExceeded:
                break

        (budget,) = on.shared.meter.status()
        assert provider.billed.usd <= budget.spent <= 0.004
        assert budget.held == 0
        assert number > 1


@pytest.mark.parametrize("face", FACES)
def test_f7_when_planning_fails_the_request_is_served_with_the_defaults(
    provider: FakeProvider, face: Callable[..., Any]
) -> None:
    with stack(provider, cap="1 USD") as on:
        for number, (name, faults) in enumerate(FAILURES.items()):
            provider.script(*faults)
            before = len(provider.requests)
            outcome = face(on, on.answering(planner=PLANNER), task=f"task {number}")
            sent = provider.payloads[before:]

            assert outcome.answers[0].texts == ("echo: hello",), name
            assert [is_planning(payload) for payload in sent] == [True] * len(faults) + [False], name
            assert outcome.record()["source"] == "default"
            assert outcome.record()["plan_problem"]
            assert "temperature" not in sent[-1]
            assert outcome.cost == sum(
                row.cost or 0 for row in on.ledger if row.request_id == outcome.decision.request.id
            )

        (budget,) = on.shared.meter.status()
        assert budget.spent >= provider.billed.usd


@pytest.mark.parametrize("face", FACES)
def test_f7_a_plan_of_unknown_use_is_charged_at_its_worst_case(
    provider: FakeProvider, face: Callable[..., Any]
) -> None:
    provider.reply = plans(CREATIVE.to_json())
    provider.script(no_usage())
    with stack(provider, cap="1 USD") as on:
        outcome = face(on, on.answering(planner=PLANNER))

        assert outcome.record()["source"] == "plan"
        assert outcome.decision.plan_cost == on.ledger[0].worst


def test_f7_money_for_the_answer_but_not_for_the_plan(provider: FakeProvider) -> None:
    """The plan is refused, the answer is served."""
    with stack(provider, cap="0.0006 USD") as on:
        outcome = complete(on, on.answering(planner=PLANNER))

        assert "BudgetExceeded" in outcome.record()["plan_problem"]
        assert outcome.record()["plan_cost_usd"] == "0"
        assert [row.purpose for row in on.ledger] == ["answer"]


def test_f7_what_the_planner_refuses_is_not_what_the_answer_may_not_have(provider: FakeProvider) -> None:
    """Two models: what one refuses says nothing about the other."""
    provider.reply = plans(CREATIVE.to_json())
    provider.rules.append(RejectParam(param="temperature", model=PLANNER))
    with stack(provider, cap="1 USD") as on:
        complete(on, on.answering(planner=PLANNER))

        assert ["temperature" in payload for payload in on.planning] == [True, False]
        assert on.answers[0]["temperature"] == 1.2
