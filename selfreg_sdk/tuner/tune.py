"""Tuning: from a task and a budget to the configuration to use, by way of a study that anybody can take up again.

Every worker of a study runs the same search. What it asks for is bought once, by whoever comes first, and found by all others;
so a search that was broken off is run again from its beginning, and pays for nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any, ParamSpec

from pydantic import SecretStr

from selfreg_sdk.ambient import spending_under
from selfreg_sdk.calls import Retry
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.money import Budget
from selfreg_sdk.prices import Prices
from selfreg_sdk.tuner.journal.doors import SpaceNarrowed
from selfreg_sdk.tuner.measuring.evaluate import aevaluate_each
from selfreg_sdk.tuner.measuring.measured import Measured
from selfreg_sdk.tuner.measuring.verdict import Verdict, verdict
from selfreg_sdk.tuner.scoring.scoring import Scorer
from selfreg_sdk.tuner.study.cascade_check import CheckedCascade, acheck_cascade
from selfreg_sdk.tuner.study.eco_run import EcoRun
from selfreg_sdk.tuner.study.plan import AnyTask, plan
from selfreg_sdk.tuner.study.pool_run import PoolRun
from selfreg_sdk.tuner.study.quote import quoted
from selfreg_sdk.tuner.study.results import Advice, Candidate, Progress, Quote, Tuned
from selfreg_sdk.tuner.study.saving import outcome_of, save_cascade, save_versions
from selfreg_sdk.tuner.study.searched import Searched
from selfreg_sdk.tuner.study.session import KEPT, Access, Session, scope_of
from selfreg_sdk.tuner.study.task_scoring import span_of
from selfreg_sdk.tuner.study.watch import Watch
from selfreg_sdk.tuner.task.spec import Method

__all__ = ["Candidate", "Progress", "Quote", "Tuned", "atune", "dry_run", "tune"]

P = ParamSpec("P")

Amount = str | int | Decimal


async def atune(
    task: AnyTask,
    *,
    store: str | Path | None = None,
    budget: Amount | None = None,
    inference_budget: Amount | None = None,
    method: Method | None = None,
    seed: int | None = None,
    workers: int | None = None,
    resume: bool | None = None,
    name: str | None = None,
    scorer: Scorer | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    save: bool = True,
    base_url: str | None = None,
    api_key: str | SecretStr | None = None,
    prices: Prices | Path | None = None,
    server: str | None = None,
    retry: Retry = Retry(),
) -> Tuned:
    """Find the configuration of a task with the best expected score within a mean cost per request.

    Spends at most ``budget``, by all workers together, never a cent over. A part of it is set aside to compare the winner with the
    baseline on held-out examples (`Plan.aside`); only a winner that is ahead there goes into production. Call it again, here or
    elsewhere on the same store, to go on with a study that was broken off, or to help with one that runs; of a finished
    study the same is returned at no cost.

    Args:
        task: a task file, what `load_task` made of it, or a mapping of the same shape.
        store: where the study is kept, and the result; None is `ChatSelfReg`'s.
        budget: USD for everything, like "0.30 USD"; the task's if None.
        inference_budget: USD that a request may cost on average. Method "pool" does without: then a request may cost anything.
        method, seed, workers: in place of the task's. A study that was begun keeps its number of workers.
        resume: True requires a study that was begun, False refuses one; None takes what there is.
        name: of the study; None is the task's.
        scorer: a function of answer and example in place of the task's scorer.
        on_progress: called on the event loop as results come in.
        save: add the best versions to the store, and put the winner into production if it is to be used.
        base_url, api_key, prices, server, retry: as in `ChatSelfReg`; the task's, and the settings', where None.

    Raises:
        ConfigError: something given cannot work, or the study was begun with something else; nothing was sent.
        ProviderError: an endpoint is out of reach; the study is kept.
    """
    access = Access(store=store, base_url=base_url, api_key=api_key, prices=prices, server=server, retry=retry)

    def begin() -> Session:
        planned = plan(
            task,
            budget=budget,
            inference_budget=inference_budget,
            method=method,
            seed=seed,
            workers=workers,
            name=name,
            scorer=scorer,
        )
        session = Session.open(planned, access, resume=resume)
        session.begin()
        return session

    session = await asyncio.to_thread(begin)
    try:
        with session.explained():
            return await _Tuning(session, Watch(session.plan.total, on_progress), save=save).run()
    except BaseException:
        await asyncio.shield(asyncio.to_thread(session.stop))
        raise
    finally:
        await session.aclose()


def _blocking(call: Callable[P, Coroutine[Any, Any, Tuned]]) -> Callable[P, Tuned]:
    @functools.wraps(call)
    def run(*args: P.args, **given: P.kwargs) -> Tuned:
        running = False
        with contextlib.suppress(RuntimeError):
            running = asyncio.get_running_loop() is not None
        if running:
            raise ConfigError("tune() cannot run where an event loop runs already; write 'await atune(...)' there")
        try:
            return asyncio.run(call(*args, **given))
        except KeyboardInterrupt as stop:
            stop.add_note(KEPT)
            raise

    run.__name__ = run.__qualname__ = "tune"
    return run


tune = _blocking(atune)
"""`atune` for programs without an event loop; ConfigError where one runs. After Ctrl-C the study is kept."""


def dry_run(
    task: AnyTask,
    *,
    store: str | Path | None = None,
    budget: Amount | None = None,
    inference_budget: Amount | None = None,
    method: Method | None = None,
    seed: int | None = None,
    workers: int | None = None,
    name: str | None = None,
    scorer: Scorer | None = None,
    base_url: str | None = None,
    prices: Prices | Path | None = None,
    server: str | None = None,
) -> Quote:
    """What `atune` would do with these arguments, and cost at most. Sends nothing and begins no study.

    Raises:
        ConfigError: something given cannot work.
    """
    planned = plan(
        task,
        budget=budget,
        inference_budget=inference_budget,
        method=method,
        seed=seed,
        workers=workers,
        name=name,
        scorer=scorer,
    )
    return quoted(planned, Access(store=store, base_url=base_url, prices=prices, server=server))


class _Tuning:
    """One pass of one worker through a study."""

    def __init__(self, session: Session, watch: Watch, *, save: bool) -> None:
        self._session, self._plan, self._watch, self._save = session, session.plan, watch, save

    async def run(self) -> Tuned:
        """Search, check, save."""
        while True:
            try:
                searched = await self._searched()
                winner, baseline = await self._measured(searched)
                cascade = await self._cascade(searched, winner, baseline)
                break
            except SpaceNarrowed:
                # What the model refuses is known now; what was bought before is found in the journal.
                await asyncio.to_thread(self._session.doors.relearn)
        tuned = await asyncio.to_thread(self._concluded, searched, winner, baseline, cascade)
        self._watch.done(tuned)
        return tuned

    async def _searched(self) -> Searched:
        session, plan = self._session, self._plan
        # A hard cap of its own: whatever is in flight, the search leaves what is set aside for the check.
        cap = {f"{scope_of(plan.study)}:search": Budget(cap=plan.search_total)} if plan.aside else {}
        with spending_under(cap, ledger=session.shared.meter):
            if plan.method == "pool":
                run = await asyncio.to_thread(PoolRun, plan, session.journal, session.doors, session.scoring)
                return await run.run(self._watch)
            return await EcoRun(plan, session.journal, session.doors).run(self._watch)

    async def _measured(self, searched: Searched) -> tuple[Measured | None, Measured | None]:
        """Winner and baseline on the held-out examples."""
        plan, winner = self._plan, searched.winner
        if winner is None or not plan.held_out:
            return None, None
        configs = [winner.config, plan.baseline]
        measured = await aevaluate_each(
            configs if self._differ(winner) else configs[1:],
            plan.held_out,
            plan.task.prompts,
            self._session.journal,
            plan.metric,
            span=span_of(plan.task, plan.scorer),
            parallel=plan.workers,
            limit=None if searched.spent is None else plan.total - searched.spent,
            on_progress=self._watch.checking,
        )
        return measured[0], measured[-1]

    async def _cascade(
        self, searched: Searched, winner: Measured | None, baseline: Measured | None
    ) -> CheckedCascade | None:
        """The cascade that the search led to, beside the winner on the held-out examples."""
        if searched.cascade is None or winner is None or baseline is None:
            return None
        plan, known = self._plan, [winner] if winner is baseline else [winner, baseline]
        left = plan.total - (searched.spent or Decimal(0)) - sum((each.spent for each in known), Decimal(0))
        return await acheck_cascade(
            searched.cascade,
            plan,
            winner,
            self._session.journal,
            limit=left,
            on_progress=lambda measured: self._watch.checking((*known, measured)),
        )

    def _differ(self, winner: Candidate) -> bool:
        """Whether another request is sent for the winner than for the baseline."""
        door = self._session.doors[self._plan.baseline["model"]]
        return {**self._plan.baseline, **door.compiled(self._plan.baseline).sent.as_dict()} != winner.config

    def _concluded(
        self,
        searched: Searched,
        winner: Measured | None,
        baseline: Measured | None,
        cascade: CheckedCascade | None,
    ) -> Tuned:
        """The verdict, in the store."""
        plan, session = self._plan, self._session
        advice, reason, checked = self._advice(searched, winner, baseline)
        spent, versions = session.spent, {}
        finished = session.finished
        if self._save and searched.winner is not None:
            versions = save_versions(
                session.shared.configs,
                plan,
                endpoint=session.endpoint,
                winner=searched.winner,
                per_model=searched.per_model,
                checked=None if checked is None else checked.checked,
                spent=spent,
                # Whoever moved a pointer since a study ended had a reason.
                use=advice == "use the winner" and not finished,
            )
        if cascade is not None and cascade.used and baseline is not None:
            found = verdict(cascade.measured, baseline, plan.inference_budget, seed=plan.spec.seed)
            advice, reason, checked = found.advice, f"The winner is a cascade, {cascade}. {found.reason}", found
            if self._save:
                save_cascade(
                    session.shared.configs,
                    plan,
                    endpoint=session.endpoint,
                    cascade=cascade,
                    checked=found.checked,
                    spent=spent,
                    use=advice == "use the winner" and not finished,
                )
        tuned = Tuned(
            study=plan.study,
            task=plan.spec.name,
            method=plan.method,
            verdict=advice,
            reason=reason,
            winner=searched.winner,
            measured=winner,
            baseline=baseline,
            checked=None if checked is None else checked.checked,
            frontier=searched.frontier,
            per_model=searched.per_model,
            versions=versions,
            spent=spent,
            total=plan.total,
            ending=searched.ending,
            configurations=searched.configurations,
            trials=searched.trials,
            notes=(*plan.notes, *searched.notes),
            cascade=cascade,
        )
        session.finish(outcome_of(tuned))
        return tuned

    def _advice(
        self, searched: Searched, winner: Measured | None, baseline: Measured | None
    ) -> tuple[Advice, str, Verdict | None]:
        plan = self._plan
        if searched.winner is None:
            if plan.inference_budget is None:
                return "nothing fits", "No answer was scored, so there is nothing to choose from.", None
            least = "No configuration is known to keep the budget of a request"
            return "nothing fits", f"{least}, {plan.inference_budget} USD; raise it, or add cheaper models.", None
        if winner is None or baseline is None:
            return "use the winner", "No example was held out, so nothing shows that it beats the baseline.", None
        if not self._differ(searched.winner):
            return "keep the baseline", "The best configuration found is the baseline.", None
        found = verdict(winner, baseline, plan.inference_budget, seed=plan.spec.seed)
        return found.advice, found.reason, found
