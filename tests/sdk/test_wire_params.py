"""Every decoding parameter, one request over HTTP, and exactly what arrived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from policies import FIELDS, Bounds
from tests.fake_provider import FakeProvider
from tests.sdk.regulated import MODEL, chat, record, wanting

USER = [{"role": "user", "content": "hello"}]
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
Way = Literal["constructor", "call", "policy"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A value, what it looks like on the wire (the same, unless told), and a model that takes it."""

    value: Any
    arrives: Any = None
    model: str = MODEL
    server: str | None = None


CASES = {
    "temperature": Case(value=0.25),
    "top_p": Case(value=0.5),
    "top_k": Case(value=40, server="vllm"),
    "min_p": Case(value=0.05, server="ollama"),
    "max_tokens": Case(value=17),
    "n": Case(value=2),
    "stop": Case(value="END", arrives=["END"]),
    "seed": Case(value=0),
    "presence_penalty": Case(value=-2.0),
    "frequency_penalty": Case(value=1.5),
    "repetition_penalty": Case(value=1.1, server="selfreg"),
    "reasoning_effort": Case(value="low", model="gpt-5-mini"),
    "verbosity": Case(value="high", model="gpt-5-mini"),
}


def send(provider: FakeProvider, way: Way, field: str, case: Case, *, streaming: bool) -> Any:
    """One request whose only decoding parameter is ``field``, set in one of three ways; the answer."""
    where = {"model": case.model, "server": case.server}
    given: dict[str, Any] = {field: case.value}
    match way:
        case "constructor":
            llm, per_call = chat(provider, planner="off", **where, **given), {}
        case "call":
            llm, per_call = chat(provider, planner="off", **where), given
        case "policy":
            llm, per_call = chat(provider, bounds=Bounds(n=4), **where, **wanting(**given)), {}
    if not streaming:
        return llm.invoke("hello", **per_call)
    whole = None
    for chunk in llm.stream("hello", **per_call):
        whole = chunk if whole is None else whole + chunk
    return whole


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("way", ["constructor", "call", "policy"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_parameter_arrives_and_nothing_else(provider: FakeProvider, field: str, way: Way, streaming: bool) -> None:
    case = CASES[field]
    answer = send(provider, way, field, case, streaming=streaming)
    arrived = {field: case.value if case.arrives is None else case.arrives}
    expected = {"model": case.model, "messages": USER, **arrived, **(STREAMED if streaming else {})}
    assert provider.payloads == [expected]
    assert record(answer)["sent"] == arrived
    assert record(answer)["ignored"] == []


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("way", ["constructor", "call", "policy"])
def test_the_token_cap_takes_the_name_the_model_knows(provider: FakeProvider, way: Way, streaming: bool) -> None:
    send(provider, way, "max_tokens", Case(value=17, model="gpt-4.1-mini"), streaming=streaming)
    (payload,) = provider.payloads
    assert payload["max_completion_tokens"] == 17
    assert "max_tokens" not in payload


def test_what_nobody_sets_is_absent(provider: FakeProvider) -> None:
    chat(provider, planner="off").invoke("hello")
    assert provider.payloads == [{"model": MODEL, "messages": USER}]


def test_none_means_not_set(provider: FakeProvider) -> None:
    nothing: dict[str, Any] = dict.fromkeys(FIELDS)
    chat(provider, planner="off", **nothing).invoke("hello", **nothing, max_completion_tokens=None)
    assert provider.payloads == [{"model": MODEL, "messages": USER}]


def test_the_other_name_of_the_token_cap_is_understood(provider: FakeProvider) -> None:
    chat(provider, planner="off").invoke("hello", max_completion_tokens=9)
    assert provider.payloads == [{"model": MODEL, "messages": USER, "max_tokens": 9}]


async def test_all_parameters_at_once_arrive_through_every_method(provider: FakeProvider) -> None:
    everything = {field: case.value for field, case in CASES.items()}
    arrives = {field: case.value if case.arrives is None else case.arrives for field, case in CASES.items()}
    llm = chat(provider, planner="off", **everything)
    llm.invoke("hello")
    await llm.ainvoke("hello")
    list(llm.stream("hello"))
    [chunk async for chunk in llm.astream("hello")]
    whole = {"model": MODEL, "messages": USER, **arrives}
    assert provider.payloads == [whole, whole, whole | STREAMED, whole | STREAMED]
