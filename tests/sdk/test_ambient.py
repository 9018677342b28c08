"""Budgets around a block: which of them hold for a call, and who is told when one does not fit."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from decimal import Decimal
from threading import Thread

import pytest

from selfreg_sdk.ambient import ambient_budgets, noting_refusals, spending_under
from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.money import Budget

SMALL, LARGE = Budget.parse("1 USD"), Budget.parse("5 USD")


def refusal(scope: str) -> BudgetExceeded:
    return BudgetExceeded(scope=scope, cap=Decimal(1), spent=Decimal(1), held=Decimal(0), wanted=Decimal(1))


def test_outside_a_block_there_is_nothing() -> None:
    assert ambient_budgets() == {}
    with spending_under({"a": SMALL}):
        assert ambient_budgets() == {"a": SMALL}
    assert ambient_budgets() == {}


def test_a_block_that_fails_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), spending_under({"a": SMALL}):
        _ = 1 / 0
    assert ambient_budgets() == {}


@pytest.mark.parametrize(("outer", "inner"), [(SMALL, LARGE), (LARGE, SMALL)])
def test_no_inner_block_raises_a_cap(outer: Budget, inner: Budget) -> None:
    with spending_under({"a": outer, "b": LARGE}), spending_under({"a": inner}):
        assert ambient_budgets() == {"a": SMALL, "b": LARGE}


def test_one_name_with_two_periods_is_a_mistake() -> None:
    with (
        spending_under({"a": SMALL}),
        spending_under({"a": Budget.parse("1 USD/day")}),
        pytest.raises(ConfigError, match="budget 'a' is given as '1 USD' and as '1 USD/day'"),
    ):
        ambient_budgets()


def test_a_call_counted_elsewhere_is_refused() -> None:
    here, there = object(), object()
    with spending_under({"a": SMALL}, ledger=here):
        assert ambient_budgets(here) == ambient_budgets() == {"a": SMALL}
        with pytest.raises(ConfigError, match="budget 'a' is counted in another store"):
            ambient_budgets(there)


def test_threads_and_tasks_started_inside_are_inside() -> None:
    seen = []

    async def task() -> None:
        seen.append(ambient_budgets())
        await asyncio.to_thread(lambda: seen.append(ambient_budgets()))

    async def whole() -> None:
        await asyncio.create_task(task())

    with spending_under({"a": SMALL}):
        asyncio.run(whole())
        thread = Thread(target=copy_context().run, args=(lambda: seen.append(ambient_budgets()),))
        thread.start()
        thread.join()
    assert seen == [{"a": SMALL}] * 3


def test_tasks_side_by_side_do_not_see_each_other() -> None:
    async def one(name: str) -> list[str]:
        with spending_under({name: SMALL}):
            await asyncio.sleep(0.01)
            return list(ambient_budgets())

    async def both() -> list[list[str]]:
        return await asyncio.gather(one("a"), one("b"))

    assert asyncio.run(both()) == [["a"], ["b"]]


def refused(exc: BudgetExceeded) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded), noting_refusals():
        raise exc
    return exc


def test_the_blocks_whose_budget_refused_are_told() -> None:
    with spending_under({"a": SMALL}) as outer, spending_under({"user/x@y.org": Budget.parse("1 USD/day")}) as inner:
        first = refused(refusal("user/x@y.org@2026-11-21"))
        assert (outer.refusal, inner.refusal) == (None, first)
        second = refused(refusal("a"))
        assert (outer.refusal, inner.refusal) == (second, first)
        refused(refusal("of the model itself"))
        assert (outer.refusal, inner.refusal) == (second, first)
