"""Traces tell the parameters that are sent, as soon as they are known: from the start where no plan is to be made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

from selfreg_sdk.errors import UnknownPriceError
from tests.fake_provider import FakeProvider
from tests.langchain.asking import MODES, Run, Runs, around, ask
from tests.sdk.regulated import (
    MODEL,
    PLANNED_MAX_TOKENS,
    PLANNED_TEMPERATURE,
    PLANNED_TOP_P,
    answers,
    chat,
    planning,
    record,
    wanting,
)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=planning()) as running:
        yield running


async def run_of(llm: BaseChatModel, mode: str = "ainvoke", **kwargs: Any) -> Run:
    runs = Runs()
    await ask(llm, mode, config={"callbacks": [runs]}, **kwargs)
    return runs.roots[0]


def said(run: Run) -> dict[str, Any]:
    names = ("temperature", "max_tokens", "stop")
    return {name: run.metadata[f"ls_{name}"] for name in names if f"ls_{name}" in run.metadata}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [chat, around])
async def test_a_remembered_configuration_is_known_before_the_call(
    provider: FakeProvider, make: Any, mode: str
) -> None:
    llm = make(provider, stop=["END"])
    await run_of(llm, mode)
    run = await run_of(llm, mode)
    assert said(run) == {"temperature": PLANNED_TEMPERATURE, "max_tokens": PLANNED_MAX_TOKENS, "stop": ["END"]}
    assert (run.metadata["ls_model_name"], run.metadata["ls_model_type"]) == (MODEL, "chat")
    assert run.metadata["ls_provider"] == ("openai" if make is around else "selfreg")
    shown = {
        name: run.params[name] for name in ("temperature", "top_p", "stop", "selfreg_source", "selfreg_config_version")
    }
    assert shown == {
        "temperature": PLANNED_TEMPERATURE,
        "top_p": PLANNED_TOP_P,
        "stop": None,  # as an argument of the call there was none
        "selfreg_source": "cached plan",
        "selfreg_config_version": 1,
    } | ({"stop": ["END"]} if run.params["stop"] else {})
    sent = answers(provider)[-1]
    assert (sent["temperature"], sent["stop"]) == (PLANNED_TEMPERATURE, ["END"])


@pytest.mark.parametrize("mode", MODES)
async def test_before_a_plan_only_what_the_caller_insists_on_is_known(provider: FakeProvider, mode: str) -> None:
    runs = Runs()
    message = await ask(chat(provider, max_tokens=9), mode, config={"callbacks": [runs]}, top_p=0.3)
    run = runs.roots[0]
    assert said(run) == {"max_tokens": 9}
    assert run.params["top_p"] == 0.3
    assert "selfreg_source" not in run.params
    assert record(message)["sent"] == {"temperature": PLANNED_TEMPERATURE, "top_p": 0.3, "max_tokens": 9}


@pytest.mark.parametrize("mode", MODES)
async def test_arguments_of_the_call_win_in_traces_too(provider: FakeProvider, mode: str) -> None:
    llm = chat(provider, **wanting(temperature=1.2, max_tokens=50), stop=["END"])
    run = await run_of(llm, mode, temperature=0.25, stop=["X"])
    assert said(run) == {"temperature": 0.25, "max_tokens": 50, "stop": ["X"]}
    assert answers(provider)[0]["temperature"] == 0.25


async def test_what_a_model_does_not_take_is_not_claimed(provider: FakeProvider) -> None:
    run = await run_of(chat(provider, profile={"temperature": False}, **wanting(temperature=1.2)))
    assert said(run) == {}
    assert "temperature" not in answers(provider)[0]


async def test_an_inner_models_own_settings_are_told_where_nothing_replaces_them(provider: FakeProvider) -> None:
    own = {"temperature": 0.9, "max_tokens": 77}
    assert said(await run_of(around(provider, own, planner="off"))) == own
    assert said(await run_of(around(provider, own, **wanting(temperature=0.1)))) == own | {"temperature": 0.1}
    assert said(await run_of(around(provider, own))) == {}, "a plan may replace them"


async def test_another_model_of_the_call_is_named(provider: FakeProvider) -> None:
    run = await run_of(chat(provider, planner="off"), model="other-model")
    assert run.metadata["ls_model_name"] == "other-model"


async def test_the_call_itself_is_shown_nowhere(provider: FakeProvider) -> None:
    seen: list[str] = []

    class Everything(Runs):
        def on_chat_model_start(self, *args: Any, **about: Any) -> None:
            seen.append(f"{args!r} {about!r}")

    llm = chat(provider)
    for mode in ("ainvoke", "stream", "astream", "events v3", "aevents v3"):
        await ask(llm, mode, config={"callbacks": [Everything()]}, selfreg_task="triage")
    assert len(seen) == 6
    assert "selfreg_call" not in " ".join(seen)
    assert not any(name.startswith("selfreg") for payload in provider.payloads for name in payload)


@pytest.mark.parametrize("mode", MODES)
async def test_what_cannot_work_fails_inside_the_run(provider: FakeProvider, mode: str) -> None:
    runs = Runs()
    with pytest.raises(UnknownPriceError):
        await ask(chat(provider, budget="1 USD"), mode, config={"callbacks": [runs]})
    assert [type(run.error) for run in runs.all.values()] == [UnknownPriceError]
    assert provider.requests == []
