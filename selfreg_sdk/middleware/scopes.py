"""Who pays for an agent's step: its run, its thread, its user; and how much is left of that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from langgraph.runtime import Runtime as GraphRuntime

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.meter import Meter
from selfreg_sdk.middleware.steps import run_config
from selfreg_sdk.money import Budget, usd

_log = logging.getLogger(__name__)

_RECENT = 10.0
"""Seconds for which what this process saw of a budget is good enough to go by; the reservation decides anyway."""

UserOf = Callable[[GraphRuntime[Any]], str | None]


@dataclass(frozen=True, kw_only=True)
class Caps:
    """The caps of an agent.

    Attributes:
        run, thread, user: None where there is no cap.
        user_of: names the user of a run.
        prefix: set before the names of budgets, so that agents with one store can have budgets of their own.
    """

    run: Budget | None
    thread: Budget | None
    user: Budget | None
    user_of: UserOf
    prefix: str

    def __post_init__(self) -> None:
        if self.run is None and self.thread is None and self.user is None:
            raise ConfigError("give at least one cap: run=, thread= or user=, like user='5 USD/day'")

    def budgets(self, run_id: str, runtime: GraphRuntime[Any]) -> dict[str, Budget]:
        """Name to budget for one step of one run.

        Raises:
            ConfigError: a cap for a thread or user that nobody named.
        """
        found: dict[str, Budget] = {}
        if self.run is not None:
            found[f"{self.prefix}run/{run_id}"] = self.run
        if self.thread is not None:
            thread = (run_config().get("configurable") or {}).get("thread_id")
            if not thread:
                raise ConfigError(
                    f"thread='{self.thread}' needs to know the thread: "
                    "pass config={'configurable': {'thread_id': ...}}"
                )
            found[f"{self.prefix}thread/{thread}"] = self.thread
        if self.user is not None:
            user = self.user_of(runtime)
            if not user:
                raise ConfigError(
                    f"user='{self.user}' needs to know the user: pass user_of=<function from Runtime to id>, "
                    "a context with user_id, or config={'configurable': {'user_id': ...}}"
                )
            found[f"{self.prefix}user/{user}"] = self.user
        return found


def usual_user(runtime: GraphRuntime[Any]) -> str | None:
    """``user_id`` of the runtime's context, else of the config, else whom LangGraph's server has authenticated."""
    context = getattr(runtime, "context", None)
    named = context.get("user_id") if isinstance(context, Mapping) else getattr(context, "user_id", None)
    configured = run_config().get("configurable") or {}
    user = named or configured.get("user_id") or configured.get("langgraph_auth_user_id")
    return None if user is None else str(user)


def doubtful(meter: Meter, budgets: Mapping[str, Budget]) -> dict[str, tuple[str, Budget]]:
    """Scope to name and budget, where the ledger has to be asked for what is left; nothing where there is known to be some."""
    now = datetime.now(UTC)
    scopes = {budget.scope_key(name, now): (name, budget) for name, budget in budgets.items()}
    room = meter.room({scope: budget.cap for scope, (_, budget) in scopes.items()}, within=_RECENT)
    return {} if room is not None and room > 0 else scopes


def used_up(meter: Meter, scopes: Mapping[str, tuple[str, Budget]]) -> tuple[str, Budget] | None:
    """The first budget that has no money for another call at all; reads the database."""
    return next(
        (scopes[status.scope] for status in meter.status(scopes) if status.spent >= scopes[status.scope][1].cap), None
    )


class SoftLimit:
    """Tells once per budget that a part of it is used.

    Args:
        part: of the cap, above 0 and at most 1.
        tell: receives the budget's name, and USD used and capped.

    Raises:
        ConfigError: the part is none.
    """

    _MOST = 10_000
    """Budgets remembered as told; every run has one of its own."""

    def __init__(self, part: str | Decimal, tell: Callable[[str, Decimal, Decimal], None]) -> None:
        self._part = usd(part)
        if not 0 < self._part <= 1:
            raise ConfigError(f"soft={part!r} must be above 0 and at most 1, a part of each cap")
        self._tell = tell
        self._told: dict[str, None] = {}

    def look(self, meter: Meter, budgets: Mapping[str, Budget]) -> None:
        """Tell of those that have reached it, by what this process has seen; costs no look at the database.

        Errors of the receiver are logged, not raised: the answer is paid for.
        """
        now = datetime.now(UTC)
        for name, budget in budgets.items():
            scope = budget.scope_key(name, now)
            left = meter.room({scope: budget.cap}, within=_RECENT)
            if scope in self._told or left is None or budget.cap - left < budget.cap * self._part:
                continue
            while len(self._told) >= self._MOST:
                self._told.pop(next(iter(self._told)), None)
            self._told[scope] = None
            try:
                self._tell(name, budget.cap - left, budget.cap)
            except Exception:
                _log.exception("the soft limit of budget %r could not be reported", name)
