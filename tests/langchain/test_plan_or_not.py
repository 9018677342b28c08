"""Which calls are planned: not those with tools or formats, unless they say so; a stored configuration shapes all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from selfreg_sdk import ChatSelfReg, ConfigError
from tests.competent_server import CompetentServer
from tests.langchain.asking import MODES, Runs, ask
from tests.sdk.regulated import MODEL, ONCE, answers, chat, plans, record


@pytest.fixture
def provider() -> Iterator[CompetentServer]:
    with CompetentServer() as running:
        yield running
        assert running.problems == []


def around(provider: CompetentServer, **given: Any) -> ChatSelfReg:
    inner = ChatOpenAI(model=MODEL, base_url=provider.base_url, api_key="sk-test", http_socket_options=())  # type: ignore[arg-type]
    return ChatSelfReg(inner=inner, **({"store": ":memory:", "retry": ONCE} | given))


class Sum(BaseModel):
    """A sum."""

    a: int
    b: int


TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
UNPLANNED: dict[str, dict[str, Any]] = {
    "tools": {"tools": [TOOL]},
    "auto": {"tools": [TOOL], "tool_choice": "auto"},
    "forced": {"tools": [TOOL], "tool_choice": "required"},
    "format": {"response_format": {"type": "json_object"}},
}


@pytest.mark.parametrize("kind", UNPLANNED)
@pytest.mark.parametrize("make", [chat, around])
def test_calls_with_tools_and_formats_are_not_planned(provider: CompetentServer, make: Any, kind: str) -> None:
    llm, runs = make(provider, task="triage"), Runs()
    message = llm.invoke("hello", {"callbacks": [runs]}, **UNPLANNED[kind])
    assert (record(message)["source"], plans(provider), len(runs.all)) == ("default", [], 1)
    llm.invoke("hello")
    assert len(plans(provider)) == 1
    again = llm.invoke("hello", **UNPLANNED[kind])
    assert record(again)["source"] == "cached plan"
    assert answers(provider)[-1]["temperature"] == record(again)["planned"]["temperature"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [chat, around])
async def test_a_call_may_ask_to_be_planned(provider: CompetentServer, make: Any, mode: str) -> None:
    runs = Runs()
    message = await ask(make(provider), mode, config={"callbacks": [runs]}, tools=[TOOL], selfreg_plan=True)
    assert record(message)["source"] == "plan"
    assert [run.name for run in runs.inside(runs.roots[0])] == ["selfreg plan"]
    assert "tools" not in plans(provider)[0]
    assert not any("selfreg" in name for payload in provider.payloads for name in payload)


@pytest.mark.parametrize("way", ["bound", "bound with tools", "metadata"])
@pytest.mark.parametrize("make", [chat, around])
def test_where_it_may_be_asked_for(provider: CompetentServer, make: Any, way: str) -> None:
    llm, metadata = make(provider), {}
    match way:
        case "bound":
            asked = llm.bind_tools([TOOL]).bind(selfreg_plan=True)
        case "bound with tools":
            asked = llm.bind_tools([TOOL], selfreg_plan=True, selfreg_task="triage")
        case _:
            asked, metadata = llm.bind_tools([TOOL]), {"selfreg_plan": True}
    message = asked.invoke("hello", {"metadata": metadata})
    assert record(message)["source"] == "plan"
    assert not any("selfreg" in name for payload in provider.payloads for name in payload)


def test_a_call_may_refuse_to_be_planned(provider: CompetentServer) -> None:
    assert record(chat(provider).invoke("hello", selfreg_plan=False))["source"] == "default"
    assert plans(provider) == []
    with pytest.raises(ConfigError, match="selfreg_plan='yes'"):
        chat(provider).invoke("hello", selfreg_plan="yes")


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("make", [chat, around])
def test_structured_output_starts_one_run(provider: CompetentServer, make: Any, method: str) -> None:
    runs = Runs()
    llm = make(provider).with_structured_output(Sum, method=method)
    assert llm.invoke("add 3 and 4", {"callbacks": [runs]}) == Sum(a=3, b=4)
    assert len(runs.all) == 1
    assert plans(provider) == []
