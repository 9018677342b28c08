"""What holds for everything called inside a block (an agent's step, a tool with models of its own): budgets, and whose call it is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.money import Budget


@dataclass(kw_only=True)
class Spending:
    """A block with budgets of its own, while it runs.

    Attributes:
        budgets: name to budget.
        ledger: where they are counted; None is wherever each call is.
        refusal: the last call that did not fit under one of them.
    """

    budgets: Mapping[str, Budget]
    ledger: object = None
    refusal: BudgetExceeded | None = field(default=None)

    def owns(self, exc: BudgetExceeded) -> bool:
        """Whether one of these budgets refused; a scope is a name, or a name with the window of a period."""
        return exc.scope in self.budgets or exc.scope.rpartition("@")[0] in self.budgets


_blocks: ContextVar[tuple[Spending, ...]] = ContextVar("selfreg_budgets", default=())


def ambient_budgets(ledger: object = None) -> Mapping[str, Budget]:
    """Name to budget, as set around the caller; a paid call must fit under all of them.

    Args:
        ledger: where the call will be counted; None does not look.

    Raises:
        ConfigError: a budget is counted elsewhere, or two blocks disagree on its period.
    """
    found: dict[str, Budget] = {}
    for block in _blocks.get():
        for name, budget in block.budgets.items():
            if ledger is not None and block.ledger is not None and ledger is not block.ledger:
                raise ConfigError(
                    f"budget {name!r} is counted in another store than the model's calls: give both the same store="
                )
            known = found.get(name, budget)
            if known.period != budget.period:
                raise ConfigError(f"budget {name!r} is given as '{known}' and as '{budget}': give one of them")
            found[name] = min(known, budget, key=lambda one: one.cap)
    return found


@contextmanager
def noting_refusals() -> Iterator[None]:
    """Tell the blocks around the caller of a call that did not fit, in case somebody between swallows the error."""
    try:
        yield
    except BudgetExceeded as exc:
        for block in _blocks.get():
            if block.owns(exc):
                block.refusal = exc
        raise


@contextmanager
def spending_under(budgets: Mapping[str, Budget], *, ledger: object = None) -> Iterator[Spending]:
    """Let every paid call inside the block count under ``budgets`` as well.

    Also in tasks started there, and in threads that take their starter's context along, as those of asyncio and LangChain do
    and a bare ``threading.Thread`` does not.

    Where blocks inside one another name the same budget, the smaller cap holds.

    Args:
        budgets: name to budget.
        ledger: the meter they are counted by; a call that is counted by another one is refused.
    """
    block = Spending(budgets=dict(budgets), ledger=ledger)
    token = _blocks.set((*_blocks.get(), block))
    try:
        yield block
    finally:
        _blocks.reset(token)


_request: ContextVar[str | None] = ContextVar("selfreg_request", default=None)


@contextmanager
def on_behalf_of(request_id: str) -> Iterator[None]:
    """Let paid calls inside the block that name no request of their own stand under ``request_id`` in the ledger."""
    token = _request.set(request_id)
    try:
        yield
    finally:
        _request.reset(token)


def request_id_here() -> str:
    """That of the block around the caller; without one, a new one."""
    return _request.get() or uuid.uuid4().hex
