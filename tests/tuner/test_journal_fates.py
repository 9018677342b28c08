"""What a journal keeps of what went wrong: refusals, failed requests and failed scorers are fates; outages end the run."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from selfreg_sdk.calls import Retry
from selfreg_sdk.errors import (
    AuthFailed,
    BudgetExceeded,
    ConnectFailed,
    NotFound,
    ProviderError,
    RateLimited,
    ServerFailed,
)
from selfreg_sdk.money import Budget
from selfreg_sdk.tuner.journal import pace
from selfreg_sdk.tuner.journal.doors import SpaceNarrowed
from tests.fake_provider import (
    FakeProvider,
    Fault,
    Payload,
    RejectParam,
    context_length_exceeded,
    html_200,
    ok,
    rate_limited,
    server_error,
    status,
    truncated_json,
)
from tests.tuner.journaled import OTHER, counted, desk, opened, quickly, texts, wish

ONCE = Retry(attempts=1)
WORST = Decimal("0.0002")
"""Cap that one call of `wish()` fits, two at a time do not."""


def filtered(body: Payload) -> Payload:
    choices = [{**choice, "finish_reason": "content_filter"} for choice in body["choices"]]
    return {**body, "choices": choices}


# -- failed


@pytest.mark.parametrize(
    ("fault", "says", "paid"),
    [
        (context_length_exceeded(), "ContextLengthExceeded", False),
        (status(400, "The prompt was flagged by the content policy", param="messages"), "BadRequest", False),
        (truncated_json(), "MalformedReply", True),
        (ok(edit=filtered), "finish_reason 'content_filter'", True),
    ],
)
async def test_what_is_wrong_with_the_request_is_kept_and_not_asked_again(fault: Fault, says: str, paid: bool) -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        provider.script(fault)
        async with desk(provider.base_url, store, retry=ONCE, parallel=1) as one:
            failed, other = await quickly(one.buy(wish(0), wish(1), mark=True))
            assert (failed.fate, failed.drawn, failed.marks) == ("failed", None, None)
            assert says in failed.reason
            assert (failed.cost > 0) == paid
            assert (other.fate, failed.cost + other.cost) == ("bought", one.spent)
            assert one.spent >= provider.billed.usd
            assert await quickly(one.buy(wish(0), wish(1), mark=True)) == [failed, other]
            with pytest.raises(ProviderError, match=says):
                await one.journal.draws.draw(wish(0))
        assert len(provider.payloads) == 2


async def test_attempts_of_unknown_outcome_are_in_the_cost() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        provider.script(truncated_json(), html_200())
        async with desk(provider.base_url, store) as one:
            (bought,) = await quickly(one.buy(wish()))
            worst = one.journal.worst(wish().config, wish().messages, 2)
            assert bought.fate == "bought"
            assert bought.cost == one.spent
            assert 2 * worst < bought.cost < 3 * worst
            assert bought.drawn is not None
            assert bought.drawn.output_tokens == 4


# -- refused


async def test_what_does_not_fit_is_refused_until_the_cap_is_raised() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store, cap="0.0001") as one:
            (refused,) = await quickly(one.buy(wish()))
            assert (refused.fate, refused.cost, refused.refused) == ("refused", 0, ("study:s", Decimal("0.0001")))
            assert "was not sent" in refused.reason
            assert await quickly(one.buy(wish(), mark=True)) == [refused]
            with pytest.raises(BudgetExceeded, match="study:s"):
                await one.journal.draws.draw(wish())
        async with desk(provider.base_url, store, cap="0.00005") as one:
            assert (await quickly(one.buy(wish())))[0].refused == ("study:s", Decimal("0.0001"))
        assert provider.payloads == []
        async with desk(provider.base_url, store, cap="0.0003") as one:
            (bought,) = await quickly(one.buy(wish()))
            assert bought.fate == "bought"
            assert len(texts(bought)) == 2


async def test_the_users_own_budgets_hold_as_well() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        budgets = {"mine": Budget.parse("0.0001 USD/day")}
        async with desk(provider.base_url, store, budgets=budgets) as one:
            (refused,) = await quickly(one.buy(wish()))
            assert refused.refused is not None
            assert refused.refused[0].startswith("mine@")
        async with desk(provider.base_url, store) as one:  # that budget is gone
            assert (await quickly(one.buy(wish())))[0].fate == "bought"


async def test_what_only_calls_in_flight_hold_is_waited_for() -> None:
    """Twelve calls that fit one after another, not at once: all are bought, none is refused for the sake of the others."""
    with FakeProvider(reply=counted(), latency=0.02) as provider, opened() as store:
        async with desk(provider.base_url, store, cap=str(WORST * 2), parallel=12) as one:
            bought = await quickly(one.buy(*[wish(number) for number in range(12)]))
            assert [fate.fate for fate in bought] == ["bought"] * 12
            assert provider.billed.usd == one.spent <= 2 * WORST


async def test_the_cap_holds_whatever_is_asked_and_the_rest_is_refused() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store, cap="0.0004", parallel=32) as one:
            bought = await quickly(one.buy(*[wish(number) for number in range(40)]))
            fates = [fate.fate for fate in bought]
            assert {*fates} == {"bought", "refused"}
            assert provider.billed.usd == one.spent == sum(fate.cost for fate in bought) <= Decimal("0.0004")
            again = await quickly(one.buy(*[wish(number) for number in range(40)]))
            assert again == bought


# -- outages


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (server_error(503), ServerFailed),
        (status(401, "Incorrect API key"), AuthFailed),
        (status(404, "The model does not exist"), NotFound),
        (status(400, "Your credit balance is too low to access the API"), ProviderError),
    ],
)
async def test_an_outage_is_no_fate_and_ends_the_run_resumably(fault: Fault, error: type[Exception]) -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        provider.script(ok(), fault)
        wishes = [wish(number) for number in range(6)]
        async with desk(provider.base_url, store, retry=ONCE, parallel=1) as one:
            with pytest.raises(error):
                await quickly(one.buy(*wishes))
            assert len(provider.payloads) == 2  # nothing new was begun
            assert not any(row.held for row in one.rows)
            bought = await quickly(one.buy(*wishes))
            assert [fate.fate for fate in bought] == ["bought"] * 6
        assert len(provider.payloads) == 7
        assert provider.billed.calls == 6


async def test_what_was_in_flight_at_an_outage_is_in_the_journal() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        provider.script(server_error(503), Fault(delay=0.3), Fault(delay=0.3))
        async with desk(provider.base_url, store, retry=ONCE, parallel=3) as one:
            with pytest.raises(ServerFailed):
                await quickly(one.buy(wish(0), wish(1), wish(2)))
            assert sorted(row.state for row in one.rows) == ["bought", "bought", "open"]


async def test_an_endpoint_out_of_reach_is_an_outage() -> None:
    with opened() as store:
        async with desk("http://127.0.0.1:9/v1", store, retry=ONCE) as one:
            with pytest.raises(ConnectFailed):
                await quickly(one.buy(wish()))
            assert one.spent == 0


async def test_an_endpoint_that_limits_the_rate_is_asked_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_FIRST_REST", 0.05)
    with FakeProvider(reply=counted()) as provider, opened() as store:
        provider.script(*[rate_limited()] * 6, ok(), rate_limited())
        async with desk(provider.base_url, store, retry=ONCE, parallel=4) as one:
            bought = await quickly(one.buy(*[wish(number) for number in range(10)]))
            assert [fate.fate for fate in bought] == ["bought"] * 10
            assert sum(fate.cost for fate in bought) == one.spent == provider.billed.usd


@pytest.mark.parametrize(
    "refusal", [rate_limited(), rate_limited(seconds=3600), status(429, "You exceeded your quota")]
)
async def test_an_endpoint_that_only_refuses_is_out_of_order(monkeypatch: pytest.MonkeyPatch, refusal: Fault) -> None:
    monkeypatch.setattr(pace, "_LONGEST_REST", 0.01)
    with FakeProvider(reply=counted()) as provider, opened() as store:
        provider.script(*[refusal] * 100)
        async with desk(provider.base_url, store, retry=ONCE, parallel=4) as one:
            with pytest.raises(RateLimited):
                await quickly(one.buy(*[wish(number) for number in range(4)]))
            assert not any(row.held for row in one.rows)
            assert one.spent == 0


async def test_a_cancelled_run_leaves_nothing_held() -> None:
    with FakeProvider(reply=counted(), latency=5) as provider, opened() as store:
        async with desk(provider.base_url, store, parallel=2) as one:
            task = asyncio.create_task(one.buy(*[wish(number) for number in range(6)]))
            assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.payloads) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await quickly(task)
            assert not any(row.held for row in one.rows)
            assert one.spent == 2 * one.journal.worst(wish().config, wish().messages, 2)
            provider.latency = 0
            bought = await quickly(one.buy(*[wish(number) for number in range(6)]))
            assert sum(fate.cost for fate in bought) == one.spent


# -- settings


async def test_a_refused_setting_narrows_the_space_and_is_not_sent_again() -> None:
    with FakeProvider(reply=counted(), rules=(RejectParam(param="top_p", model=OTHER),)) as provider, opened() as store:
        wishes = [wish(0, top_p=0.5), wish(1, top_p=0.5, model=OTHER)]
        async with desk(provider.base_url, store) as one:
            with pytest.raises(SpaceNarrowed, match="'other-model' does not take 'top_p'") as narrowed:
                await quickly(one.buy(*wishes))
            assert (narrowed.value.model, narrowed.value.setting) == (OTHER, "top_p")
            one.doors.relearn()
            assert "top_p" not in one.doors.capabilities[OTHER].accepted
            bought = await quickly(one.buy(*wishes))
            assert [fate.fate for fate in bought] == ["bought", "bought"]
            assert sum(fate.cost for fate in bought) == one.spent
        assert provider.billed.calls == 2
