"""Ours on the replayed task, over the whole product path: HTTP, reservations, ledger and journal on a store.

Each search has a store of its own, on the memory's disk where there is one: no key and no answer outlives it, and
thousands of searches in a row would otherwise measure how fast a disk syncs. What the
total is held to is the ledger's cap, at the worst case of every request.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Literal

import numpy as np
from pydantic import SecretStr

from bench.replay_client import Endpoint
from bench.replay_scores import Metric, ballot, value
from bench.replay_task import Budgets, Configuration, Found, Offer, Problem, nearest
from bench.tune_rows import ECO, POOL, UNPRUNED
from selfreg_sdk.config import Settings
from selfreg_sdk.money import Budget
from selfreg_sdk.prices import PriceOverride, Prices
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.studies import Studies
from selfreg_sdk.tuner.examples.examples import Example, shuffle
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.tuner.journal.doors import Doors, open_doors
from selfreg_sdk.tuner.journal.journal import Journal
from selfreg_sdk.tuner.pool.cells import USUAL, Cells
from selfreg_sdk.tuner.pool.grid import Floats, Grid
from selfreg_sdk.tuner.pool.method import PoolSearch
from selfreg_sdk.tuner.pool.samples import Samples
from selfreg_sdk.tuner.pool.task import PoolTask
from selfreg_sdk.tuner.pool.views import View
from selfreg_sdk.tuner.scoring.metrics import metric as metric_of
from selfreg_sdk.tuner.scoring.rule import Rule
from selfreg_sdk.tuner.scoring.scoring import Scoring
from selfreg_sdk.tuner.search.dimensions import Alternatives, Choice, Float, Int, Point, Space, point_key
from selfreg_sdk.tuner.search.drawing import AsyncDraws, Drawn, DrawRequest, Sample, adrive
from selfreg_sdk.tuner.search.ecooptigen import EcoOptiGen
from selfreg_sdk.tuner.search.search import Proposal, Searcher
from selfreg_sdk.tuner.search.searchers import make_searcher
from selfreg_sdk.tuner.search.trials import Trial

MEMORY_DISK = Path("/dev/shm")
_IDLE = 100
_AT_ONCE = 32
"""Calls that EcoOptiGen has in flight at once; what it decides does not depend on it."""


class Letter(Rule):
    """1 for an answer whose letter is right; the letter is the ballot."""

    @property
    def name(self) -> str:
        """For records."""
        return "letter"

    def __call__(self, answer: str, example: Example) -> float:
        """See `Rule`."""
        return float(ballot(answer) == example.fields["answer"])

    def ballot(self, answer: str, example: Example) -> str | None:
        """See `Rule`; an answer without a letter does not vote."""
        return ballot(answer) or None


def prices_of(offer: Offer) -> Prices:
    """The price list of the models."""
    return Prices(
        {
            model: PriceOverride(input_usd_per_mtok=into * 1_000_000, output_usd_per_mtok=out * 1_000_000)
            for model, (into, out) in offer.prices.items()
        }
    )


def prompts_of(offer: Offer) -> tuple[Prompt, ...]:
    """The prompts as templates of the product."""
    return tuple(
        Prompt(name=name, messages=(("system", text), ("user", "{text}"))) for name, text in offer.systems.items()
    )


def examples_of(problems: Sequence[Problem]) -> tuple[Example, ...]:
    """The problems as examples of the product."""
    return tuple(Example(id=str(each.id), fields={"text": each.text, "answer": each.answer}) for each in problems)


def cells_of(offer: Offer) -> Cells:
    """The recorded cells as the pool's."""
    points = [
        {"model": arm.model, "prompt": arm.prompt, "temperature": temperature}
        for arm in offer.arms
        for temperature in arm.temperatures
    ]
    temperatures = [temperature for arm in offer.arms for temperature in arm.temperatures]
    space: Space = {
        "model": Choice(tuple(offer.prices)),
        "prompt": Choice(tuple(offer.systems)),
        "temperature": Float(min(temperatures), max(temperatures)),
    }
    return Cells(
        grid=Grid.of(space, points, usual=USUAL),
        configs=tuple({**point, "max_tokens": offer.longest} for point in points),
        sizes=tuple(range(1, offer.samples + 1)),
        views=(View(max_tokens=offer.longest),),
        viewable=np.ones((1, len(points)), bool),
    )


def counted(offer: Offer, cells: Cells, problems: Sequence[Problem]) -> Floats:
    """(C, P) prompt tokens by one model's tokenizer, as all may know them."""
    return np.array([[offer.counted[config["prompt"], each.id] for each in problems] for config in cells.configs])


def space_of(offer: Offer) -> Space:
    """The recorded arms as the space of a searcher: a model with the prompts and temperatures that it has."""
    options: list[Space] = []
    for model in offer.prices:
        arms = [arm for arm in offer.arms if arm.model == model]
        heat = [temperature for arm in arms for temperature in arm.temperatures]
        options.append(
            {
                "model": Choice((model,)),
                "prompt": Choice(tuple(arm.prompt for arm in arms)),
                "temperature": Float(min(heat), max(heat)),
            }
        )
    return {
        "arm": Alternatives(tuple(options)),
        "n": Int(1, offer.samples, log=True),
        "max_tokens": Choice((offer.longest,)),
    }


class Snapped:
    """A searcher over temperatures of which some were recorded: each is tried as the nearest of these, as with all peers.

    It ends when a hundred proposals in a row bought nothing: they were dearer than allowed, or all there before.
    """

    def __init__(self, searcher: Searcher, offer: Offer) -> None:
        self._searcher, self._offer, self._idle = searcher, offer, 0

    def ask(self) -> Proposal | None:
        """See `Searcher`."""
        made = self._searcher.ask() if self._idle < _IDLE else None
        if made is None:
            return None
        point = dict(made.point)
        arm = next(arm for arm in self._offer.arms if (arm.model, arm.prompt) == (point["model"], point["prompt"]))
        return Proposal(id=made.id, point={**point, "temperature": nearest(arm.temperatures, point["temperature"])})

    def tell(self, point_id: int, value: float | None, cost: float = 0.0) -> None:
        """See `Searcher`."""
        self._idle = 0 if cost else self._idle + 1
        self._searcher.tell(point_id, value, cost)


@dataclass(kw_only=True)
class Ours:
    """One of our methods. Picklable.

    Attributes:
        method: which one.
        prune: whether EcoOptiGen stops configurations early.
        workers: calls in flight at once.
        durable: a store on the disk, synced as users' stores are.
    """

    name: str
    method: Literal["pool", "ecooptigen"]
    prune: bool = True
    workers: int = 1
    durable: bool = False

    def tune(
        self, problems: Sequence[Problem], budgets: Budgets, metric: Metric, seed: int, endpoint: Endpoint
    ) -> Found:
        """See `bench.replay_task.Tuner`."""
        memory = MEMORY_DISK if MEMORY_DISK.is_dir() and not self.durable else None
        with TemporaryDirectory(dir=memory) as folder:
            # Opening makes the tables, which takes longer than many a search: a copy of a new store is one.
            path = shutil.copy(_new_store(), folder)
            with closing(Store.open(path)) as store:
                return asyncio.run(self._search(problems, budgets, metric, seed, endpoint, Runtime.on(store)))

    async def _search(
        self,
        problems: Sequence[Problem],
        budgets: Budgets,
        metric: Metric,
        seed: int,
        endpoint: Endpoint,
        shared: Runtime,
    ) -> Found:
        offer = endpoint.offer
        doors = open_doors(
            tuple(offer.prices),
            shared=shared,
            budgets={f"study:{self.name}": Budget(cap=budgets.total)},
            prices=prices_of(offer),
            settings=Settings(base_url=endpoint.url, api_key=SecretStr("none is needed")),
            server="vllm",
        )
        study = Studies(shared.store).ensure(self.name, task_key="exam", spec={}, seed=seed)
        journal = Journal(shared=shared, study=study, doors=doors, scoring=Scoring(Letter()), parallel=self.workers)
        search = _Search(
            offer=offer,
            problems=problems,
            examples=examples_of(problems),
            budgets=budgets,
            metric=metric,
            journal=journal,
            doors=doors,
            seed=seed,
            workers=self.workers,
        )
        try:
            return await (search.pool() if self.method == "pool" else search.ecooptigen(prune=self.prune))
        finally:
            await journal.aclose()
            await doors.aclose()


class _Remembered:
    """Draws that are asked of a journal once: a trial that draws what another did finds it at once."""

    def __init__(self, draws: AsyncDraws) -> None:
        self._draws = draws
        self._known: dict[tuple[str, str, int, int], Drawn] = {}

    async def draw(self, request: DrawRequest) -> Drawn:
        """See `AsyncDraws`."""
        key = point_key(request.config), request.example.id, request.start, request.count
        if key not in self._known:
            self._known[key] = await self._draws.draw(request)
        return self._known[key]


@dataclass(frozen=True, kw_only=True)
class _Search:
    """One search, its door to money open."""

    offer: Offer
    problems: Sequence[Problem]
    examples: Sequence[Example]
    budgets: Budgets
    metric: Metric
    journal: Journal
    doors: Doors
    seed: int
    workers: int

    async def pool(self) -> Found:
        cells = cells_of(self.offer)
        messages = {prompt.name: [prompt.render(each) for each in self.examples] for prompt in prompts_of(self.offer)}
        samples = Samples(self.journal, cells, self.examples, messages, metric_of(self.metric), parallel=self.workers)
        task = PoolTask(
            grid=cells.grid,
            counted=counted(self.offer, cells, self.problems),
            rates=cells.rates(self.doors.prices),
            top=self.offer.samples,
            budget=float(self.budgets.per_request),
            total=float(self.budgets.total),
        )
        search = PoolSearch(task, samples, seed=self.seed, parallel=self.workers)
        asking = search.asking()
        try:
            requests = next(asking)
            while True:
                requests = asking.send(await samples.abuy(requests))
        except StopIteration:
            pass
        winner = search.best()
        return Found(
            configuration=None if winner is None else _configuration({**cells.configs[winner.cell], "n": winner.n}),
            spent=samples.paid,
            tried=int(samples.taken.any(axis=1).sum()),
            scored=int(samples.taken.max(axis=1).sum()),
        )

    async def ecooptigen(self, *, prune: bool) -> Found:
        """Every sample is drawn from the journal. They are scored outside it, where scoring is free."""
        machine = EcoOptiGen(
            examples=shuffle(self.examples, seed=self.seed),
            prompts={prompt.name: prompt for prompt in prompts_of(self.offer)},
            models=tuple(self.offer.prices),
            price=lambda model: self.doors.prices[model],
            inference_budget=self.budgets.per_request,
            total_budget=self.budgets.total,
            prune=prune,
        )
        searcher = Snapped(make_searcher("blendsearch", space_of(self.offer), seed=self.seed), self.offer)

        def worth(example: Example, drawn: Sequence[Sample]) -> float:
            return value(self.metric, [sample.text for sample in drawn], example.fields["answer"])

        draws = _Remembered(self.journal.draws)
        found = await adrive(machine.search(searcher), draws, worth, parallel=self.workers)
        return Found(
            configuration=None if found.best is None else _configuration(found.best.point),
            spent=found.spent,
            tried=_different(trial for trial in found.trials if trial.fate in ("scored", "over_budget", "pruned")),
            scored=_different(trial for trial in found.trials if trial.mean_cost is not None),
        )


def ours() -> tuple[Ours, ...]:
    """What is measured."""
    return (
        Ours(name=POOL, method="pool"),
        Ours(name=ECO, method="ecooptigen", workers=_AT_ONCE),
        Ours(name=UNPRUNED, method="ecooptigen", prune=False, workers=_AT_ONCE),
    )


def _different(trials: Iterable[Trial]) -> int:
    return len({point_key(trial.point) for trial in trials})


def _configuration(point: Point) -> Configuration:
    return Configuration(**{field.name: point[field.name] for field in fields(Configuration)})


@cache
def _new_store() -> Path:
    """A store without content, made once a process."""
    folder = mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Store.open(path := Path(folder) / "new.db").close()
    return path
