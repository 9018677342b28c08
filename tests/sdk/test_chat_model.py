"""ChatSelfReg through every way LangChain calls a chat model: what arrives, what is handed out, what is planned."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from tests.fake_billing import count_tokens, prompt_tokens
from tests.fake_provider import FakeProvider, RejectParam, no_usage, server_error
from tests.langchain.asking import Runs, ask
from tests.sdk.regulated import (
    MODEL,
    PLAN,
    PLANNED_MAX_TOKENS,
    PLANNED_TEMPERATURE,
    PLANNED_TOP_P,
    PRICES,
    answers,
    chat,
    planning,
    plans,
    record,
)

PLANNED = {"temperature": PLANNED_TEMPERATURE, "top_p": PLANNED_TOP_P, "max_tokens": PLANNED_MAX_TOKENS}
ANSWER = "echo: hello"
MODES = ("invoke", "ainvoke", "stream", "astream", "batch", "abatch")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider that plans when it is asked to."""
    with FakeProvider(reply=planning()) as running:
        yield running


# -- every way to call ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_every_method_plans_once_and_answers_as_planned(provider: FakeProvider, mode: str) -> None:
    llm = chat(provider)
    first, second = await ask(llm, mode), await ask(llm, mode)
    assert first.text == second.text == ANSWER
    assert [record(message)["source"] for message in (first, second)] == ["plan", "cached plan"]
    assert len(plans(provider)) == 1
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if "stream" in mode else {}
    expected = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **PLANNED, **streamed}
    assert answers(provider) == [expected, expected]


@pytest.mark.parametrize("mode", MODES)
async def test_usage_is_what_the_wire_said_and_leaves_the_plan_out(provider: FakeProvider, mode: str) -> None:
    message = await ask(chat(provider), mode)
    (payload,) = answers(provider)
    spent = {"input_tokens": prompt_tokens(payload), "output_tokens": count_tokens(ANSWER)}
    assert message.usage_metadata == spent | {"total_tokens": sum(spent.values())}
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["model_name"] == MODEL


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_call_ends_its_run_with_the_error(provider: FakeProvider, mode: str) -> None:
    runs = Runs()
    provider.script(server_error())
    with pytest.raises(Exception, match="500"):
        await ask(chat(provider, planner="off"), mode, config={"callbacks": [runs]})
    assert [(run.result, run.error is None) for run in runs.all.values()] == [(None, False)]


# -- the record -------------------------------------------------------------------------------------------------------


def test_the_record_tells_planned_sent_and_ignored(provider: FakeProvider) -> None:
    said = record(chat(provider, prices=PRICES, task="verse").invoke("hello", temperature=0.1))
    assert said.pop("request_id")
    assert {change.pop("detail") for change in said["ignored"]} == {
        "explicit argument",
        f"{MODEL} does not take reasoning_effort",
        f"{MODEL} does not take verbosity",
    }
    cost, plan_cost = Decimal(said.pop("cost_usd")), Decimal(said.pop("plan_cost_usd"))
    assert Decimal(0) < plan_cost < cost == provider.billed.usd
    assert said == {
        "task": f"verse|{MODEL}|first",
        "aggregation": "first",
        "source": "plan",
        "plan": PLAN.as_dict(),
        "planned": PLANNED | {"n": 1, "reasoning_effort": "low", "verbosity": "low"},
        "sent": PLANNED | {"temperature": 0.1},
        "ignored": [
            {"field": "temperature", "wanted": 1.2, "sent": 0.1, "why": "caller"},
            {"field": "reasoning_effort", "wanted": "low", "sent": None, "why": "capability"},
            {"field": "verbosity", "wanted": "low", "sent": None, "why": "capability"},
        ],
        "config_version": 1,
        "rejected": [],
        "attempts": 1,
        "flags": [],
        "samples": 1,
    }


def test_the_second_call_names_the_stored_configuration_and_costs_no_plan(provider: FakeProvider) -> None:
    llm = chat(provider, prices=PRICES)
    llm.invoke("hello")
    before = provider.billed.usd
    said = record(llm.invoke("hello"))
    assert (said["config_version"], said["source"], said["plan_cost_usd"]) == (1, "cached plan", "0")
    assert Decimal(said["cost_usd"]) == provider.billed.usd - before


def test_without_a_price_the_cost_is_unknown_and_not_zero(provider: FakeProvider) -> None:
    assert record(chat(provider).invoke("hello"))["cost_usd"] is None


def test_a_reply_without_usage_is_flagged(provider: FakeProvider) -> None:
    provider.script(no_usage())
    message = chat(provider, planner="off").invoke("hello")
    assert message.usage_metadata is None
    assert record(message)["flags"] == ["usage_missing"]


def test_a_refused_field_is_dropped_once_said_so_and_remembered(provider: FakeProvider) -> None:
    provider.rules.append(RejectParam(param="top_p"))
    llm = chat(provider)
    first, second = llm.invoke("hello"), llm.invoke("hello")
    assert [record(message)["rejected"] for message in (first, second)] == [["top_p"], []]
    assert all("top_p" not in record(message)["sent"] for message in (first, second))
    assert [("top_p" in payload) for payload in answers(provider)] == [True, False, False]


def test_unusable_plans_leave_the_defaults_and_say_why(provider: FakeProvider) -> None:
    provider.reply = planning(plan="I would rather write a poem.")
    said = record(chat(provider, defaults={"temperature": 0.6}).invoke("hello"))
    assert said["source"] == "default"
    assert said["sent"] == {"temperature": 0.6}
    assert said["plan_problem"] == "the planner's reply holds no plan"


# -- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_the_metadata_of_a_call_names_its_task_and_aggregation(provider: FakeProvider, mode: str) -> None:
    config = {"metadata": {"selfreg_task": "triage", "selfreg_aggregation": "vote of 2"}}
    message = await ask(chat(provider, task="other"), mode, config=config)
    assert record(message)["task"] == f"triage|{MODEL}|vote of 2"
    assert [payload.get("n") for payload in answers(provider)] == [2]


@pytest.mark.parametrize("way", ["constructor", "bind", "config", "generate"])
def test_where_a_task_may_be_named(provider: FakeProvider, way: str) -> None:
    named: dict[str, Any] = {"selfreg_task": "triage", "selfreg_aggregation": "any of 2"}
    match way:
        case "constructor":
            message: Any = chat(provider, task="triage", aggregation="any of 2").invoke("hello")
        case "bind":
            message = chat(provider).bind(**named).invoke("hello")
        case "config":
            message = chat(provider).with_config(metadata=named).invoke("hello")
        case _:
            made = chat(provider).generate([[HumanMessage("hello")]], metadata=named)
            message = made.generations[0][0].message  # type: ignore[union-attr]
    assert record(message)["task"] == f"triage|{MODEL}|any of 2"
    assert not any("selfreg" in name for payload in provider.payloads for name in payload)


def test_a_named_task_shares_its_plan_between_prompts(provider: FakeProvider) -> None:
    llm = chat(provider, task="triage")
    for text in ("one", "two", "three"):
        llm.invoke(text)
    assert len(plans(provider)) == 1


def test_unnamed_tasks_are_told_apart_by_the_system_prompt_else_by_the_prompt(provider: FakeProvider) -> None:
    llm = chat(provider)

    def task(*messages: Any) -> str:
        return record(llm.invoke(list(messages)))["task"]

    terse, chatty = SystemMessage("Be terse."), SystemMessage("Be chatty.")
    assert task(terse, HumanMessage("one")) == task(terse, HumanMessage("two"))
    assert task(terse, HumanMessage("one")) != task(chatty, HumanMessage("one"))
    assert len(plans(provider)) == 2
    assert task(HumanMessage("add 1 and 2")) == task(HumanMessage("add 34 and 56"))
    assert task(HumanMessage("add 1 and 2")) != task(HumanMessage("multiply 1 and 2"))
    assert len(plans(provider)) == 4


def test_an_aggregation_is_a_task_of_its_own(provider: FakeProvider) -> None:
    llm = chat(provider, task="triage")
    llm.invoke("hello")
    llm.invoke("hello", selfreg_aggregation="vote of 3")
    assert len(plans(provider)) == 2


@pytest.mark.parametrize("planner", ["off", "small-model"])
def test_who_plans(provider: FakeProvider, planner: str) -> None:
    message = chat(provider, planner=planner).invoke("hello")
    assert [payload["model"] for payload in plans(provider)] == ([] if planner == "off" else [planner])
    assert record(message)["source"] == ("default" if planner == "off" else "plan")


def test_a_profile_is_that_of_the_answering_model_alone(provider: FakeProvider) -> None:
    chat(provider, planner="small-model", profile={"temperature": False}).invoke("hello")
    assert ["temperature" in payload for payload in provider.payloads] == [True, False]


def test_another_chat_model_may_plan(provider: FakeProvider) -> None:
    with FakeProvider(reply=planning()) as other:
        chat(provider, planner=chat(other, model="planner-model", planner="off")).invoke("hello")
        assert [payload["model"] for payload in plans(other)] == ["planner-model"]
    assert plans(provider) == []
    assert answers(provider)[0]["temperature"] == PLANNED_TEMPERATURE


# -- explicit arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_arguments_of_the_call_win_over_the_constructor_and_both_over_the_plan(
    provider: FakeProvider, mode: str
) -> None:
    await ask(chat(provider, temperature=0.9, top_p=0.5), mode, temperature=0.0)
    (payload,) = answers(provider)
    assert (payload["temperature"], payload["top_p"]) == (0.0, 0.5)


def test_decoding_parameters_inside_extra_body_are_explicit_too(provider: FakeProvider) -> None:
    extra = {"temperature": 0.2, "n": 2, "max_completion_tokens": 9, "guided_regex": "[ab]"}
    llm = chat(provider, prices=PRICES, budget="1 USD")
    expected = llm.explain("hello", extra_body=extra)
    message = llm.invoke("hello", extra_body=extra)
    (payload,) = answers(provider)
    assert "max_completion_tokens" not in payload
    assert {name: payload[name] for name in ("temperature", "n", "max_tokens", "guided_regex")} == {
        "temperature": 0.2, "n": 2, "max_tokens": 9, "guided_regex": "[ab]",
    }  # fmt: skip
    assert record(message)["samples"] == 2
    one = llm.explain("hello", extra_body=extra | {"n": 1}).worst_case_usd
    assert one is not None
    assert expected.worst_case_usd is not None
    assert expected.worst_case_usd > one, "samples asked for in extra_body count for the worst case"


def test_a_copy_with_other_values_sends_them(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off", temperature=0.9)
    llm.model_copy(update={"temperature": 0.1, "model": "other-model"}).invoke("hello")
    llm.invoke("hello")
    assert [(payload["model"], payload["temperature"]) for payload in provider.payloads] == [
        ("other-model", 0.1),
        (MODEL, 0.9),
    ]


@pytest.mark.parametrize("way", ["constructor", "call", "bind", "kwarg wins"])
def test_stop_sequences(provider: FakeProvider, way: str) -> None:
    match way:
        case "constructor":
            chat(provider, planner="off", stop="END").invoke("hello")
        case "call":
            chat(provider, planner="off").invoke("hello", stop=["END"])
        case "bind":
            chat(provider, planner="off").bind(stop=["END"]).invoke("hello")
        case _:
            chat(provider, planner="off", stop=["never"]).invoke("hello", stop=["END"])
    assert provider.payloads[0]["stop"] == ["END"]


TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    "passed",
    [
        {"tools": [TOOL], "tool_choice": "auto"},
        {"response_format": {"type": "json_object"}},
        {"extra_body": {"tools": [TOOL]}},
    ],
    ids=["tools", "response_format", "tools in extra_body"],
)
def test_tools_and_formats_pass_unchanged_and_are_not_planned(provider: FakeProvider, passed: dict[str, Any]) -> None:
    message = chat(provider).invoke("hello", **passed)
    assert plans(provider) == []
    (payload,) = answers(provider)
    for name, value in (passed.get("extra_body") or passed).items():
        assert payload[name] == value
    assert record(message)["source"] == "default"


def test_a_stored_plan_serves_requests_with_tools(provider: FakeProvider) -> None:
    llm = chat(provider, task="triage")
    llm.invoke("hello")
    assert record(llm.invoke("hello", tools=[TOOL]))["source"] == "cached plan"


def test_other_arguments_pass_unchanged_and_langchains_own_stay_here(provider: FakeProvider) -> None:
    chat(provider, planner="off").invoke(
        "hello", logprobs=True, user="me", stream_usage=True, ls_structured_output_format={"schema": {}}
    )
    assert provider.payloads == [
        {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "logprobs": True, "user": "me"}
    ]


def test_content_parts_pass_through(provider: FakeProvider) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    message = chat(provider, prices=PRICES).invoke([HumanMessage(content=parts)])
    assert answers(provider)[0]["messages"] == [{"role": "user", "content": parts}]
    assert "What is this?" in plans(provider)[0]["messages"][1]["content"]
    assert "AAAA" not in plans(provider)[0]["messages"][1]["content"]
    assert message.usage_metadata is not None


# -- caches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_a_cached_answer_costs_nothing_and_sends_nothing(provider: FakeProvider, mode: str) -> None:
    llm = chat(provider, prices=PRICES, cache_answers=True)
    first = await ask(llm, mode)
    sent = len(provider.payloads)
    second = await ask(llm, mode)
    assert len(provider.payloads) == sent
    assert second.text == first.text
    said = record(second)
    assert (said["cost_usd"], said["attempts"], said["flags"]) == ("0", 0, ["cache"])
    await ask(llm, mode, temperature=0.3)
    assert len(provider.payloads) == sent + 1


def test_answers_are_not_kept_unless_asked_for(provider: FakeProvider) -> None:
    llm = chat(provider, planner="off")
    llm.invoke("hello")
    llm.invoke("hello")
    assert len(provider.payloads) == 2
