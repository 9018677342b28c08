"""A cascade as it runs: on a real loopback provider, with real books."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from selfreg_sdk import ConfigError, PriceOverride, Prices
from selfreg_sdk.errors import ServerFailed
from selfreg_sdk.langchain.cascade import ChatCascade
from selfreg_sdk.store.tables import metadata
from tests.fake_provider import FakeProvider, RejectParam, status
from tests.sdk.around import MODES, ask
from tests.sdk.regulated import ONCE, priced, record

CHEAP, DEAR = "small", "large"
NUMERIC = {"kind": "numeric"}
PRICES = priced(CHEAP, DEAR)

_ledger = metadata.tables["ledger"]


def written(filter: dict[str, Any], *, n: int = 3, second: int = 1, **params: Any) -> dict[str, Any]:
    first = {"model": CHEAP, "params": {"temperature": 0.7, "max_tokens": 50}, "aggregation": _how(n)}
    last = {"model": DEAR, "params": {"max_tokens": 80, **params}, "aggregation": _how(second)}
    return {"cascade": [first, last], "filter": filter}


def _how(n: int) -> str:
    return "first" if n == 1 else f"vote of {n}"


def agreeing(at_least: float) -> dict[str, Any]:
    return {"kind": "agreement", "at_least": at_least}


def model(provider: FakeProvider, cascade: dict[str, Any], **given: Any) -> ChatCascade:
    usual = {"base_url": provider.base_url, "store": ":memory:", "retry": ONCE, "prices": PRICES, "task": "sums"}
    return ChatCascade(cascade=cascade, ballot=NUMERIC, **(usual | given))


def saying(cheap: str | list[str], dear: str | list[str] = "It is 4.") -> Any:
    return lambda payload: cheap if payload["model"] == CHEAP else dear


def asked(provider: FakeProvider) -> list[str]:
    return [payload["model"] for payload in provider.payloads]


def rows(llm: ChatCascade) -> list[Any]:
    with llm._ready.shared.store.read() as connection:
        return list(connection.execute(sa.select(_ledger)).mappings())


def booked(llm: ChatCascade) -> Decimal:
    return sum((Decimal(row["cost_pico"]) for row in rows(llm)), Decimal(0)) / 10**12


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_agrees_is_the_cheap_one(provider: FakeProvider, mode: str) -> None:
    provider.reply = saying(["so 4", "It makes 4.0", "5"])
    llm = model(provider, written(agreeing(0.6)))
    answer = await ask(llm, mode)
    assert answer.text == "so 4"
    assert asked(provider) == [CHEAP]
    told = record(answer)
    assert told["cascade"]["answered"] == "first"
    assert told["cascade"]["passed"] is True
    assert told["cascade"]["level"] == pytest.approx(2 / 3)
    assert told["votes"] == {"4": 2, "5": 1}
    assert Decimal(told["cost_usd"]) == provider.billed.usd == booked(llm)


@pytest.mark.parametrize("mode", MODES)
async def test_one_that_does_not_is_asked_again(provider: FakeProvider, mode: str) -> None:
    provider.reply = saying(["so 4", "3", "5"])
    llm = model(provider, written(agreeing(0.6)))
    answer = await ask(llm, mode)
    assert answer.text == "It is 4."
    assert asked(provider) == [CHEAP, DEAR]
    told = record(answer)
    assert told["cascade"]["answered"] == "second"
    assert [stage["model"] for stage in told["cascade"]["stages"]] == [CHEAP, DEAR]
    costs = [Decimal(stage["cost_usd"]) for stage in told["cascade"]["stages"]]
    assert min(costs) > 0
    assert sum(costs) == Decimal(told["cost_usd"]) == provider.billed.usd == booked(llm)
    usage = answer.usage_metadata
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"]) == (
        provider.billed.prompt_tokens,
        provider.billed.completion_tokens,
    )


async def test_a_cascade_takes_each_stage_as_it_was_tuned(provider: FakeProvider) -> None:
    provider.reply = saying(["1", "2", "3"], ["7", "8", "7"])
    llm = model(provider, written(agreeing(1.0), second=3, temperature=0.1))
    answer = await llm.ainvoke("hello")
    first, second = provider.payloads
    assert (first["temperature"], first["n"], first["max_tokens"]) == (0.7, 3, 50)
    assert (second["temperature"], second["n"], second["max_tokens"]) == (0.1, 3, 80)
    assert first["messages"] == second["messages"]
    assert record(answer)["votes"] == {"7": 2, "8": 1}
    assert record(answer)["source"] == "tuned"
    held = rows(llm)
    assert len({row["request_id"] for row in held}) == 1


async def test_one_sample_is_asked_for_as_one_always_is(provider: FakeProvider) -> None:
    llm = model(provider, written({"kind": "regex", "pattern": "never said"}, n=1))
    await llm.ainvoke("hello")
    assert ["n" in payload for payload in provider.payloads] == [False, False]


async def test_what_the_caller_says_holds_in_both_stages(provider: FakeProvider) -> None:
    provider.reply = saying(["1", "2", "3"])
    llm = model(provider, written(agreeing(1.0), temperature=0.1))
    await llm.ainvoke("hello", temperature=0.3)
    assert [payload["temperature"] for payload in provider.payloads] == [0.3, 0.3]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_a_filter_that_fails_lets_nothing_pass(
    provider: FakeProvider, mode: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strict_filter.py").write_text("def good(answer):\n    return len(answer) / (answer != 'so 4')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    provider.reply = saying("so 4")
    llm = model(provider, written({"kind": "python", "function": "strict_filter:good"}, n=1))
    told = record(await ask(llm, mode))
    assert told["cascade"]["answered"] == "second"
    assert [flag for flag in told["flags"] if flag.startswith("filter_failed: raised ZeroDivisionError")]
    provider.reply = saying("so 4 or 5")
    told = record(await ask(llm, mode))
    assert told["cascade"]["answered"] == "first"
    assert told["flags"] == []


async def test_an_answer_without_text_does_not_pass(provider: FakeProvider) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    provider.reply = lambda payload: {"content": None, "tool_calls": [call]} if payload["model"] == CHEAP else "4"
    llm = model(provider, written({"kind": "regex", "pattern": ".?"}, n=1))
    answer = await llm.ainvoke("hello")
    assert answer.text == "4"
    assert record(answer)["cascade"]["level"] is None


async def test_samples_that_could_not_be_had_agree_with_none(provider: FakeProvider) -> None:
    provider.rules.append(RejectParam(param="n"))  # so that every sample is a call of its own
    provider.reply = saying("4")
    llm = model(provider, written(agreeing(0.9)))
    told = record(await llm.ainvoke("hello"))
    assert (told["cascade"]["answered"], told["cascade"]["level"]) == ("first", 1.0)
    provider.script(status(500))
    told = record(await llm.ainvoke("hello"))
    assert told["cascade"]["answered"] == "second"
    assert told["cascade"]["level"] == pytest.approx(2 / 3)
    assert "samples_missing: ServerFailed" in told["flags"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_second_stage_that_does_not_fit_the_budget_leaves_the_first_answer(
    provider: FakeProvider, mode: str
) -> None:
    provider.reply = saying(["so 4", "3", "5"])
    gold = PriceOverride(input_usd_per_mtok="4000", output_usd_per_mtok="16000")
    cheap = PriceOverride(input_usd_per_mtok="0.40", output_usd_per_mtok="1.60")
    budget = Decimal("0.001")
    llm = model(provider, written(agreeing(1.0)), prices=Prices({CHEAP: cheap, DEAR: gold}), budget=budget)
    answer = await ask(llm, mode)
    assert answer.text == "so 4"
    told = record(answer)
    assert told["flags"] == ["second_stage_missing: BudgetExceeded"]
    assert told["cascade"]["passed"] is False
    assert asked(provider) == [CHEAP]
    assert provider.billed.usd == booked(llm) <= budget


async def test_a_second_stage_that_fails_leaves_the_first_answer(provider: FakeProvider) -> None:
    provider.reply = saying(["so 4", "3", "5"])
    provider.script(status(200), status(500))
    llm = model(provider, written(agreeing(1.0)))
    answer = await llm.ainvoke("hello")
    assert answer.text == "so 4"
    assert record(answer)["flags"] == ["second_stage_missing: ServerFailed"]


async def test_a_first_stage_that_fails_is_an_error(provider: FakeProvider) -> None:
    provider.script(status(500))
    llm = model(provider, written(agreeing(1.0)))
    with pytest.raises(ServerFailed):
        await llm.ainvoke("hello")
    assert asked(provider) == [CHEAP]


async def test_many_calls_at_once_never_spend_beyond_the_cap(provider: FakeProvider) -> None:
    """P1: billed <= booked <= cap, whichever stages answer."""
    provider.reply = saying(["so 4", "3", "5"])
    cap = Decimal("0.002")
    llm = model(provider, written(agreeing(1.0)), budget=cap)
    done = await asyncio.gather(*(llm.ainvoke(f"hello {i}") for i in range(40)), return_exceptions=True)
    answered = [answer for answer in done if isinstance(answer, AIMessage)]
    assert 0 < len(answered) < 40
    assert provider.billed.usd <= booked(llm) <= cap
    told = sum((Decimal(record(answer)["cost_usd"]) for answer in answered), Decimal(0))
    assert told == provider.billed.usd


def test_what_cannot_work_is_said_at_once(provider: FakeProvider) -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        model(provider, written({"kind": "python", "function": "no_such_module:f"}))
    with pytest.raises(ConfigError, match="is no cascade"):
        model(provider, {"cascade": [], "filter": "agreement"})
    with pytest.raises(ConfigError, match="names its models itself"):
        model(provider, written(agreeing(1.0)), model="other")
    with pytest.raises(ConfigError, match="bring their own"):
        model(provider, written(agreeing(1.0)), aggregation="vote of 5")
    llm = model(provider, written(agreeing(1.0)))
    with pytest.raises(ConfigError, match="names its models itself"):
        llm.invoke("hello", model="other")


def test_what_would_be_sent_counts_both_stages(provider: FakeProvider) -> None:
    llm = model(provider, written(agreeing(1.0)))
    told = llm.explain("hello")
    alone = [stage.explain("hello") for stage in llm._stages]
    assert told.payload["model"] == CHEAP
    assert told.worst_case_usd == sum(one.worst_case_usd or 0 for one in alone)
    assert told.most_requests == 2
    assert not provider.payloads


async def test_langchain_remembers_the_cascade_as_a_whole(provider: FakeProvider) -> None:
    from langchain_core.caches import InMemoryCache

    provider.reply = saying(["so 4", "3", "5"])
    kept = InMemoryCache()
    for level in (1.0, 0.5):
        llm = model(provider, written(agreeing(level)), cache=kept)
        assert [(await llm.ainvoke("hello")).text for _ in range(2)] == ["It is 4."] * 2
    assert asked(provider) == [CHEAP, DEAR] * 2  # another level is another cascade


async def test_a_copy_answers_with_what_was_changed(provider: FakeProvider) -> None:
    provider.reply = saying(["so 4", "3", "5"])
    llm = model(provider, written(agreeing(1.0)))
    copy = llm.model_copy(update={"cascade": written(agreeing(0.3))})
    assert (await copy.ainvoke("hello")).text == "so 4"
    assert len(rows(llm)) == 1  # the same books


async def test_objects_of_a_schema_come_of_whichever_stage_has_a_good_one(provider: FakeProvider) -> None:
    class Sum(BaseModel):
        """A sum."""

        value: int

    provider.reply = saying('{"value": -1}', '{"value": 4}')
    positive = {"type": "object", "properties": {"value": {"minimum": 0}}}
    llm = model(provider, written({"kind": "json_schema", "schema": positive}, n=1))
    assert await llm.with_structured_output(Sum).ainvoke("hello") == Sum(value=4)
    assert ["response_format" in payload for payload in provider.payloads] == [True, True]
    provider.reply = saying('{"value": 5}')
    assert await llm.with_structured_output(Sum).ainvoke("hello") == Sum(value=5)
