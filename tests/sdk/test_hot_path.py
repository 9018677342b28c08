"""What a request costs once its task is known: no thread, no store, nothing worked out twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from policies import DecodingParams
from selfreg_sdk import payload as payload_module
from selfreg_sdk import regulator as regulator_module
from selfreg_sdk.answering import describe
from selfreg_sdk.explanation import explain
from selfreg_sdk.money import Budget
from selfreg_sdk.regulator import Regulator
from selfreg_sdk.store import Store, remembered
from selfreg_sdk.store.configs import ConfigRecord
from tests.fake_faults import rejects, server_error
from tests.fake_provider import FakeProvider
from tests.stack import CREATIVE, MODEL, PLANNER, plans, request, several, stack

WARM = 20


@pytest.fixture(autouse=True)
def _one_look_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the time for the next look could come in the middle of a test."""
    monkeypatch.setattr(remembered, "LOOK_EVERY", 1000.0)
    monkeypatch.setattr(remembered, "AT_MOST", 1000.0)


class Watched:
    """Counts what a warm decision must not do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hops: list[str] = []
        self.reads = 0
        read, hop = Store.read, asyncio.to_thread

        @contextmanager
        def reading(store: Store) -> Iterator[sa.Connection]:
            self.reads += 1
            with read(store) as connection:
                yield connection

        async def hopping(function: Any, /, *given: Any, **named: Any) -> Any:
            self.hops.append(getattr(function, "__qualname__", repr(function)))
            return await hop(function, *given, **named)

        monkeypatch.setattr(Store, "read", reading)
        monkeypatch.setattr(asyncio, "to_thread", hopping)

    @contextmanager
    def doing_nothing(self) -> Iterator[None]:
        before = self.reads
        self.hops.clear()
        yield
        assert (self.hops, self.reads - before) == ([], 0)


async def warm_decisions(regulator: Regulator, watched: Watched) -> None:
    """Some requests of a task whose first one was made."""
    await regulator.adecide(request())
    with watched.doing_nothing():
        for number in range(WARM):
            await regulator.adecide(request(f"hello {number}"))
            assert await regulator.asettled(request(f"hello {number}")) is not None


@pytest.mark.parametrize(
    ("planner", "said"),
    [(PLANNER, CREATIVE.to_json()), (PLANNER, "no idea"), (None, "")],
    ids=["planned", "planning failed and rests", "never planned"],
)
async def test_a_decision_on_known_facts_uses_no_thread_and_no_store(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, planner: str | None, said: str
) -> None:
    provider.reply = plans(said)
    with stack(provider) as on:
        await warm_decisions(on.answering(planner=planner).regulator, Watched(monkeypatch))


async def test_under_a_budget_with_plenty_of_room_neither(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stack(provider, cap="1000 USD") as on:
        answering = on.answering()
        await answering.acomplete(request(), on.client)
        await warm_decisions(answering.regulator, Watched(monkeypatch))


async def test_where_money_is_short_the_store_is_asked_in_a_thread(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side of the test above: what it forbids does happen where it must."""
    with stack(provider, cap="0.0012 USD") as on:
        answering = on.answering()
        await answering.acomplete(request(), on.client)
        watched = Watched(monkeypatch)
        decision = await answering.regulator.adecide(request())

        assert watched.hops == ["Regulator._cut"]
        assert watched.reads
        assert [change.why for change in decision.compiled.adjustments] == ["budget"]


async def test_a_finder_that_remembers_nothing_is_caught(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered.Remembered, "_get", lambda self, key: remembered._ABSENT)
    with stack(provider) as on, pytest.raises(AssertionError):
        await warm_decisions(on.answering().regulator, Watched(monkeypatch))


# -- worked out once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled."""
    made: list[Any] = []
    real = regulator_module.compile_params

    def counting(**given: Any) -> Any:
        made.append(given)
        return real(**given)

    monkeypatch.setattr(regulator_module, "compile_params", counting)
    return made


def test_the_same_wishes_are_compiled_once(provider: FakeProvider, compiled: list[Any]) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator
        decisions = [regulator.decide(request(f"hello {number}")) for number in range(WARM)]

        assert len(compiled) == 2  # the plan just made, and the plan as it is stored
        assert {str(decision.compiled.wire) for decision in decisions} == {str(decisions[0].compiled.wire)}


def test_other_wishes_are_compiled_anew(provider: FakeProvider, compiled: list[Any]) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider) as on:
        regulator = on.answering(planner=PLANNER).regulator
        regulator.decide(request())
        warm = regulator.decide(request()).compiled.sent
        for caller in (DecodingParams(temperature=0.1), DecodingParams(seed=3)):
            sent = regulator.decide(request(caller=caller)).compiled.sent
            assert sent == warm.replace(**caller.set_fields())
        on.shared.learned.learn(on.client.endpoint, MODEL, "top_p", "rejected")
        assert regulator.decide(request()).compiled.sent == warm.replace(top_p=None)
        version = on.shared.configs.add_version(
            ConfigRecord(
                task_key=str(regulator.decide(request()).task),
                model=MODEL,
                aggregation="first",
                params={"temperature": 0.42},
                provenance={"kind": "tuned"},
            )
        )
        on.shared.configs.point(str(regulator.decide(request()).task), "production", version)
        decision = regulator.decide(request())
        assert (decision.compiled.sent, decision.proposal.config_version) == (DecodingParams(temperature=0.42), version)
        on.budgets["b"] = Budget.parse("1 USD")
        assert regulator.decide(request()).compiled.sent.max_tokens is not None


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Message lists that were written as JSON."""
    lists: list[Any] = []
    real = payload_module._dumps

    def counting(value: Any) -> bytes:
        if isinstance(value, list):
            lists.append(value)
        return real(value)

    monkeypatch.setattr(payload_module, "_dumps", counting)
    return lists


@pytest.mark.parametrize("asynchronous", [False, True])
def test_messages_are_written_once_for_budget_retries_concessions_and_samples(
    provider: FakeProvider, written: list[Any], asynchronous: bool
) -> None:
    provider.script(server_error(), rejects("n"))
    with stack(provider, cap="10 USD") as on:
        answering, asked = on.answering(), request(aggregation=several(3))
        if asynchronous:
            outcome = on.run(answering.acomplete(asked, on.client))
        else:
            outcome = answering.complete(asked, on.client)

        assert len(outcome.answers) == 3
        assert len(provider.requests) == 5
        assert written == [asked.body["messages"]]


def test_who_changes_a_record_changes_no_later_request(provider: FakeProvider) -> None:
    with stack(provider) as on:
        regulator = on.answering(defaults=DecodingParams(stop=("END",), temperature=0.5)).regulator
        record = describe(regulator.decide(request()))
        record["sent"]["stop"].append("mine")
        record["sent"]["temperature"] = record["planned"]["stop"] = None

        later = regulator.decide(request())
        assert (later.payload["stop"], later.payload["temperature"]) == (["END"], 0.5)
        assert describe(later)["planned"]["stop"] == ["END"]


# -- what an explanation says of a task that rests ---------------------------------------------------------------------


def test_an_explanation_tells_that_planning_rests(provider: FakeProvider) -> None:
    provider.reply = plans("no idea")
    with stack(provider) as on:
        answering = on.answering(planner=PLANNER)
        before = explain(answering, request())
        answering.regulator.decide(request())
        after = explain(answering, request())

        assert (before.would_plan, before.plan_rests) == (True, False)
        assert (after.would_plan, after.plan_rests) == (False, True)
        assert after.plan_worst_case_usd == 0
        assert (after.as_dict()["would_plan"], after.as_dict()["plan_rests"]) == (False, True)
        assert not explain(answering, request(plannable=False)).plan_rests


def test_many_threads_share_what_was_worked_out(provider: FakeProvider, compiled: list[Any]) -> None:
    with stack(provider) as on:
        regulator = on.answering().regulator
        regulator.decide(request())
        threads = [threading.Thread(target=lambda: [regulator.decide(request()) for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

        assert len(compiled) == 1
