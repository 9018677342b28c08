"""Where the facts of a request come from: the store, or a planning call.

Plans are made once per task, however many requests, threads and event loops ask for it at the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import Any, cast

from policies import Aggregation, DecodingParams, Facts, PlanFact, TaskKey, task_key
from policies.numbers import numbers
from selfreg_sdk.ambient import request_id_here
from selfreg_sdk.booking import CallSpec
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.payload import Payload
from selfreg_sdk.planner import Planned, Planner, PlanWatch, provenance
from selfreg_sdk.store.configs import ConfigRecord, Configs
from selfreg_sdk.versions import plan_fact, tuned_fact, tuned_key, tuned_task
from selfreg_sdk.wire.replies import content_text

_SECONDS_BETWEEN_FAILED_PLANS = 300.0
_LONGEST_WAIT_FOR_A_PLAN = 60.0
_MOST_TASKS = 4096
_INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for, before decoding is decided.

    Attributes:
        body: the wire payload without decoding parameters: model, messages, tools. Kept as a `Payload`.
        caller: explicit decoding arguments; they win.
        task: the caller's name for the task.
        aggregation: how samples are used.
        open: the caller insists on neither an aggregation nor a number of samples: a tuned configuration brings its own.
        plannable: a planning call may be made; not for forced tools or response formats.
        config_version: use this stored version of the task's configuration; None the one in production.
        watch: is told of a planning call made for this request.
        id: shared by every ledger row of this request.
    """

    body: Mapping[str, Any]
    caller: DecodingParams = DecodingParams()
    task: str | None = None
    aggregation: Aggregation = Aggregation()
    open: bool = False
    plannable: bool = True
    config_version: int | None = None
    watch: PlanWatch | None = field(default=None, compare=False, repr=False)
    id: str = field(default_factory=request_id_here)

    def __post_init__(self) -> None:
        if not isinstance(self.body, Payload):
            object.__setattr__(self, "body", Payload(self.body))

    @property
    def payload(self) -> Payload:
        """The body, as what it is kept as."""
        return cast(Payload, self.body)

    @property
    def template(self) -> tuple[tuple[str, str], ...]:
        """(role, text) of the messages that tell the task: instructions, else the first user turn."""
        return tuple(self._turns(*_INSTRUCTIONS)) or tuple(islice(self._turns("user"), 1))

    @property
    def text(self) -> str:
        """What a planner is shown: instructions and the last user turn."""
        instructions = [text for _, text in self._turns(*_INSTRUCTIONS)]
        last = islice(self._turns("user", latest_first=True), 1)
        return "\n\n".join([*instructions, *(text for _, text in last)])

    def _turns(self, *roles: str, latest_first: bool = False) -> Iterator[tuple[str, str]]:
        """(role, text) of the messages of some roles."""
        messages = self.body.get("messages") or ()
        for message in reversed(messages) if latest_first else messages:
            if message.get("role") in roles:
                yield message["role"], content_text(message.get("content")) or ""


class FactFinder:
    """Looks up what a policy wants to know.

    Args:
        model: the answering model.
        configs: stored configurations.
        planner: makes plans; None to never plan.
        most: samples that a tuned configuration may take; 1, which is what nobody says, allows what was tuned.
    """

    def __init__(self, *, model: str, configs: Configs, planner: Planner | None, most: int = 1) -> None:
        self.model = model
        self.planner = planner
        self._configs = configs
        self._most = most
        self._flights: dict[str, Future[PlanFact | None]] = {}
        self._lock = Lock()
        self._no_plan_before: dict[str, float] = {}
        self._read: dict[tuple[str, str], tuple[ConfigRecord | None, Facts]] = {}
        self._tuned: dict[str, tuple[ConfigRecord, Facts | None]] = {}
        self._pinned: dict[int, ConfigRecord] = {}

    def tuned(self, request: Request) -> Facts | None:
        """The facts of a request that leaves the number of samples open, where a configuration was tuned with one."""
        key = self._tuned_key(request)
        return None if key is None else self._tuned_facts(request, self._configs.current(key))

    async def atuned(self, request: Request) -> Facts | None:
        """`tuned` for asyncio, as `arecall`."""
        key = self._tuned_key(request)
        return None if key is None else self._tuned_facts(request, await self._configs.acurrent(key))

    def _tuned_key(self, request: Request) -> str | None:
        if request.task is None or not request.open or request.config_version is not None:
            return None
        return tuned_key(request.task, self.model)

    def _tuned_facts(self, request: Request, stored: ConfigRecord | None) -> Facts | None:
        if stored is None or stored.provenance.get("cascade") is not None:  # which one model cannot run
            return None
        known = self._tuned.get(stored.task_key)
        if known is None or known[0] is not stored:
            key = tuned_task(stored, model=self.model, named=request.task, asked=None, most=self._most)
            known = stored, None if key is None else self._facts(key, stored)
            if len(self._tuned) >= _MOST_TASKS:
                self._tuned.clear()
            self._tuned[stored.task_key] = known
        return known[1]

    def recall(self, request: Request) -> Facts:
        """The facts the store holds; the plan stays unknown if none is stored.

        Raises:
            ConfigError: the task name is not usable, or the version asked for is of another task.
        """
        if request.config_version is not None:
            return self._facts(*self._version(request, request.config_version))
        key = self._key(request)
        return self._facts(key, self._configs.current(key.text))

    async def arecall(self, request: Request) -> Facts:
        """`recall` for asyncio: without a thread where the facts are remembered. The same facts are the same object."""
        if request.config_version in self._pinned:
            return self.recall(request)
        if request.config_version is not None:
            return await asyncio.to_thread(self.recall, request)
        key = self._key(request)
        return self._facts(key, await self._configs.acurrent(key.text))

    def _key(self, request: Request) -> TaskKey:
        try:
            if request.task is not None:
                return _named(request.task, self.model, request.aggregation)
            return task_key(name=None, messages=request.template, model=self.model, aggregation=request.aggregation)
        except ValueError as exc:
            raise ConfigError(str(exc)) from None

    def _version(self, request: Request, version: int) -> tuple[TaskKey, ConfigRecord]:
        """A stored version of a task; versions never change, so each is read once."""
        stored = self._pinned.get(version)
        if stored is None:
            if len(self._pinned) >= _MOST_TASKS:
                self._pinned.clear()
            self._pinned[version] = stored = self._configs.get(version)
        asked = None if request.open else request.aggregation
        tuned = tuned_task(stored, model=self.model, named=request.task, asked=asked, most=self._most)
        if tuned is not None:
            return tuned, stored
        if stored.task_key != (key := self._key(request)).text:
            raise ConfigError(f"config version {version!r} belongs to task {stored.task_key!r}, not to {key.text!r}")
        return key, stored

    def _facts(self, key: TaskKey, stored: ConfigRecord | None) -> Facts:
        """What a stored version says, read once."""
        source = "" if stored is None else stored.task_key
        known = self._read.get((key.text, source))
        if known is not None and known[0] is stored:
            return known[1]
        facts = Facts(task=key).learn("server_heads", False)
        # A version tuned with its number of samples runs with the one that is asked for.
        n = None if source == key.text else key.aggregation.n
        facts = facts.learn("tuned_config", tuned_fact(stored, n=n))
        if (plan := plan_fact(stored)) is not None:
            facts = facts.learn("plan", plan)
        if len(self._read) >= _MOST_TASKS:
            self._read.clear()
        self._read[key.text, source] = stored, facts
        return facts

    def may_plan(self, request: Request) -> bool:
        """Whether a request without a stored plan leads to a planning call, unless its task rests."""
        return self.planner is not None and request.plannable

    def rests(self, key: TaskKey) -> bool:
        """Whether the task is not planned for now, because that failed a short while ago."""
        return time.monotonic() < self._no_plan_before.get(key.text, 0.0)

    def spec(self, request: Request, key: TaskKey) -> CallSpec | None:
        """The planning call that would be made, or None."""
        if self.planner is None:
            return None
        return self.planner.spec(request.text, request.aggregation, task_key=key.text, request_id=request.id)

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
                planned = planner.plan(
                    request.text,
                    request.aggregation,
                    task_key=key.text,
                    request_id=request.id,
                    watch=request.watch,
                )
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
                    request.text,
                    request.aggregation,
                    task_key=key.text,
                    request_id=request.id,
                    watch=request.watch,
                )
                fact = await asyncio.to_thread(self._keep, planner, request, key, planned)
        finally:
            self._land(key, flight, fact, failed=planned is not None and fact is None)
        return fact, planned

    def _board(self, request: Request, key: TaskKey) -> tuple[Planner | None, Future[PlanFact | None], bool]:
        """Join the planning of a task: the planner, the flight, and whether this caller makes the call."""
        with self._lock:
            running = self._flights.get(key.text)
            if running is not None:
                return self.planner, running, False
            flight: Future[PlanFact | None] = Future()
            if self.planner is None or not request.plannable or self.rests(key):
                return None, flight, False
            self._flights[key.text] = flight
            return self.planner, flight, True

    def _land(self, key: TaskKey, flight: Future[PlanFact | None], fact: PlanFact | None, *, failed: bool) -> None:
        """Let the waiting requests go on. A task whose planning failed is not planned again for a while.

        A cancelled request says nothing about the task: the next one plans it.
        """
        with self._lock:
            self._flights.pop(key.text, None)
            if failed:
                now = time.monotonic()
                if len(self._no_plan_before) >= _MOST_TASKS:
                    self._no_plan_before = {k: until for k, until in self._no_plan_before.items() if until > now}
                self._no_plan_before[key.text] = now + _SECONDS_BETWEEN_FAILED_PLANS
        flight.set_result(fact)

    def _stored_plan(self, key: TaskKey) -> PlanFact | None:
        return plan_fact(self._configs.latest(key.text))

    def _keep(self, planner: Planner, request: Request, key: TaskKey, planned: Planned) -> PlanFact | None:
        """Store the plan as a version of the task's configuration, and let production point at it."""
        if planned.plan is None:
            return None
        version = self._configs.add_version(
            ConfigRecord(
                task_key=key.text,
                model=self.model,
                aggregation=str(key.aggregation),
                params=numbers(planned.plan, request.aggregation).model_dump(mode="json", exclude_none=True),
                plan=planned.plan.as_dict(),
                provenance=provenance(planned, planner=planner.model, request_id=request.id),
                cost_usd=planned.cost,
            )
        )
        self._configs.point(key.text, "production", version)
        self._configs.current(key.text)  # remembered from here on
        return PlanFact(plan=planned.plan, cached=False, config_version=version)


@lru_cache(maxsize=_MOST_TASKS)
def _named(name: str, model: str, aggregation: Aggregation) -> TaskKey:
    """The key of a task that has a name."""
    return task_key(name=name, messages=(), model=model, aggregation=aggregation)


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
