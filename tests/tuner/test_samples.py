"""The pool on a journal: what the search sees of purchases."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from policies import Capabilities
from policies.capabilities import OPEN_WEIGHTS
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.journal import Bought
from selfreg_sdk.tuner.pool.cells import Cells, cells_of
from selfreg_sdk.tuner.pool.samples import Samples
from selfreg_sdk.tuner.pool.task import Request
from selfreg_sdk.tuner.scoring.scoring import Scoring
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.drawing import Drawn, DrawRequest, Sample
from selfreg_sdk.tuner.task.file import Task, parse_task
from tests.tuner.written import TASK

AT = np.array


@dataclass
class Shop:
    """Sells what it is told to, and scores it."""

    said: Mapping[int, Sequence[str]] = field(default_factory=dict)
    fate: str = "bought"
    unknown: Decimal = Decimal(0)
    asked: list[DrawRequest] = field(default_factory=list)

    def worst(self, config: Point, messages: Any, count: int, example: Example | None = None) -> Decimal:
        return Decimal("0.1") * count + Decimal(len(messages[0]["content"])) / 1000

    async def purchase(self, requests: Sequence[DrawRequest], *, mark: bool, parallel: int) -> list[Bought]:
        return [await self._sell(request) for request in requests]

    async def _sell(self, request: DrawRequest) -> Bought:
        self.asked.append(request)
        if self.fate != "bought":
            return Bought(fate=self.fate, cost=Decimal("0.5"))  # type: ignore[arg-type]
        texts = self.said.get(request.start, [str(request.example.fields["answer"])] * request.count)
        drawn = Drawn(
            samples=tuple(Sample(text=text) for text in texts),
            prompt_tokens=10,
            output_tokens=20 * len(texts),
            cost=Decimal("0.01"),
        )
        marks = tuple(await SCORING.score_all(texts, request.example))
        return Bought(fate="bought", drawn=drawn, marks=marks, cost=Decimal("0.01") + self.unknown, seconds=0.5)


def the_task(**changes: Any) -> Task:
    return parse_task(
        TASK | {"space": {"temperature": [0, 1, 0.5], "n": [1, 4], "max_tokens": 40}, "metric": "vote"} | changes
    )


SCORING = Scoring(the_task().rule)  # type: ignore[arg-type]


def pool(shop: Shop, written: Task | None = None, **given: Any) -> Samples:
    written = written or the_task()
    cells: Cells = cells_of(
        written.space, written.prompts, {"small": Capabilities(model="small", accepted=OPEN_WEIGHTS)}
    )
    messages = {prompt.name: [prompt.render(each) for each in written.examples] for prompt in written.prompts}
    return Samples(shop, cells, written.examples, messages, written.spec.metric.metric(), **given)


def buy(samples: Samples, *requests: tuple[int, int, int]) -> list[str]:
    asked = [Request(cell=cell, example=example, n=n) for cell, example, n in requests]
    return list(asyncio.run(samples.abuy(asked)))


def test_samples_are_numbered_on_and_means_are_over_all() -> None:
    shop = Shop({0: ["1", "no"], 2: ["no"]})
    samples = pool(shop)

    assert buy(samples, (1, 0, 2)) == ["bought"]
    assert buy(samples, (1, 0, 1)) == ["bought"]
    assert [(request.start, request.count) for request in shop.asked] == [(0, 2), (2, 1)]
    assert "n" not in shop.asked[0].config
    assert samples.taken[1, 0] == samples.taken.sum() == 3
    assert samples.tokens[1, 0] == pytest.approx(20)
    assert samples.billed[1, 0] == 10
    assert [sample.text for sample in samples.samples(1, 0)] == ["1", "no", "no"]
    assert samples.times[1, 0] == 0.5
    # of three the ballots are 1, no, no; of the first two the first wins
    assert samples.score(AT([1, 1, 1, 1]), AT([0] * 4), AT([1, 2, 3, 4])).tolist()[:3] == [1.0, 1.0, 0.0]
    assert math.isnan(samples.score(AT([1]), AT([0]), AT([4]))[0])
    assert math.isnan(samples.score(AT([0]), AT([0]), AT([1]))[0])


@pytest.mark.parametrize("fate", ["failed", "refused"])
def test_what_was_not_bought_has_a_cost_and_no_samples(fate: str) -> None:
    samples = pool(Shop(fate=fate))

    assert buy(samples, (0, 0, 1)) == [fate]
    assert samples.taken.sum() == 0
    assert samples.paid == Decimal("0.5")


def test_worst_cases_are_never_below_what_is_reserved_and_broadcast() -> None:
    samples = pool(Shop())
    worst = samples.worst(AT([[0], [1], [2]]), AT([[0, 1, 2, 3]]), AT([[1], [2], [3]]))

    assert worst.shape == (3, 4)
    for row, n in enumerate((1, 2, 3)):
        assert Decimal(float(worst[row, 0])) >= Decimal("0.1") * n + Decimal("0.014")
        assert worst[row, 0] == pytest.approx(0.1 * n + 0.014, abs=0.002)


def test_attempts_that_nobody_knows_the_end_of_are_paid_but_do_not_change_the_search() -> None:
    samples = pool(Shop(unknown=Decimal("0.7")))
    buy(samples, (0, 0, 1))

    assert samples.spent == pytest.approx(0.01)
    assert samples.paid == Decimal("0.71")


def test_a_prompt_that_every_sample_pays_counts_as_part_of_its_answer() -> None:
    samples = pool(Shop(), alone={"small": 0.25})
    buy(samples, (0, 0, 2))

    assert samples.tokens[0, 0] == pytest.approx(20 + 10 * 0.25)
    assert samples.billed[0, 0] == 0


def viewed(rule: Scoring | None) -> Samples:
    """Two samples: one that ends in time, one whose answer comes after the cap."""
    written = the_task(space={"temperature": 0, "n": [1, 4], "max_tokens": [10, 40]}, metric="success")
    samples = pool(Shop({0: ["1", "1" + " so" * 60]}), written, rule=rule)
    buy(samples, (0, 0, 2))
    return samples


def test_smaller_caps_are_read_off_and_scored_without_a_call() -> None:
    samples = viewed(SCORING)
    last = len(samples.views) - 1

    assert samples.views[last].max_tokens == 10
    assert samples.view_changed(0)[0, 0] == 0
    assert samples.view_changed(last)[0, 0] == 0.5
    assert samples.view_tokens(last)[0, 0] < samples.view_tokens(0)[0, 0]
    assert samples.view_score(last, AT([0, 0]), AT([0, 0]), AT([1, 2])).tolist() == [1.0, 1.0]
    assert math.isnan(samples.view_score(last, AT([0]), AT([1]), AT([1]))[0])


def test_where_scoring_costs_money_what_a_cap_cuts_is_not_told() -> None:
    samples = viewed(None)
    last = len(samples.views) - 1

    assert samples.view_score(last, AT([0]), AT([0]), AT([1])).tolist() == [1.0], "that one is not cut"
    assert math.isnan(samples.view_score(last, AT([0]), AT([0]), AT([2]))[0])


def test_it_can_be_used_without_an_event_loop() -> None:
    assert pool(Shop()).buy([Request(cell=0, example=0, n=1)]) == ["bought"]
