"""What was tuned is what runs: the version is found by its task, brings its samples and its vote, and the caller still wins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.output_parsers import StrOutputParser

from policies import Aggregation, Bounds, DecodingParams, StaticPolicy
from selfreg_sdk import ConfigError, SelfRegulationMiddleware, regulate, with_selfreg
from selfreg_sdk.runtime import runtime
from selfreg_sdk.store import Store, remembered
from tests.fake_provider import FakeProvider, RejectParam
from tests.sdk.around import MODES, ask
from tests.sdk.regulated import MODEL, PRICES, answers, chat, planning, priced, record
from tests.sdk.tuned_versions import TASK, Answers, asked, tuned, tuned_chat

FOUR_OF_SEVEN = ("5", "4", "4", "5", "4", "4", "6")


@pytest.mark.parametrize("mode", MODES)
async def test_the_tuned_samples_are_drawn_and_vote(provider: FakeProvider, mode: str) -> None:
    provider.reply = Answers(*FOUR_OF_SEVEN)
    llm = tuned_chat(provider)
    message = await ask(llm, mode)

    assert message.text == "4"
    assert [(sent["n"], sent["temperature"], sent["max_tokens"]) for sent in provider.payloads] == [(7, 0.7, 40)]
    said = record(message)
    assert (said["source"], said["config_version"]) == ("tuned", 1)
    assert (said["task"], said["aggregation"]) == (f"{TASK}|{MODEL}|vote of 7", "vote of 7")
    assert (said["votes"], said["abstained"]) == ({"5": 2, "4": 4, "6": 1}, 0)
    assert (said["samples"], said["samples_of"], said["decided_early"]) == (7, 7, False)
    assert said["cost_usd"] == str(provider.billed.usd)
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == provider.billed.completion_tokens


async def test_one_tuned_sample_streams(provider: FakeProvider) -> None:
    provider.reply = lambda payload: "a long answer in many pieces"
    llm = tuned_chat(provider, "first")
    chunks = [chunk.text async for chunk in llm.astream("hello")]

    assert len([text for text in chunks if text]) > 1
    assert provider.payloads[0]["stream"] is True
    assert provider.payloads[0]["temperature"] == 0.7


@pytest.mark.parametrize(
    ("given", "call", "n"),
    [
        ({"aggregation": "first"}, {}, None),
        ({"aggregation": "vote of 3"}, {}, 3),
        ({"n": 2}, {}, 2),
        ({}, {"n": 2}, 2),
        ({}, {"extra_body": {"n": 2}}, 2),
        ({}, {"selfreg_aggregation": "vote of 3"}, 3),
        ({}, {"selfreg_aggregation": "first"}, None),
    ],
)
def test_the_caller_wins_and_the_exact_key_counts(
    provider: FakeProvider, given: dict[str, Any], call: dict[str, Any], n: int | None
) -> None:
    llm = tuned_chat(provider, **given)
    said = record(llm.invoke("hello", **call))

    assert provider.payloads[0].get("n") == n
    assert (said["source"], said["config_version"]) == ("default", None)
    assert "temperature" not in provider.payloads[0]


def test_other_tasks_and_models_and_unnamed_requests_are_not_touched(provider: FakeProvider) -> None:
    llm = tuned_chat(provider)
    for kwargs in ({"selfreg_task": "other"}, {"model": "another-model"}):
        assert record(llm.invoke("hello", **kwargs))["source"] == "default"
    unnamed = llm.model_copy(update={"task": None})
    assert record(unnamed.invoke("hello"))["source"] == "default"
    assert record(unnamed.invoke("hello", selfreg_task=TASK))["source"] == "tuned"


def test_before_the_tuning_a_task_is_planned_and_afterwards_no_more(provider: FakeProvider) -> None:
    provider.reply = planning(Answers("4"))
    llm = chat(provider, task=TASK)
    assert record(llm.invoke("hello"))["source"] == "plan"
    tuned(llm._ready.shared)
    assert record(llm.invoke("hello"))["source"] == "tuned"
    assert len(provider.payloads) == 3
    assert answers(provider)[-1]["n"] == 7


def test_a_policy_that_looks_at_nothing_tuned_takes_one_sample(provider: FakeProvider) -> None:
    llm = tuned_chat(provider, policy=StaticPolicy(params=DecodingParams(temperature=0.2)))
    said = record(llm.invoke("hello"))

    assert (said["source"], said["aggregation"], asked(provider)) == ("static", "first", [1])


def test_a_request_with_tools_takes_one_sample_with_the_settings_of_one(provider: FakeProvider) -> None:
    several, one = tuned_chat(provider), tuned_chat(provider, "first")
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    assert record(several.invoke("hello", tools=[tool]))["source"] == "default"
    assert record(one.invoke("hello", tools=[tool]))["source"] == "tuned"
    assert asked(provider) == [1, 1]


def test_bounds_that_allow_fewer_samples_hold(provider: FakeProvider) -> None:
    provider.reply = Answers("4", "5", "5")
    said = record(tuned_chat(provider, bounds=Bounds(n=3)).invoke("hello"))

    assert (said["aggregation"], said["votes"], asked(provider)) == ("vote of 3", {"4": 1, "5": 2}, [3])
    assert said["flags"] == ["n_bounded: 7"]


# -- named versions ----------------------------------------------------------------------------------------------------


def test_a_tuned_version_may_be_named_and_names_its_task(provider: FakeProvider) -> None:
    provider.reply = Answers("4")
    llm = chat(provider, planner="off")
    first = tuned(llm._ready.shared, "vote of 3", best=True)  # the winner over all models
    tuned(llm._ready.shared, "vote of 5")
    for call in ({"selfreg_task": TASK}, {}):
        said = record(llm.invoke("hello", selfreg_config=first, **call))
        assert (said["config_version"], said["aggregation"]) == (first, "vote of 3")
        assert said["task"] == f"{TASK}|{MODEL}|vote of 3"
    fewer = record(llm.invoke("hello", selfreg_config=first, selfreg_aggregation="vote of 2"))
    assert (fewer["config_version"], fewer["samples_of"], fewer["sent"]["temperature"]) == (first, 2, 0.7)


def test_a_version_of_another_task_or_model_is_refused(provider: FakeProvider) -> None:
    llm = tuned_chat(provider)
    with pytest.raises(ConfigError, match="belongs to task"):
        llm.invoke("hello", selfreg_config=1, selfreg_task="other")
    with pytest.raises(ConfigError, match=f"tuned for model '{MODEL}', not for 'another-model'"):
        llm.invoke("hello", selfreg_config=1, model="another-model")
    assert provider.requests == []


def test_a_cascade_is_no_configuration_of_one_model(provider: FakeProvider) -> None:
    llm = tuned_chat(provider, provenance={"cascade": [{}, {}]})
    assert record(llm.invoke("hello"))["source"] == "default"
    with pytest.raises(ConfigError, match=r"cascade of two models: ChatSelfReg.from_task"):
        llm.invoke("hello", selfreg_config=1)


def test_a_version_that_cannot_be_read_is_as_if_there_were_none(provider: FakeProvider) -> None:
    llm = chat(provider, task=TASK, planner="off")
    for changes in ({"params": {"temperature": 99}}, {"aggregation": "quorum of 3"}):
        tuned(llm._ready.shared, **changes)
        assert record(llm.invoke("hello"))["source"] == "default"


# -- what a vote compares ----------------------------------------------------------------------------------------------

SAID = ("It is 4", "so: 4.0", "No idea", "no idea", "No Idea", "5", "no idea ")


@pytest.mark.parametrize(
    ("ballot", "chosen", "votes"),
    [
        (None, "No idea", {"it is 4": 1, "so: 4.0": 1, "no idea": 4, "5": 1}),
        ({"kind": "numeric"}, "It is 4", {"4": 2, "5": 1}),
        ({"kind": "regex", "pattern": r"(\d)$"}, "It is 4", {"4": 1, "0": 1, "5": 1}),
        ({"kind": "exact", "ignore_case": True}, "No idea", {"it is 4": 1, "so: 4.0": 1, "no idea": 4, "5": 1}),
        ({"kind": "judge", "rubric": "good"}, "No idea", {"it is 4": 1, "so: 4.0": 1, "no idea": 4, "5": 1}),
    ],
)
def test_ballots_are_those_of_the_tuning(
    provider: FakeProvider, ballot: Any, chosen: str, votes: dict[str, int]
) -> None:
    provider.reply = lambda payload: list(SAID)
    message = tuned_chat(provider, provenance={"ballot": ballot}).invoke("2+2?")
    assert (message.text, record(message)["votes"]) == (chosen, votes)
    assert record(message)["abstained"] == 7 - sum(votes.values())
    assert record(message)["flags"] == []


def test_json_and_code_vote_by_what_they_hold(provider: FakeProvider) -> None:
    provider.reply = lambda payload: ['{"a": 2}', 'Here: {"a":1}', '```json\n{"a": 1}\n```'] + ["?"] * 4
    ballot = {"kind": "json_schema", "schema": {"type": "object"}}
    assert record(tuned_chat(provider, provenance={"ballot": ballot}).invoke("x"))["votes"] == {
        '{"a":2}': 1,
        '{"a":1}': 2,
    }
    provider.reply = lambda payload: ["x = 1", "```python\nx = 1\n\n```", "y = 1"] + [" "] * 4
    said = record(tuned_chat(provider, provenance={"ballot": {"kind": "code"}}).invoke("x"))
    assert (said["votes"], said["abstained"]) == ({"x = 1": 2, "y = 1": 1}, 4)


def test_a_ballot_of_a_later_release_is_the_text_and_said(provider: FakeProvider) -> None:
    said = record(tuned_chat(provider, provenance={"ballot": {"kind": "telepathy"}}).invoke("x"))
    assert said["flags"] == ["ballot_unknown"]


def test_a_function_is_imported_when_a_version_that_names_it_runs(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ballots_of_mine.py").write_text(
        "def last(text):\n    return text[-1] if text[-1:].isdigit() else None\n"
    )
    provider.reply = lambda payload: list(SAID)
    ballot = {"function": "ballots_of_mine:last", "folder": str(tmp_path)}
    llm = tuned_chat(provider, provenance={"ballot": ballot})
    llm.explain("x")
    assert "ballots_of_mine" not in sys.modules
    assert record(llm.invoke("x"))["votes"] == {"4": 1, "0": 1, "5": 1}
    monkeypatch.delitem(sys.modules, "ballots_of_mine")

    gone = tuned_chat(provider, provenance={"ballot": {"function": "no_such_ballots:last"}})
    before = len(provider.requests)
    with pytest.raises(ConfigError, match=r"'no_such_ballots:last'.*pass vote_key="):
        gone.invoke("x")
    assert len(provider.requests) == before
    assert gone.model_copy(update={"vote_key": str.lower}).invoke("x").text == "No idea"


def test_the_callers_own_vote_wins(provider: FakeProvider) -> None:
    provider.reply = lambda payload: list(SAID)
    llm = tuned_chat(provider, provenance={"ballot": {"kind": "numeric"}}, vote_key=lambda text: text[0].lower())
    assert record(llm.invoke("x"))["votes"] == {"i": 1, "s": 1, "n": 4, "5": 1}


def test_the_best_of_several_needs_a_scorer_before_anything_is_paid(provider: FakeProvider) -> None:
    provider.reply = Answers("a", "bbb", "cc")
    llm = tuned_chat(provider, "best of 3")
    with pytest.raises(ConfigError, match=r"'best of 3' \(config version 1\).*pass scorer="):
        llm.invoke("x")
    assert provider.requests == []
    assert llm.model_copy(update={"scorer": len}).invoke("x").text == "bbb"


# -- other faces, and the way there ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("takes_n", [True, False])
async def test_regulated_models_run_what_was_tuned(
    provider: FakeProvider, openai_model: Any, mode: str, takes_n: bool
) -> None:
    if not takes_n:
        provider.rules.append(RejectParam(param="n"))
    provider.reply = Answers("5", "4", "4")
    llm: Any = regulate(openai_model(), task=TASK, store=":memory:", planner="off", prices=priced("gpt-4.1-mini"))
    tuned(llm._chat._ready.shared, "vote of 3", model="gpt-4.1-mini")
    message = await ask(llm, mode)
    assert message.text == "4"
    assert record(message)["votes"] == {"5": 1, "4": 2}
    assert record(message)["cost_usd"] == str(provider.billed.usd)
    assert asked(provider) == ([3] if takes_n else [3, 1, 1, 1])


def test_a_step_of_a_chain_runs_what_was_tuned_for_its_name(
    provider: FakeProvider, openai_model: Any, tmp_path: Path
) -> None:
    provider.reply = Answers("5", "4", "4")
    tuned(runtime(tmp_path / "chain.db"), "vote of 3", model="gpt-4.1-mini")
    step = openai_model().with_config(run_name=TASK)
    chain = with_selfreg(step | StrOutputParser(), store=tmp_path / "chain.db", planner="off")
    assert chain.invoke("2+2?") == "4"
    assert asked(provider) == [3]


def test_a_step_of_an_agent_runs_what_was_tuned_for_its_name(
    provider: FakeProvider, openai_model: Any, tmp_path: Path
) -> None:
    provider.reply = Answers("5", "4", "4")
    tuned(runtime(tmp_path / "agent.db"), "vote of 3", model="gpt-4.1-mini")
    middleware = SelfRegulationMiddleware(task=lambda _: TASK, store=tmp_path / "agent.db", planner="off")
    done = create_agent(openai_model(), middleware=[middleware]).invoke({"messages": [("user", "2+2?")]})
    assert done["messages"][-1].text == "4"
    assert asked(provider) == [3]


def test_langchains_cache_keeps_the_votes(provider: FakeProvider) -> None:
    provider.reply = Answers("5", "4", "4")
    llm = tuned_chat(provider, "vote of 3", cache=InMemoryCache())
    first, second = record(llm.invoke("2+2?")), record(llm.invoke("2+2?"))
    assert (second["votes"], second["cost_usd"], second["flags"]) == (first["votes"], "0", ["langchain_cache"])


async def test_the_way_there_costs_no_store_read_and_no_thread(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "LOOK_EVERY", 1000.0)
    monkeypatch.setattr(remembered, "AT_MOST", 1000.0)
    llm = tuned_chat(provider)
    regulator = llm._ready.answering.regulator
    call = llm._read([], None, {})
    first = await regulator.adecide(call.request)
    monkeypatch.setattr(Store, "read", lambda store: pytest.fail("the store was read"))
    monkeypatch.setattr("asyncio.to_thread", lambda *_: pytest.fail("a thread was used"))
    for _ in range(5):
        again = await regulator.adecide(llm._read([], None, {}).request)
        assert again.compiled is first.compiled
        assert again.aggregation == Aggregation.parse("vote of 7")


def test_explain_tells_it(provider: FakeProvider) -> None:
    found = tuned_chat(provider).explain("hello")
    assert (found.decision["aggregation"], found.payload["n"], found.decision["config_version"]) == ("vote of 7", 7, 1)
    assert found.most_requests == 2
    once = chat(provider, prices=PRICES, planner="off", max_tokens=40).explain("hello")
    assert found.worst_case_usd is not None
    assert once.worst_case_usd is not None
    assert found.worst_case_usd > once.worst_case_usd
