"""Where the facts of a request come from: the store, or a planning call.

Plans are made once per task, however many requests, threads and event loops ask for it at the same time.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from policies import (
    Aggregation,
    DecodingParams,
    Facts,
    Plan,
    PlanFact,
    TaskKey,
    TunedFact,
    parse_params,
    task_key,
)
from policies.numbers import numbers
from selfreg_sdk.booking import CallSpec
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.planner import Planned, Planner, provenance
from selfreg_sdk.store.configs import ConfigRecord, Configs

_SECONDS_BETWEEN_FAILED_PLANS = 300.0
_LONGEST_WAIT_FOR_A_PLAN = 60.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for, before decoding is decided.

    Attributes:
        turns: (role, text) of every message.
        body: the wire payload without decoding parameters: model, messages, tools.
        caller: explicit decoding arguments; they win.
        task: the caller's name for the task.
        aggregation: how samples are used.
        plannable: a planning call may be made; not for forced tools or response formats.
        id: shared by every ledger row of this request.
    """

    turns: tuple[tuple[str, str], ...]
    body: Mapping[str, Any]
    caller: DecodingParams = DecodingParams()
    task: str | None = None
    aggregation: Aggregation = Aggregation()
    plannable: bool = True
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def text(self) -> str:
        """What a planner is shown: instructions and the last user turn."""
        system = [text for role, text in self.turns if role == "system"]
        user = [text for role, text in self.turns if role == "user"]
        return "\n\n".join([*system, *user[-1:]])


class FactFinder:
    """Looks up what a policy wants to know.

    Args:
        model: the answering model.
        configs: stored configurations.
        planner: makes plans; None to never plan.
    """

    def __init__(self, *, model: str, configs: Configs, planner: Planner | None) -> None:
        self.model = model
        self.planner = planner
        self._configs = configs
        self._flights: dict[str, Future[PlanFact | None]] = {}
        self._lock = Lock()
        self._no_plan_before: dict[str, float] = {}

    def recall(self, request: Request) -> Facts:
        """The facts the store holds; the plan stays unknown if none is stored.

        Raises:
            ConfigError: the task name is not usable.
        """
        try:
            key = task_key(name=request.task, messages=request.turns, model=self.model, aggregation=request.aggregation)
        except ValueError as exc:
            raise ConfigError(str(exc)) from None
        stored = self._configs.current(str(key))
        facts = Facts(task=key).learn("server_heads", False)
        facts = facts.learn("tuned_config", _tuned_fact(stored))
        plan = _plan_fact(stored)
        return facts if plan is None else facts.learn("plan", plan)

    def may_plan(self, request: Request) -> bool:
        """Whether a request without a stored plan leads to a planning call."""
        return self.planner is not None and request.plannable

    def spec(self, request: Request, key: TaskKey) -> CallSpec | None:
        """The planning call that would be made, or None."""
        if self.planner is None:
            return None
        return self.planner.spec(request.text, request.aggregation, task_key=str(key), request_id=request.id)

    def plan(self, request: Request, key: TaskKey) -> tuple[PlanFact | None, Planned | None]:
        """A plan for the task, and the planning call if this request made it."""
        planner, flight, leader = self._board(request, key)
        if planner is None:
            return None, None
        if not leader:
            return _waited(flight), None
        fact, planned = None, None
        try:
            # Another request may have stored a plan since this one looked.
            fact = self._stored_plan(key)
            if fact is None:
                planned = planner.plan(request.text, request.aggregation, task_key=str(key), request_id=request.id)
                fact = self._keep(planner, request, key, planned)
        finally:
            self._land(key, flight, fact, failed=planned is not None and fact is None)
        return fact, planned

    async def aplan(self, request: Request, key: TaskKey) -> tuple[PlanFact | None, Planned | None]:
        """`plan` for asyncio."""
        planner, flight, leader = self._board(request, key)
        if planner is None:
            return None, None
        if not leader:
            return _as_cached(await asyncio.shield(asyncio.wrap_future(flight))), None
        fact, planned = None, None
        try:
            fact = await asyncio.to_thread(self._stored_plan, key)
            if fact is None:
                planned = await planner.aplan(
                    request.text, request.aggregation, task_key=str(key), request_id=request.id
                )
                fact = await asyncio.to_thread(self._keep, planner, request, key, planned)
        finally:
            self._land(key, flight, fact, failed=planned is not None and fact is None)
        return fact, planned

    def _board(self, request: Request, key: TaskKey) -> tuple[Planner | None, Future[PlanFact | None], bool]:
        """Join the planning of a task: the planner, the flight, and whether this caller makes the call."""
        with self._lock:
            running = self._flights.get(str(key))
            if running is not None:
                return self.planner, running, False
            flight: Future[PlanFact | None] = Future()
            resting = time.monotonic() < self._no_plan_before.get(str(key), 0.0)
            if self.planner is None or not request.plannable or resting:
                return None, flight, False
            self._flights[str(key)] = flight
            return self.planner, flight, True

    def _land(self, key: TaskKey, flight: Future[PlanFact | None], fact: PlanFact | None, *, failed: bool) -> None:
        """Let the waiting requests go on. A task whose planning failed is not planned again for a while.

        A cancelled request says nothing about the task: the next one plans it.
        """
        with self._lock:
            self._flights.pop(str(key), None)
            if failed:
                self._no_plan_before[str(key)] = time.monotonic() + _SECONDS_BETWEEN_FAILED_PLANS
        flight.set_result(fact)

    def _stored_plan(self, key: TaskKey) -> PlanFact | None:
        return _plan_fact(self._configs.current(str(key)))

    def _keep(self, planner: Planner, request: Request, key: TaskKey, planned: Planned) -> PlanFact | None:
        """Store the plan as a version of the task's configuration, and let production point at it."""
        if planned.plan is None:
            return None
        version = self._configs.add_version(
            ConfigRecord(
                task_key=str(key),
                model=self.model,
                aggregation=str(key.aggregation),
                params=numbers(planned.plan, request.aggregation).model_dump(mode="json", exclude_none=True),
                plan=planned.plan.as_dict(),
                provenance=provenance(planned, planner=planner.model, request_id=request.id),
                cost_usd=planned.cost,
            )
        )
        self._configs.point(str(key), "production", version)
        return PlanFact(plan=planned.plan, cached=False, config_version=version)


def _waited(flight: Future[PlanFact | None]) -> PlanFact | None:
    """Wait for another request's plan, unless waiting would block the event loop that may be making it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        timeout = _LONGEST_WAIT_FOR_A_PLAN
    else:
        timeout = 0.0
    try:
        return _as_cached(flight.result(timeout=timeout))
    except TimeoutError:
        return None


def _as_cached(fact: PlanFact | None) -> PlanFact | None:
    return None if fact is None else replace(fact, cached=True)


def _plan_fact(stored: ConfigRecord | None) -> PlanFact | None:
    """The stored plan; None if the row does not hold one this version understands, so that it is planned anew."""
    if stored is None or not _planned(stored):
        return None
    try:
        return PlanFact(plan=Plan(**(stored.plan or {})), cached=True, config_version=stored.id)
    except (TypeError, ValueError):
        return None


def _tuned_fact(stored: ConfigRecord | None) -> TunedFact | None:
    if stored is None or _planned(stored):
        return None
    try:
        return TunedFact(params=parse_params(stored.params), config_version=stored.id or 0)
    except ValueError:
        return None


def _planned(stored: ConfigRecord) -> bool:
    return stored.provenance.get("kind") == "planned"
