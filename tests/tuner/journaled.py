"""A study's journal on the loopback provider, as several workers would open it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from selfreg_sdk.calls import Retry
from selfreg_sdk.client import Client, Timeouts
from selfreg_sdk.config import Settings
from selfreg_sdk.money import Budget
from selfreg_sdk.prices import PriceOverride, Prices
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.store import Store
from selfreg_sdk.store.draw_row import DrawRow
from selfreg_sdk.store.draws import DrawRows
from selfreg_sdk.store.studies import Studies, StudyRecord
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.doors import Doors, open_doors
from selfreg_sdk.tuner.journal.journal import Bought, Journal
from selfreg_sdk.tuner.scoring.scoring import Scoring
from selfreg_sdk.tuner.search.drawing import DrawRequest
from tests.fake_provider import Payload

# Not taken from `tests.stack`, whose imports would double the time a worker process takes to start.
MODEL = "fake-model"
OTHER = "other-model"
PRICES = Prices(
    {
        MODEL: PriceOverride(input_usd_per_mtok=Decimal("0.40"), output_usd_per_mtok=Decimal("1.60")),
        OTHER: PriceOverride(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(4)),
    }
)
"""The first is what `FakeProvider` bills."""
QUICK = Retry(attempts=3, first_wait=0.01, longest_wait=0.02)
TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=20.0)
EXAMPLES = tuple(Example(id=f"e{number}", fields={"question": f"what is {number}?"}) for number in range(40))


def counted() -> Callable[[Payload], list[str]]:
    """A provider's ``reply``: no two samples are the same, so nothing can be mistaken for something else."""
    number = itertools.count()
    return lambda payload: [f"sample {next(number)}" for _ in range(payload.get("n") or 1)]


def length(answer: str, example: Example) -> float:
    """A scorer."""
    return float(len(answer))


def wish(number: int = 0, *, start: int = 0, count: int = 2, **config: Any) -> DrawRequest:
    """Samples on one of the examples."""
    example = EXAMPLES[number]
    return DrawRequest(
        config={"model": MODEL, "prompt": "p", "max_tokens": 16, **config},
        messages=[{"role": "user", "content": str(example.fields["question"])}],
        example=example,
        start=start,
        count=count,
    )


@dataclass(kw_only=True)
class Desk:
    """One worker at a study."""

    shared: Runtime
    study: StudyRecord
    doors: Doors
    journal: Journal
    parallel: int = 8

    async def buy(self, *requests: DrawRequest, mark: bool = False) -> list[Bought]:
        return await self.journal.purchase(requests, mark=mark, parallel=self.parallel)

    @property
    def rows(self) -> tuple[DrawRow, ...]:
        return DrawRows(self.shared.store, self.study.id, request_id=lambda id_: "").all()

    @property
    def spent(self) -> Decimal:
        """What the ledger counts of the study."""
        statuses = self.shared.meter.status([f"study:{self.study.name}"])
        return sum((status.spent + status.held for status in statuses), Decimal(0))


@asynccontextmanager
async def desk(
    base_url: str,
    store: Store,
    *,
    study: str = "s",
    cap: str = "1",
    models: Sequence[str] = (MODEL, OTHER),
    scoring: Scoring | None = None,
    judge: Callable[[Doors], Scoring] | None = None,
    retry: Retry = QUICK,
    budgets: Mapping[str, Budget] | None = None,
    journal: type[Journal] = Journal,
    parallel: int = 8,
    **options: Any,
) -> AsyncIterator[Desk]:
    """A worker with all it needs, on a store that is open already."""
    shared = Runtime.on(store)
    record = Studies(store).ensure(study, task_key="t", spec={}, seed=0)
    settings = Settings(base_url=base_url)
    doors = open_doors(
        models,
        shared=shared,
        budgets={f"study:{study}": Budget.parse(cap), **(budgets or {})},
        prices=PRICES,
        settings=settings,
        retry=retry,
        client=Client(base_url=base_url, timeouts=TIMEOUTS),
    )
    marks = judge(doors) if judge else scoring or Scoring(length, name="length")
    made = journal(shared=shared, study=record, doors=doors, scoring=marks, **options)
    try:
        yield Desk(shared=shared, study=record, doors=doors, journal=made, parallel=parallel)
    finally:
        await made.aclose()
        await doors.aclose()


@contextmanager
def opened(place: Any = ":memory:") -> Iterator[Store]:
    with Store.open(place) as store:
        yield store


def texts(bought: Bought) -> list[str]:
    """What the samples say."""
    assert bought.drawn is not None, bought
    return [sample.text for sample in bought.drawn.samples]


async def quickly(work: Any, seconds: float = 20.0) -> Any:
    """The result, or an error where something hangs."""
    return await asyncio.wait_for(work, seconds)
