"""Where facts come from: the store first, and one planning call per task however many ask."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from policies import DecodingParams, Plan, task_key
from selfreg_sdk import facts as facts_module
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.facts import FactFinder
from selfreg_sdk.store.configs import ConfigRecord
from tests.fake_provider import FakeProvider, server_error, wait_for
from tests.stack import CREATIVE, HANG, MODEL, PLANNER, Stack, plans, request, stack

MANY = 32


def finder(on: Stack, planner: str | None = PLANNER) -> FactFinder:
    return on.answering(planner=planner).regulator._facts


def store_version(on: Stack, *, kind: str, params: dict[str, Any] | None = None, plan: Any = None) -> int:
    """A version in production for the task of `request()`."""
    key = str(finder(on).recall(request()).task)
    record = ConfigRecord(
        task_key=key, model=MODEL, aggregation="first", params=params or {}, plan=plan, provenance={"kind": kind}
    )
    version = on.shared.configs.add_version(record)
    on.shared.configs.point(key, "production", version)
    return version


# -- single flight -----------------------------------------------------------------------------------------------------


def test_32_threads_of_one_task_make_one_planning_call(provider: FakeProvider) -> None:
    provider.reply, provider.latency = plans(CREATIVE.to_json()), 0.3
    with stack(provider) as on, ThreadPoolExecutor(MANY) as pool:
        regulator = on.answering(planner=PLANNER).regulator
        together = threading.Barrier(MANY)

        def decide(number: int) -> Any:
            together.wait(HANG)
            return regulator.decide(request(f"hello {number}"))

        decisions = list(pool.map(decide, range(MANY)))

        assert len(on.planning) == 1
        assert all(decision.proposal.plan == CREATIVE for decision in decisions)
        assert sum(decision.planned is not None for decision in decisions) == 1
        assert sorted({decision.proposal.source for decision in decisions}) == ["cached plan", "plan"]
        assert len(on.shared.configs.list()) == 1


async def test_32_coroutines_of_one_task_make_one_planning_call(provider: FakeProvider) -> None:
    provider.reply, provider.latency = plans(CREATIVE.to_json()), 0.3
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator
        decisions = await asyncio.gather(*(regulator.adecide(request(f"hello {n}")) for n in range(MANY)))

        assert len(on.planning) == 1
        assert all(decision.proposal.plan == CREATIVE for decision in decisions)
        assert sum(decision.planned is not None for decision in decisions) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_who_looked_before_the_plan_was_stored_does_not_plan_again(provider: FakeProvider, asynchronous: bool) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider) as on:
        late = finder(on)
        facts = late.recall(request())
        finder(on).plan(request(), facts.task)
        if asynchronous:
            fact, planned = on.run(late.aplan(request(), facts.task))
        else:
            fact, planned = late.plan(request(), facts.task)

        assert (fact and fact.plan, fact and fact.cached, planned) == (CREATIVE, True, None)
        assert len(on.planning) == 1


def test_different_tasks_are_planned_apart(provider: FakeProvider) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator
        for task in ("a", "b", "a", "b"):
            regulator.decide(request(task=task))

        assert len(on.planning) == 2


async def test_a_synchronous_call_in_a_running_loop_does_not_wait_for_that_loop(provider: FakeProvider) -> None:
    """It would wait for ever: the plan it waits for is being made by the loop it blocks."""
    gate = threading.Event()
    provider.reply = plans(CREATIVE.to_json())
    provider.script(wait_for(gate))
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator
        leading = asyncio.create_task(regulator.adecide(request()))
        assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.requests) == 1)
        blocking = regulator.decide(request())
        gate.set()

        assert blocking.proposal.source == "default"
        assert (await asyncio.wait_for(leading, HANG)).proposal.plan == CREATIVE


async def test_a_cancelled_leader_neither_blocks_the_others_nor_the_task(provider: FakeProvider) -> None:
    gate = threading.Event()
    provider.reply = plans(CREATIVE.to_json())
    provider.script(wait_for(gate))
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator
        leading = asyncio.create_task(regulator.adecide(request()))
        assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.requests) == 1)
        following = asyncio.create_task(regulator.adecide(request()))
        await asyncio.sleep(0.05)
        leading.cancel()

        assert (await asyncio.wait_for(following, HANG)).proposal.source in ("default", "plan")
        with pytest.raises(asyncio.CancelledError):
            await leading
        assert (await regulator.adecide(request())).proposal.plan == CREATIVE


# -- plans that fail ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_task_whose_planning_failed_rests(
    provider: FakeProvider, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.reply = plans("no idea")
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator

        def decide() -> Any:
            return on.run(regulator.adecide(request())) if asynchronous else regulator.decide(request())

        first, second = decide(), decide()
        assert (first.proposal.source, second.proposal.source) == ("default", "default")
        assert (first.planned and first.planned.problem) == "the planner's reply holds no plan"
        assert second.planned is None
        assert len(on.planning) == 1
        assert on.shared.configs.list() == ()

        monkeypatch.setattr(facts_module, "_SECONDS_BETWEEN_FAILED_PLANS", 0.0)
        other = on.answering(planner=PLANNER).regulator
        other.decide(request())
        provider.reply = plans(CREATIVE.to_json())
        assert other.decide(request()).proposal.plan == CREATIVE


def test_a_failing_planner_is_asked_once_by_many(provider: FakeProvider) -> None:
    provider.script(*[server_error()] * 3)
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator
        sources = {regulator.decide(request()).proposal.source for _ in range(5)}

        assert sources == {"default"}
        assert len(on.planning) == on.retry.attempts


def test_requests_that_must_not_be_planned_are_not(provider: FakeProvider) -> None:
    with stack(provider) as on:
        assert on.answering(planner=PLANNER).regulator.decide(request(plannable=False)).proposal.source == "default"
        assert on.answering(planner=None).regulator.decide(request()).proposal.source == "default"
        assert not finder(on).may_plan(request(plannable=False))
        assert not finder(on, None).may_plan(request())
    assert provider.requests == []


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_a_plan_is_stored_and_read_again_by_the_next_process(provider: FakeProvider) -> None:
    provider.reply = plans("Of course: " + CREATIVE.to_json())
    with stack(provider, cap="1 USD") as on:
        made = on.answering(planner=PLANNER).regulator.decide(request())
        again = on.answering(planner=PLANNER).regulator.decide(request())

        (stored,) = on.shared.configs.list()
        assert stored.plan == CREATIVE.as_dict()
        assert stored.provenance["planner"] == PLANNER
        assert stored.cost_usd == provider.billed.usd
        assert made.proposal.config_version == again.proposal.config_version == stored.id
        assert (made.proposal.source, again.proposal.source) == ("plan", "cached plan")
        assert made.compiled == again.compiled
        assert len(on.planning) == 1


def test_a_tuned_configuration_wins_without_planning(provider: FakeProvider) -> None:
    with stack(provider) as on:
        version = store_version(on, kind="tuned", params={"temperature": 0.42, "max_tokens": 77})
        decision = on.answering(planner=PLANNER).regulator.decide(request())

        assert (decision.proposal.source, decision.proposal.config_version) == ("tuned", version)
        assert decision.compiled.sent == DecodingParams(temperature=0.42, max_tokens=77)
    assert provider.requests == []


@pytest.mark.parametrize(
    ("kind", "params", "plan"),
    [
        ("planned", {}, {"family": "chat"}),
        ("planned", {}, {**CREATIVE.as_dict(), "length": "novel"}),
        ("planned", {}, {**CREATIVE.as_dict(), "mood": "sunny"}),
        ("planned", {}, None),
        ("tuned", {"temperature": 7}, None),
        ("tuned", {"heat": 0.5}, None),
    ],
)
def test_a_stored_row_this_version_cannot_read_is_planned_anew(
    provider: FakeProvider, kind: str, params: Any, plan: Any
) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider) as on:
        unreadable = store_version(on, kind=kind, params=params, plan=plan)
        decision = on.answering(planner=PLANNER).regulator.decide(request())

        assert decision.proposal.plan == CREATIVE
        assert on.shared.configs.get(unreadable).plan == plan  # kept: versions are never overwritten
        assert len(on.planning) == 1


@pytest.mark.parametrize("name", ["", "  ", "a|b", "a\nb"])
def test_a_task_name_that_would_make_keys_ambiguous_is_refused(provider: FakeProvider, name: str) -> None:
    with stack(provider) as on, pytest.raises(ConfigError, match="task name"):
        finder(on).recall(request(task=name))


def test_a_planner_is_shown_instructions_and_the_last_question_only(provider: FakeProvider) -> None:
    turns = (("system", "Be brief."), ("user", "old"), ("assistant", "reply"), ("user", "new"))
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]

    assert request(body={"model": MODEL, "messages": messages}).text == "Be brief.\n\nnew"


def test_plan_words_survive_the_store(provider: FakeProvider) -> None:
    with stack(provider) as on:
        store_version(on, kind="planned", plan=CREATIVE.as_dict())
        fact = finder(on).recall(request()).plan

    assert fact is not None
    assert fact.plan == Plan(**CREATIVE.as_dict())  # type: ignore[arg-type]
    assert str(task_key(name="greet", messages=(), model=MODEL, aggregation=request().aggregation)).startswith("greet|")
