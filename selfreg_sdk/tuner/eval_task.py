"""Scores configurations of a task on its examples: stored versions, the baseline, or any that one writes down.

What is drawn here, no search has drawn: samples have numbers of their own (`FRESH`), so a configuration is not scored by the
luck it was chosen for. The same evaluation, asked for again, finds its samples and goes on where it ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import SecretStr

from selfreg_sdk.calls import Retry
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.prices import Prices
from selfreg_sdk.runtime import Runtime, runtime
from selfreg_sdk.store.studies import Studies
from selfreg_sdk.tuner.cascade.evaluate import aevaluate_cascade
from selfreg_sdk.tuner.examples.examples import Example, shuffle
from selfreg_sdk.tuner.examples.files import read_examples
from selfreg_sdk.tuner.examples.prompts import check_prompts
from selfreg_sdk.tuner.journal.doors import Doors, SpaceNarrowed
from selfreg_sdk.tuner.journal.priced import Priced
from selfreg_sdk.tuner.measuring.compare import Comparison, compare
from selfreg_sdk.tuner.measuring.evaluate import aevaluate_each
from selfreg_sdk.tuner.measuring.measured import Measured
from selfreg_sdk.tuner.scoring.scoring import Scorer
from selfreg_sdk.tuner.study.configurations import AnyConfig, Configuration, configuration
from selfreg_sdk.tuner.study.plan import AnyTask, Plan, plan
from selfreg_sdk.tuner.study.session import Access, scope_of
from selfreg_sdk.tuner.study.task_scoring import scoring_of, span_of
from selfreg_sdk.tuner.task.spec import ExampleFile

Part = Literal["unseen", "search", "holdout", "test", "all"]
"""Examples of a task; unseen: those that no search sees, held out or for tests."""

FRESH = 1 << 20
"""Number of the first sample of an evaluation; a search draws those from 0 on."""

_REPEATS = 1000

_SEEN = "a search may have seen these examples; configurations that it chose look better on them than they are"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        study: its name in the store.
        part: the examples it was made on; "given" for those of the caller.
        measured: the configuration.
        others: those it was compared with, measured on the same examples.
        comparisons: the configuration against each of them; all their intervals hold together.
        spent: USD that this call paid; what was found in the store is free.
        total: USD that all calls of the study may cost.
        notes: what else to know: settings that are not sent, examples that a search may have seen.
    """

    study: str
    part: str
    measured: Measured
    others: tuple[Measured, ...]
    comparisons: tuple[Comparison, ...]
    spent: Decimal
    total: Decimal
    notes: tuple[str, ...] = ()


async def aeval_task(
    task: AnyTask,
    config: AnyConfig,
    *,
    against: Sequence[AnyConfig] = (),
    on: Part | Path | Sequence[Example] = "unseen",
    store: str | Path | None = None,
    budget: str | int | Decimal | None = None,
    workers: int | None = None,
    repeat: int = 0,
    scorer: Scorer | None = None,
    on_progress: Callable[[tuple[Measured, ...]], None] | None = None,
    base_url: str | None = None,
    api_key: str | SecretStr | None = None,
    prices: Prices | Path | None = None,
    server: str | None = None,
    retry: Retry = Retry(),
) -> Evaluation:
    """Score a configuration, with intervals and cost, and compare it with others example by example.

    Spends at most ``budget``. Where that ends, what was measured until then is returned and says so.

    Args:
        task: a task file, what `load_task` made of it, or a mapping of the same shape.
        config: the id of a version in the store, "baseline", or a mapping like {"model": ..., "temperature": 0.2, "n": 5}; a
            cascade like {"cascade": [stage, stage], "filter": ...}, as the store holds it.
        against: others to compare it with.
        on: a part of the task's examples, a file of others, or examples; "unseen" is all if nothing is held out.
        store: where versions are and samples are kept; None is `ChatSelfReg`'s.
        budget: USD that all of it may cost, however often it is asked for; the task's if None.
        workers: calls in flight at once; the task's if None.
        repeat: another number draws other samples.
        scorer: a function of answer and example in place of the task's scorer.
        on_progress: called on the event loop with what was measured so far.
        base_url, api_key, prices, server, retry: as in `ChatSelfReg`; the task's, and the settings', where None.

    Raises:
        ConfigError: something given cannot work; nothing was sent.
        ProviderError: an endpoint is out of reach; what was paid for is kept.
    """
    access = Access(store=store, base_url=base_url, api_key=api_key, prices=prices, server=server, retry=retry)

    def begin() -> _Evaluating:
        planned = plan(task, budget=budget, workers=workers, scorer=scorer)
        return _Evaluating.open(planned, [config, *against], on, access, repeat)

    running = await asyncio.to_thread(begin)
    try:
        found = await running.run(on_progress)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(running.leave, "stopped"))
        raise
    else:
        await asyncio.to_thread(running.leave, "finished")
        return found
    finally:
        await running.aclose()


def eval_task(task: AnyTask, config: AnyConfig, **given: Any) -> Evaluation:
    """`aeval_task` for programs without an event loop; the same arguments.

    Raises:
        ConfigError: also where an event loop runs: await `aeval_task` there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(aeval_task(task, config, **given))
    raise ConfigError("eval_task() cannot run where an event loop runs already; write 'await aeval_task(...)' there")


@dataclass(frozen=True, kw_only=True)
class _Evaluating:
    """An evaluation with all that it works with."""

    plan: Plan
    configurations: tuple[Configuration, ...]
    examples: tuple[Example, ...]
    part: str
    start: int
    notes: tuple[str, ...]
    shared: Runtime
    study_id: int
    doors: Doors
    journal: Priced

    @classmethod
    def open(
        cls,
        planned: Plan,
        configs: Sequence[AnyConfig],
        on: Part | Path | Sequence[Example],
        access: Access,
        repeat: int,
    ) -> _Evaluating:
        """Everything is checked and opened; nothing is sent."""
        if not 0 <= repeat < _REPEATS:
            raise ConfigError(f"repeat={repeat!r} must lie in 0 to {_REPEATS - 1}")
        settings = access.settings(planned)
        shared = runtime(settings.store)
        found = tuple(configuration(config, planned, shared.configs) for config in configs)
        part, examples, notes = _examples(planned, on)
        for each in found:
            check_prompts([each.prompt], examples)
        called = (str(stage["model"]) for each in found for stage in each.stages)
        models = dict.fromkeys((*planned.spec.models, *called))
        spec = planned.spec.model_copy(update={"models": tuple(models)})
        named = _name(planned, found, examples, repeat)
        planned = replace(planned, task=replace(planned.task, spec=spec), study=named)
        doors = access.doors(planned, settings, shared)
        try:
            for each in found:
                notes += tuple(_unsent(each, doors))
            scoring = scoring_of(planned.task, doors, scorer=planned.scorer)
            scoring.check(examples)
            written = {"method": "eval", "budget": str(planned.total), "configs": [dict(each.point) for each in found]}
            study = Studies(shared.store).ensure(
                named, task_key=planned.spec.name, spec=written, seed=planned.spec.seed
            )
            journal = Priced(shared=shared, study=study, doors=doors, scoring=scoring)
        except BaseException:
            doors.close()
            raise
        return cls(
            plan=planned,
            configurations=found,
            examples=examples,
            part=part,
            start=FRESH * (1 + repeat),
            notes=notes,
            shared=shared,
            study_id=study.id,
            doors=doors,
            journal=journal,
        )

    async def run(self, on_progress: Callable[[tuple[Measured, ...]], None] | None) -> Evaluation:
        """Measure and compare."""
        before = await asyncio.to_thread(self._spent)
        while True:
            try:
                measured = await self._measured(on_progress)
                break
            except SpaceNarrowed:
                # Without that setting it would run, too; what was drawn with it is not counted.
                await asyncio.to_thread(self.doors.relearn)
        found, *others = measured
        unsent = [note for each in self.configurations for note in _unsent(each, self.doors)]
        return Evaluation(
            study=self.plan.study,
            part=self.part,
            measured=found,
            others=tuple(others),
            comparisons=tuple(compare(found, other, together=len(others)) for other in others),
            spent=await asyncio.to_thread(self._spent) - before,
            total=self.plan.total,
            notes=tuple(dict.fromkeys((*self.notes, *unsent))),
        )

    async def _measured(self, on_progress: Callable[[tuple[Measured, ...]], None] | None) -> list[Measured]:
        """Each configuration; cascades one by one after the others, since who answers depends on what was answered."""
        prompts = [each.prompt for each in self.configurations]
        usual: dict[str, Any] = {
            "span": span_of(self.plan.task, self.plan.scorer),
            "start": self.start,
            "parallel": self.plan.workers,
        }
        done: dict[int, Measured] = {}

        def tell(numbers: Sequence[int], measured: Sequence[Measured]) -> None:
            so_far = {**done, **dict(zip(numbers, measured, strict=True))}
            if on_progress is not None:
                on_progress(tuple(so_far[number] for number in sorted(so_far)))

        plain = [number for number, each in enumerate(self.configurations) if each.cascade is None]
        found = await aevaluate_each(
            [self.configurations[number].point for number in plain],
            self.examples,
            prompts,
            self.journal,
            self.plan.metric,
            limit=self.plan.total,
            on_progress=lambda measured: tell(plain, measured),
            **usual,
        )
        done |= dict(zip(plain, found, strict=True))

        def told_one(at: int, measured: Measured) -> None:
            tell([at], [measured])

        for number, each in enumerate(self.configurations):
            if each.cascade is not None:
                done[number] = await aevaluate_cascade(
                    each.cascade,
                    self.examples,
                    each.prompt,
                    self.journal,
                    self.plan.metric,
                    limit=self.plan.total - sum(one.spent for one in done.values()),
                    on_progress=partial(told_one, number),
                    **usual,
                )
        return [done[number] for number in range(len(self.configurations))]

    def leave(self, state: Literal["stopped", "finished"]) -> None:
        """Note how it ended."""
        Studies(self.shared.store).update(self.study_id, state=state)

    async def aclose(self) -> None:
        """Close the connections."""
        try:
            await self.journal.aclose()
        finally:
            await self.doors.aclose()

    def _spent(self) -> Decimal:
        statuses = self.shared.meter.status([scope_of(self.plan.study)])
        return next((status.spent for status in statuses), Decimal(0))


def _examples(planned: Plan, on: Part | Path | Sequence[Example]) -> tuple[str, tuple[Example, ...], tuple[str, ...]]:
    """(name of the part, its examples, notes), in an order that says nothing of what they are."""
    task = planned.task
    if isinstance(on, Path):
        given = planned.spec.examples
        read = read_examples(on, id_field=given.id if isinstance(given, ExampleFile) else None)
        return str(on), shuffle(read, seed=planned.spec.seed), ()
    if not isinstance(on, str):
        if not on:
            raise ConfigError("on=() holds no examples; give at least one, or name a part of the task's")
        return "given", tuple(on), ()
    split = task.split
    parts = {"search": split.search, "holdout": split.holdout, "test": split.test}
    if on not in get_args(Part):
        raise ConfigError(f"on={on!r} is not one of {', '.join(get_args(Part))}, nor a Path, nor examples")
    if on in parts:
        if not parts[on]:
            raise ConfigError(f"task {planned.spec.name!r} sets no examples aside as {on!r}; set '{on}: 0.3' there")
        return on, parts[on], (_SEEN,) if on == "search" else ()
    unseen = (*split.holdout, *split.test)
    if on == "unseen" and unseen:
        return on, unseen, ()
    return "all", shuffle(task.examples, seed=planned.spec.seed), (_SEEN,)


def _name(planned: Plan, found: Sequence[Configuration], examples: Sequence[Example], repeat: int) -> str:
    """Of the study: the same for the same evaluation, so that it is found again."""
    spec = planned.spec
    said = [
        [dict(each.point) for each in found],
        [each.prompt.messages for each in found],
        [example.fingerprint for example in examples],
        spec.metric.model_dump(mode="json", by_alias=True),
        spec.base_url,
        repeat,
    ]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:10]
    return f"eval {spec.name} {digest}"


def _unsent(config: Configuration, doors: Doors) -> Iterator[str]:
    """What of a configuration its model does not get, for people."""
    changes = (change for stage in config.stages for change in doors[stage["model"]].compiled(stage).adjustments)
    for change in changes:
        if change.wanted is not None:
            yield f"{config.name}: {change.field}={change.wanted!r} is sent as {change.sent!r} ({change.detail or change.why})"
