"""Everything that a tuning works with, opened together and closed together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from selfreg_sdk.calls import Retry
from selfreg_sdk.config import Settings, load_settings
from selfreg_sdk.endpoint import endpoint_id
from selfreg_sdk.money import Budget
from selfreg_sdk.prices import Prices
from selfreg_sdk.runtime import Runtime, runtime
from selfreg_sdk.store.studies import Studies, StudyRecord
from selfreg_sdk.tuner.journal.doors import Doors, open_doors
from selfreg_sdk.tuner.journal.priced import Priced
from selfreg_sdk.tuner.scoring.scoring import Scoring
from selfreg_sdk.tuner.study.plan import Plan
from selfreg_sdk.tuner.study.study import open_study
from selfreg_sdk.tuner.study.task_scoring import judge_model, scoring_of


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the models are reached and where the study is kept; None is as `ChatSelfReg` finds it.

    Attributes:
        base_url: in place of the task's.
        prices: in place of the task's.
        server: what is serving, for hosts nobody knows.
    """

    store: str | Path | None = None
    base_url: str | None = None
    api_key: str | SecretStr | None = None
    prices: Prices | Path | None = None
    server: str | None = None
    retry: Retry = Retry()

    def settings(self, plan: Plan) -> Settings:
        """The settings, with what the task and the caller say."""
        return load_settings(
            store=None if self.store is None else str(self.store),
            base_url=self.base_url or plan.spec.base_url,
            api_key=self.api_key,
        )

    def doors(self, plan: Plan, settings: Settings, shared: Runtime) -> Doors:
        """To every model of a task, its judge among them, under the study's cap and the user's own budget."""
        judge = judge_model(plan.task, plan.scorer)
        own = {} if settings.budget is None else {settings.budget_name: settings.budget}
        return open_doors(
            plan.spec.models if judge is None else (*plan.spec.models, judge),
            shared=shared,
            budgets={**own, scope_of(plan.study): Budget(cap=plan.total)},
            prices=self._prices(plan, settings),
            settings=settings,
            server=self.server,
            retry=self.retry,
        )

    def _prices(self, plan: Plan, settings: Settings) -> Prices:
        given = self.prices or plan.task.prices or settings.prices
        return given if isinstance(given, Prices) else Prices(given)


@dataclass(frozen=True, kw_only=True)
class Session:
    """An open study, as one worker takes part in it. Its methods block: not for event loops.

    Attributes:
        plan: as the study goes on with it.
        endpoint: where the models answer, without secrets.
    """

    plan: Plan
    endpoint: str
    shared: Runtime
    study: StudyRecord
    doors: Doors
    scoring: Scoring
    journal: Priced

    @classmethod
    def open(cls, plan: Plan, access: Access, *, resume: bool | None) -> Session:
        """Open the store, the doors and the study; connects to nothing.

        Raises:
            ConfigError: what was given cannot work, or the study is another one.
        """
        settings = access.settings(plan)
        shared = runtime(settings.store)
        endpoint = "" if settings.base_url is None else endpoint_id(settings.base_url)
        # What cannot work is found before a study is begun.
        doors = access.doors(plan, settings, shared)
        try:
            scoring = scoring_of(plan.task, doors, scorer=plan.scorer)
            study, plan = open_study(Studies(shared.store), plan, endpoint, resume=resume)
            journal = Priced(shared=shared, study=study, doors=doors, scoring=scoring)
        except BaseException:
            doors.close()
            raise
        return cls(
            plan=plan,
            endpoint=endpoint,
            shared=shared,
            study=study,
            doors=doors,
            scoring=scoring,
            journal=journal,
        )

    def begin(self) -> None:
        """Mark the study as running, unless it has ended: then it is only read again."""
        if not self.finished:
            Studies(self.shared.store).update(self.study.id, state="running")

    def stop(self) -> None:
        """Mark the study as stopped; it can be taken up again."""
        if not self.finished:
            Studies(self.shared.store).update(self.study.id, state="stopped")

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Mark the study as finished."""
        Studies(self.shared.store).update(self.study.id, state="finished", outcome=outcome)

    @property
    def finished(self) -> bool:
        """Whether some worker has brought it to its end."""
        return Studies(self.shared.store).get(self.plan.study).state == "finished"

    @property
    def spent(self) -> Decimal:
        """USD that the study paid, by all workers, at their worst case where nobody knows."""
        scope = scope_of(self.plan.study)
        return next((status.spent for status in self.shared.meter.status([scope])), Decimal(0))

    async def aclose(self) -> None:
        """Leave the study to others and close the connections."""
        try:
            await self.journal.aclose()
        finally:
            await self.doors.aclose()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Tell whoever sees an error leave the block that nothing is lost."""
        try:
            yield
        except (Exception, asyncio.CancelledError, KeyboardInterrupt) as error:
            error.add_note(f"study {self.plan.study!r}: {KEPT}")
            raise


def scope_of(study: str) -> str:
    """The budget that a study's calls are counted under."""
    return f"study:{study}"


KEPT = "everything that was paid for is kept; the same call goes on from there"
"""For people whose tuning ended early."""
