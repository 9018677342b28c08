"""Who watches a planning call is told once that it starts and once how it ended, whatever happens to it."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from policies import Aggregation, resolve
from selfreg_sdk.booking import CallSpec
from selfreg_sdk.planner import PlanLimits, Planned, Planner
from tests.fake_provider import FakeProvider, RejectParam, hang_before_headers, server_error
from tests.stack import CREATIVE, PLANNER, Stack, plans, stack

FACES = ["sync", "async"]


class Watch:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[CallSpec | Planned] = []

    def started(self, spec: CallSpec) -> None:
        self.told.append(spec)

    def ended(self, planned: Planned) -> None:
        self.told.append(planned)

    async def astarted(self, spec: CallSpec) -> None:
        self.told.append(spec)

    async def aended(self, planned: Planned) -> None:
        self.told.append(planned)


def planner(on: Stack, *, max_usd: str = "0.01") -> Planner:
    return Planner(
        on.calls,
        on.client,
        model=PLANNER,
        learned=on.shared.learned,
        capabilities=lambda learned: resolve(PLANNER, learned=learned),
        limits=PlanLimits(max_usd=Decimal(max_usd)),
    )


def ask(on: Stack, by: Planner, face: str, watch: Watch | None) -> Planned:
    one = Aggregation()
    if face == "sync":
        return by.plan("x", one, task_key="t", request_id="r", watch=watch)
    return on.run(by.aplan("x", one, task_key="t", request_id="r", watch=watch))


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("case", ["plan", "prose", "rejected", "failed"])
def test_a_call_that_is_made(provider: FakeProvider, case: str, face: str) -> None:
    provider.reply = plans("I would rather not." if case == "prose" else CREATIVE.to_json())
    if case == "rejected":
        provider.rules.append(RejectParam(param="temperature"))
    if case == "failed":
        provider.script(*[server_error()] * 3)
    watch = Watch()
    with stack(provider) as on:
        planned = ask(on, planner(on), face, watch)
    spec, ended = watch.told
    assert isinstance(spec, CallSpec)
    assert (spec.purpose, spec.model) == ("plan", PLANNER)
    assert ended is planned
    assert (planned.plan is None) == (case in ("prose", "failed"))
    assert (planned.error is None) == (case != "failed")
    assert (planned.usage is None) == (case == "failed")


@pytest.mark.parametrize("face", FACES)
def test_a_call_that_is_not_made(provider: FakeProvider, face: str) -> None:
    watch = Watch()
    with stack(provider) as on:
        assert ask(on, planner(on, max_usd="0.000000001"), face, watch).plan is None
    assert watch.told == []
    assert provider.requests == []


async def test_a_call_that_is_cancelled(provider: FakeProvider) -> None:
    provider.script(hang_before_headers())
    watch = Watch()
    with stack(provider) as on:
        made = planner(on).aplan("x", Aggregation(), task_key="t", request_id="r", watch=watch)
        task = asyncio.create_task(made)
        assert await asyncio.to_thread(provider.wait_until, lambda p: len(p.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    _, ended = watch.told
    assert isinstance(ended, Planned)
    assert isinstance(ended.error, asyncio.CancelledError)
    assert ended.cost is None


def test_nobody_needs_to_watch(provider: FakeProvider) -> None:
    provider.reply = plans(CREATIVE.to_json())
    with stack(provider) as on:
        assert [ask(on, planner(on), face, None).plan for face in FACES] == [CREATIVE] * 2
