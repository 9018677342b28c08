"""Parameters join what the model's owner and the caller put into the same dict; the owner's object stays."""

from __future__ import annotations

from typing import Any

import pytest

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.adapters import Adapter, single_attempt
from tests.adapters.dialects import Json
from tests.adapters.packages import PACKAGES, Package
from tests.adapters.server import Server
from tests.adapters.table import paths
from tests.sdk.regulated import ONCE, record, wanting

OF = {package.name: package for package in PACKAGES}


def sent(name: str, wish: dict[str, Any], *, given: dict[str, Any], **call: Any) -> Json:
    """The request of one call, with a policy that wants ``wish``, on a model made with ``given``."""
    package = OF[name]
    with Server(package.dialect) as server:
        inner = package.make(server.url, **given)
        before = repr(inner)
        ChatSelfReg(inner=inner, store=":memory:", retry=ONCE, **wanting(**wish)).invoke("hello", **call)
        assert repr(inner) == before
        return server.bodies[0]


def test_ollama_keeps_the_options_of_its_owner() -> None:
    given = {"num_ctx": 512, "temperature": 0.9}
    body = sent("ChatOllama", {"temperature": 0.2, "min_p": 0.1, "max_tokens": 20}, given=given)
    assert body["options"] == {"num_ctx": 512, "temperature": 0.2, "num_predict": 20, "min_p": 0.1}


def test_options_of_the_caller_join_the_others_and_win() -> None:
    body = sent(
        "ChatOllama", {"temperature": 0.2, "top_k": 5}, given={"num_ctx": 512}, options={"mirostat": 1, "top_k": 9}
    )
    assert body["options"] == {"num_ctx": 512, "temperature": 0.2, "mirostat": 1, "top_k": 9}


def test_ollamas_stop_of_the_call_replaces_the_owners() -> None:
    body = sent("ChatOllama", {}, given={"stop": ["A"]}, stop=["B"])
    assert body["options"] == {"stop": ["B"]}


def test_extra_body_of_owner_and_policy_travel_together() -> None:
    body = sent("ChatOpenAI", {"temperature": 0.2}, given={"extra_body": {"own": 1}}, top_k=4)
    assert (body["own"], body["top_k"], body["temperature"]) == (1, 4, 0.2)


def test_googles_generation_config_of_the_caller_joins_and_wins() -> None:
    given = {"model": "gemini-2.0-flash"}
    config = {"seed": 5, "response_logprobs": True}
    body = sent("ChatGoogleGenerativeAI", {"seed": 1, "presence_penalty": 0.5}, given=given, generation_config=config)
    shown = {name: body["generationConfig"][name] for name in ("seed", "presencePenalty", "responseLogprobs")}
    assert shown == {"seed": 5, "presencePenalty": 0.5, "responseLogprobs": True}


def test_bedrocks_additional_fields_of_owner_caller_and_policy_travel_together() -> None:
    given = {"additional_model_request_fields": {"own": 1}}
    fields = {"theirs": 2}
    body = sent("ChatBedrockConverse", {"top_k": 4}, given=given, additional_model_request_fields=fields)
    assert body["additionalModelRequestFields"] == {"own": 1, "theirs": 2, "top_k": 4}


def test_model_kwargs_of_the_owner_do_not_hide_what_was_decided() -> None:
    given = {"model_kwargs": {"top_p": 0.1, "user": "me"}}
    body = sent("ChatGroq", {"top_p": 0.9}, given=given)
    assert (body["top_p"], body["user"]) == (0.9, "me")


def test_the_responses_api_keeps_the_rest_of_reasoning() -> None:
    body = sent(
        "ChatOpenAI (Responses)", {}, given={"reasoning": {"summary": "auto", "effort": "high"}}, reasoning_effort="low"
    )
    assert body["reasoning"] == {"summary": "auto", "effort": "low"}


SPELLED: tuple[tuple[str, dict[str, Any], str, dict[str, Any]], ...] = (
    ("ChatMistralAI", {"random_seed": 4}, "random_seed", {"seed": 4}),
    ("ChatBedrockConverse", {"maxTokens": 4}, "inferenceConfig.maxTokens", {"max_tokens": 4}),
    ("ChatGoogleGenerativeAI", {"max_output_tokens": 4}, "generationConfig.maxOutputTokens", {"max_tokens": 4}),
    ("ChatGoogleGenerativeAI", {"generation_config": {"top_k": 4}}, "generationConfig.topK", {"top_k": 4}),
    ("ChatOllama", {"options": {"num_predict": 4}}, "options.num_predict", {"max_tokens": 4}),
    ("ChatOllama", {"options": {"num_predict": -1}}, "options.num_predict", {}),
    ("ChatAnthropic", {"effort": "low"}, "output_config.effort", {"reasoning_effort": "low"}),
)


@pytest.mark.parametrize(("name", "call", "path", "meant"), SPELLED)
def test_an_argument_in_the_integrations_own_spelling_wins_and_counts(
    name: str, call: dict[str, Any], path: str, meant: dict[str, Any]
) -> None:
    """What a policy wants of the same parameter is put aside, and the record tells what was sent."""
    with Server(OF[name].dialect) as server:
        wish = {field: 64 for field in meant if field != "reasoning_effort"}
        llm = ChatSelfReg(inner=OF[name].make(server.url), store=":memory:", retry=ONCE, **wanting(**wish))
        assert record(llm.invoke("hello", **call))["sent"] == meant
        (value,) = [held for found, held in paths(server.bodies[0]) if found == path]
        assert value in (4, -1, "low")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_repeated_configuration_is_made_once_and_many_are_not_kept(package: Package) -> None:
    adapter = Adapter(single_attempt(package.make("http://127.0.0.1:9")))
    first, _ = adapter.fit({"max_tokens": 7}, {})
    assert adapter.fit({"max_tokens": 7}, {})[0] is first
    assert adapter.fit({"max_tokens": 8}, {})[0] is not first
    for cap in range(1000, 1100):
        adapter.fit({"max_tokens": cap}, {})
    assert adapter.fit({"max_tokens": 7}, {})[0] is not first
    assert adapter.fit({}, {})[0] is adapter.model
