"""Method "ecooptigen" on the journal of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.doors import Doors
from selfreg_sdk.tuner.pool.cells import accepted_space, sendable
from selfreg_sdk.tuner.scoring.scoring import Mark
from selfreg_sdk.tuner.search.drawing import AsyncDraws, Drawn, DrawRequest, Sample, adrive
from selfreg_sdk.tuner.search.ecooptigen import EcoOptiGen
from selfreg_sdk.tuner.search.searchers import make_searcher
from selfreg_sdk.tuner.search.trials import Found, Trial, best_trial
from selfreg_sdk.tuner.study.plan import Plan
from selfreg_sdk.tuner.study.results import Candidate
from selfreg_sdk.tuner.study.searched import Searched, SoFar, Tell, aggregation_of, pareto
from selfreg_sdk.tuner.study.task_scoring import judge_model


class Drawing(Protocol):
    """The part of a `selfreg_sdk.tuner.journal.journal.Journal` that is needed here."""

    @property
    def draws(self) -> AsyncDraws:
        """Purchases without marks."""
        ...

    async def mark(self, example: Example, samples: Sequence[Sample]) -> list[Mark]:
        """The scores of samples."""
        ...


class EcoRun:
    """One search. Samples are scored only where a configuration is within the budget of a request.

    Args:
        plan: what is tuned, with a budget of a request.
        journal: of the study.
        doors: to the models, as they are known now.
    """

    def __init__(self, plan: Plan, journal: Drawing, doors: Doors) -> None:
        if plan.inference_budget is None:
            raise ConfigError("method 'ecooptigen' needs the budget of a request")
        self._plan, self._journal = plan, journal
        self._capabilities = {model: doors[model].capabilities for model in plan.spec.models}
        self._mode = plan.metric.mode
        self._searcher = make_searcher(
            plan.searcher, accepted_space(plan.task.space, self._capabilities), mode=self._mode, seed=plan.spec.seed
        )
        self._method = EcoOptiGen(
            examples=plan.examples,
            prompts={prompt.name: prompt for prompt in plan.task.prompts},
            models=plan.spec.models,
            price=lambda model: doors[model].price,
            inference_budget=plan.inference_budget,
            total_budget=plan.search_total,
            mode=self._mode,
        )
        self._judged = judge_model(plan.task, plan.scorer) is not None
        self._trials: list[Trial] = []
        self._counted = _Counted(journal.draws)

    async def run(self, tell: Tell) -> Searched:
        """Search until the money or the proposals run out.

        Raises:
            SpaceNarrowed: a model refused a setting; what was bought is in the journal.
            SelfregError: an endpoint is out of reach.
        """

        def on_trial(trial: Trial) -> None:
            self._trials.append(trial)
            tell(self._so_far())

        machine = self._method.search(self._searcher, on_trial=on_trial)
        found = await adrive(machine, self._counted, self._value, parallel=self._plan.workers)
        return self._found(found)

    async def _value(self, example: Example, samples: Sequence[Sample]) -> float:
        marks = await self._journal.mark(example, samples)
        return self._plan.metric.of([mark.score for mark in marks], [mark.ballot for mark in marks])

    def _found(self, found: Found) -> Searched:
        by_model: dict[str, list[Trial]] = {}
        for trial in found.trials:
            by_model.setdefault(trial.point["model"], []).append(trial)
        best = {model: best_trial(trials, self._mode) for model, trials in by_model.items()}
        scored = [self._candidate(trial) for trial in found.trials if trial.fate == "scored"]
        return Searched(
            winner=None if found.best is None else self._candidate(found.best),
            per_model={model: self._candidate(trial) for model, trial in best.items() if trial is not None},
            frontier=pareto(scored, self._mode),
            ending=found.ending,
            configurations=len(scored),
            spent=None if self._judged else self._method.spent,
            trials=found.trials,
            notes=tuple(_failures(found.trials)),
        )

    def _candidate(self, trial: Trial) -> Candidate:
        """A scored trial as it is sent."""
        if trial.value is None or trial.mean_cost is None:
            raise ValueError(f"trial {trial.id} was not scored")
        model, n = trial.point["model"], trial.point.get("n") or 1
        sent = sendable(trial.point, self._capabilities[model])
        return Candidate(
            config={"model": model, "prompt": trial.point["prompt"], **sent, "n": n},
            aggregation=aggregation_of(self._plan.metric, n),
            score=trial.value,
            low=None,
            high=None,
            cost=float(trial.mean_cost),
            cost_low=None,
            cost_high=None,
            keep=None,
            seconds=None,
            examples=len(self._plan.examples),
        )

    def _so_far(self) -> SoFar:
        best = best_trial(self._trials, self._mode)
        return SoFar(
            spent=self._method.spent,
            requests=self._counted.requests,
            samples=self._counted.samples,
            configurations=sum(trial.fate == "scored" for trial in self._trials),
            best=None if best is None else self._candidate(best),
        )


def _failures(trials: Sequence[Trial]) -> Iterator[str]:
    failed = [trial for trial in trials if trial.fate == "failed"]
    if failed:
        yield f"{len(failed)} of {len(trials)} trials failed, the last one: {failed[-1].reason}"


class _Counted:
    """Draws, counted."""

    def __init__(self, draws: AsyncDraws) -> None:
        self._draws = draws
        self.requests = self.samples = 0

    async def draw(self, request: DrawRequest) -> Drawn:
        """The samples."""
        drawn = await self._draws.draw(request)
        self.requests += 1
        self.samples += len(drawn.samples)
        return drawn
