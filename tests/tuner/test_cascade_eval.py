"""A cascade, measured: what is bought, what counts, and where it ends."""

from __future__ import annotations

from decimal import Decimal

import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.cascade.config import CascadeConfig, Stage
from selfreg_sdk.tuner.cascade.evaluate import aevaluate_cascade
from selfreg_sdk.tuner.journal.journal import Bought
from selfreg_sdk.tuner.measuring.measured import Measured
from selfreg_sdk.tuner.scoring.metrics import metric
from selfreg_sdk.tuner.search.drawing import DrawRequest
from selfreg_sdk.tuner.task.filters import Filter, parse_filter
from tests.tuner.fake_endpoint import EXAMPLES, PROMPTS
from tests.tuner.measuring import FakeJournal, bought

VOTE, PROMPT = metric("vote"), PROMPTS["plain"]
CASCADE = CascadeConfig(
    first=Stage.of({"model": "cheap", "max_tokens": 9}, "vote of 3"),
    second=Stage.of({"model": "dear", "max_tokens": 9}, "first"),
    gate=Filter(parse_filter({"kind": "agreement", "at_least": 0.6})),
)


def easy(request: DrawRequest) -> bool:
    return int(request.example.id[1:]) % 2 == 0


def answer(request: DrawRequest) -> Bought:
    """Even examples agree, and are right; odd ones do not, and the dear model is right on them."""
    if request.config["model"] == "dear":
        return bought(request, [1.0], price="0.1")
    if easy(request):
        return bought(request, [1.0, 1.0, 0.0], ballots=["4", "4", "5"])
    return bought(request, [0.0, 0.0, 0.0], ballots=["1", "2", "3"])


async def measured(journal: FakeJournal, cascade: CascadeConfig = CASCADE, count: int = 6, **more: object) -> Measured:
    return await aevaluate_cascade(cascade, EXAMPLES[:count], PROMPT, journal, VOTE, span=(0.0, 1.0), **more)  # type: ignore[arg-type]


async def test_the_second_stage_is_bought_where_the_first_does_not_pass() -> None:
    journal = FakeJournal(answer)
    found = await measured(journal)
    assert [request.config["model"] for request in journal.asked] == ["cheap"] * 6 + ["dear"] * 3
    assert [request.example.id for request in journal.asked[6:]] == ["e1", "e3", "e5"]
    assert found.score == 1.0
    assert [outcome.cost for outcome in found.outcomes[:2]] == [Decimal("0.03"), Decimal("0.13")]
    assert [outcome.seconds for outcome in found.outcomes[:2]] == [0.5, 1.0]
    assert found.outcomes[1].output_tokens == 40
    assert found.spent == sum((outcome.cost for outcome in found.outcomes), Decimal(0)) * Decimal("1.1")  # marking
    assert found.config == {**CASCADE.written(), "prompt": "plain"}
    assert found.ending == "done"


async def test_what_fails_counts_as_where_it_runs() -> None:
    def failing(request: DrawRequest) -> Bought:
        if request.config["model"] == "dear":
            return Bought(fate="failed", reason="it broke", cost=Decimal("0.01"))
        return Bought(fate="failed", reason="no answer") if request.example.id == "e0" else answer(request)

    found = await measured(FakeJournal(failing), count=4)
    assert [outcome.value for outcome in found.outcomes] == [None, 0.0, 1.0, 0.0]
    assert found.outcomes[0].reason == "no answer"
    assert found.outcomes[1].cost == Decimal("0.04")  # of both stages
    assert found.failed == 1


async def test_no_money_for_a_second_stage_ends_it_before_that_example() -> None:
    def poor(request: DrawRequest) -> Bought:
        if request.config["model"] == "dear" and request.example.id == "e3":
            return Bought(fate="refused", reason="the cap")
        return answer(request)

    found = await measured(FakeJournal(poor))
    assert [outcome.example for outcome in found.outcomes] == ["e0", "e1", "e2"]
    assert found.ending == "money"


async def test_a_limit_holds_for_both_stages_at_their_worst() -> None:
    journal = FakeJournal(answer, worst="0.1")  # 3 samples of the first stage, and one of the second: .4
    found = await measured(journal, limit=Decimal("0.5"), parallel=1)
    assert (found.ending, found.examples) == ("money", 2)
    assert found.spent <= Decimal("0.5")
    assert (await measured(FakeJournal(answer), limit=Decimal(0))).examples == 0


async def test_stages_of_one_kind_draw_samples_of_their_own() -> None:
    stage = Stage.of({"model": "cheap", "max_tokens": 9}, "vote of 3")
    journal = FakeJournal(answer)
    await measured(journal, CascadeConfig(first=stage, second=stage, gate=CASCADE.gate), count=2, start=100)
    assert [(request.example.id, request.start) for request in journal.asked] == [("e0", 100), ("e1", 100), ("e1", 103)]


async def test_it_tells_how_far_it_is() -> None:
    told: list[int] = []
    await measured(FakeJournal(answer), parallel=1, on_progress=lambda found: told.append(found.examples))
    assert told == [4, 6]
    with pytest.raises(ConfigError, match="parallel=0"):
        await measured(FakeJournal(answer), parallel=0)
