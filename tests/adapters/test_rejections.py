"""What a provider refuses of ours is dropped, once, and remembered; what a caller insists on is the caller's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.errors import ParameterRejected
from tests.adapters.packages import PACKAGES
from tests.adapters.server import Refusal, Server
from tests.adapters.table import WANTED, paths
from tests.sdk.regulated import ONCE, record, wanting

OF = {package.name: package for package in PACKAGES}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A refusal as a provider words it.

    Attributes:
        package: of the inner model.
        parameter: that is refused.
        wire: its name on the wire.
        says: the provider's words.
        status: of the error.
        given: arguments of the inner model.
        body: the error's whole body, where the words are not in their usual place.
    """

    package: str
    parameter: str
    says: str
    wire: str = ""
    status: int = 400
    given: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] | None = None


CASES = {
    "openai": Case(
        package="ChatOpenAI", parameter="top_p", says="Unsupported parameter: 'top_p' is not supported with this model."
    ),
    "responses": Case(
        package="ChatOpenAI (Responses)", parameter="top_p", says="Unsupported parameter: 'top_p' is not supported."
    ),
    "anthropic": Case(
        package="ChatAnthropic",
        parameter="reasoning_effort",
        wire="effort",
        says="output_config.effort: Extra inputs are not permitted",
        given={"model": "claude-opus-4-6"},
    ),
    "ollama": Case(package="ChatOllama", parameter="top_p", says='option "top_p" must be of type float32'),
    "ollama, by another name": Case(
        package="ChatOllama",
        parameter="repetition_penalty",
        wire="repeat_penalty",
        says='option "repeat_penalty" must be of type float32',
    ),
    "gemini": Case(
        package="ChatGoogleGenerativeAI",
        parameter="top_k",
        wire="topK",
        says="Invalid JSON payload received. Unknown name \"topK\" at 'generation_config': Cannot find field.",
        given={"model": "gemini-2.0-flash"},
    ),
    "gemini, by another name": Case(
        package="ChatGoogleGenerativeAI",
        parameter="max_tokens",
        wire="maxOutputTokens",
        says="* GenerateContentRequest.generation_config.max_output_tokens: value must be at most 10",
        given={"model": "gemini-2.0-flash"},
    ),
    "mistral": Case(
        package="ChatMistralAI",
        parameter="stop",
        says="",
        status=422,
        body={
            "detail": [{"type": "extra_forbidden", "loc": ["body", "stop"], "msg": "Extra inputs are not permitted"}]
        },
        given={"model": "mistral-small-latest"},
    ),
    "groq": Case(package="ChatGroq", parameter="seed", says="property 'seed' is unsupported"),
    "deepseek": Case(
        package="ChatDeepSeek",
        parameter="top_p",
        says="Invalid top_p value, the valid range of top_p is (0, 1.0]",
        given={"model": "deepseek-chat"},
    ),
    "bedrock": Case(
        package="ChatBedrockConverse",
        parameter="top_k",
        says="The model returned the following errors: top_k: Extra inputs are not permitted",
    ),
    "bedrock, by another name": Case(
        package="ChatBedrockConverse",
        parameter="max_tokens",
        wire="maxTokens",
        says="Malformed input request: #/inferenceConfig/maxTokens: expected maximum 10, please reformat your input",
    ),
}


def refusing(case: Case) -> Server:
    dialect = OF[case.package].dialect
    body = case.body
    if body is not None:
        dialect = replace(dialect, error=lambda status, message: body)
    server = Server(dialect)
    server.refuses[case.wire or case.parameter] = Refusal(status=case.status, message=case.says)
    return server


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_refused_parameter_is_dropped_once_and_remembered(case: Case) -> None:
    with refusing(case) as server:
        inner = OF[case.package].make(server.url, **case.given)
        wish = wanting(**{case.parameter: WANTED[case.parameter]})
        llm = ChatSelfReg(inner=inner, store=":memory:", retry=ONCE, **wish)
        answers = [llm.invoke("hello"), await llm.ainvoke("hello"), *list(llm.stream("hello"))[-1:]]
        assert [record(answer)["rejected"] for answer in answers] == [[case.parameter], [], []]
        assert [record(answer)["sent"] for answer in answers] == [{}, {}, {}]
        arrived = [WANTED[case.parameter] in dict(paths(body)).values() for body in server.bodies]
        assert arrived == [True, False, False, False]


# Not the token cap: it has two names, and a caller's may be sent under the other one.
OWN = {name: case for name, case in CASES.items() if case.parameter != "max_tokens"}


@pytest.mark.parametrize("case", OWN.values(), ids=OWN)
def test_a_callers_own_parameter_is_never_dropped(case: Case) -> None:
    with refusing(case) as server:
        inner = OF[case.package].make(server.url, **case.given)
        llm = ChatSelfReg(inner=inner, store=":memory:", planner="off", retry=ONCE)
        with pytest.raises(ParameterRejected) as caught:
            llm.invoke("hello", **{case.parameter: WANTED[case.parameter]})
        assert caught.value.param == case.parameter
        assert len(server.sent) == 1


@pytest.mark.parametrize("caller", [False, True], ids=["policy", "caller"])
def test_a_server_that_knows_the_old_name_of_the_cap_gets_it(caller: bool) -> None:
    with Server(OF["ChatOpenAI"].dialect) as server:
        says = "Unrecognized request argument supplied: max_completion_tokens"
        server.refuses["max_completion_tokens"] = Refusal(status=400, message=says)
        inner = OF["ChatOpenAI"].make(server.url, extra_body={"own": 1}, max_tokens=9)
        given: dict[str, Any] = {"planner": "off", "max_tokens": 64} if caller else wanting(max_tokens=64)
        llm = ChatSelfReg(inner=inner, store=":memory:", retry=ONCE, **given)
        first, second = llm.invoke("hello"), llm.invoke("hello")
        caps = [{name: body[name] for name in body if name.startswith("max_")} for body in server.bodies]
        assert caps == [{"max_completion_tokens": 64}, {"max_tokens": 64}, {"max_tokens": 64}]
        assert [body["own"] for body in server.bodies] == [1, 1, 1]
        assert [record(answer)["rejected"] for answer in (first, second)] == [["max_completion_tokens"], []]


def test_what_the_integration_refuses_before_the_wire_names_the_parameter() -> None:
    """ChatAnthropic raises a ValueError for models that take no temperature."""
    anthropic = OF["ChatAnthropic"]
    with Server(anthropic.dialect) as server:
        inner = anthropic.make(server.url, model="claude-sonnet-5-5")
        llm = ChatSelfReg(inner=inner, store=":memory:", retry=ONCE, planner="off")
        with pytest.raises(ParameterRejected) as caught:
            llm.invoke("hello", temperature=0.2)
        assert caught.value.param == "temperature"
        assert server.sent == []


def test_unknown_refusals_stay_what_they_are() -> None:
    """The companion: a complaint about something else drops nothing."""
    openai = OF["ChatOpenAI"]
    with Server(openai.dialect) as server:
        server.script(Refusal(status=400, message="Invalid 'messages': too few"))
        llm = ChatSelfReg(inner=openai.make(server.url), store=":memory:", retry=ONCE, **wanting(top_p=0.9))
        with pytest.raises(Exception, match="too few") as caught:
            llm.invoke("hello")
        assert not isinstance(caught.value, ParameterRejected)
        assert len(server.sent) == 1
