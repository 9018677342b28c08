"""The whole tuned pipeline by the name of its task: the winning model, its prompt and its settings."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from selfreg_sdk import ChatSelfReg, ConfigError, tune, tuned_prompt
from selfreg_sdk.cli import main
from selfreg_sdk.runtime import runtime
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.versions import tuned_key
from tests.fake_provider import FakeProvider, Payload
from tests.sdk.regulated import ONCE, PRICES, record
from tests.sdk.tuned_versions import TASK, Answers, tuned
from tests.stack import PRICE

WINNER = "other-model"


@pytest.fixture
def store(provider: FakeProvider, tmp_path: Path) -> str:
    """A store in which a task was tuned, another model having won."""
    shared = runtime(tmp_path / "tuned.db")
    where = {"base_url": provider.base_url}
    tuned(shared, "vote of 5", provenance=where)
    tuned(shared, "vote of 3", model=WINNER, best=True, provenance=where)
    return str(tmp_path / "tuned.db")


def test_the_winner_is_one_line_away(provider: FakeProvider, store: str) -> None:
    provider.reply = Answers("5", "4", "4")
    llm = ChatSelfReg.from_task(TASK, store=store, retry=ONCE)
    message = (tuned_prompt(TASK, store=store) | llm).invoke({"question": "2+2?"})

    (sent,) = provider.payloads
    assert (sent["model"], sent["n"], sent["temperature"]) == (WINNER, 3, 0.7)
    assert sent["messages"] == [
        {"role": "system", "content": "Answer with {}."},
        {"role": "user", "content": "2+2?"},
    ]
    assert (message.text, record(message)["votes"]) == ("4", {"5": 1, "4": 2})
    assert (llm.tuned_prompt | llm).invoke({"question": "2+2?"}).text == "4"


def test_what_is_given_wins(provider: FakeProvider, store: str) -> None:
    llm = ChatSelfReg.from_task(
        TASK, store=store, model="fake-model", aggregation="first", prices=PRICES, planner="off"
    )
    llm.invoke("hello")
    assert (provider.payloads[0]["model"], "n" in provider.payloads[0]) == ("fake-model", False)
    with pytest.raises(ConfigError, match="base_url"):
        ChatSelfReg.from_task(TASK, store=store, base_url="ftp://nowhere")


def test_what_was_not_tuned_is_said_with_the_command(store: str) -> None:
    for ask in (ChatSelfReg.from_task, tuned_prompt):
        with pytest.raises(
            ConfigError, match=r"'other' was not tuned in this store: run 'selfreg tune .*in this store: triage"
        ):
            ask("other", store=store)
    shared = runtime(store)
    record = shared.configs.get(1)
    shared.configs.add_version(replace(record, task_key=tuned_key("kept"), id=None))
    with pytest.raises(ConfigError, match=r"keep the baseline.*versions \d+;"):
        ChatSelfReg.from_task("kept", store=store)
    with pytest.raises(ConfigError, match="no task is named"):
        _ = ChatSelfReg(model=WINNER, store=store).tuned_prompt
    with pytest.raises(ConfigError, match="not tuned for model 'third-model'"):
        _ = ChatSelfReg(model="third-model", task=TASK, store=store).tuned_prompt


@pytest.mark.parametrize(
    "fields",
    [
        {"question": "{x} {{y}}"},
        {"question": 3.0},
        {"question": True},
        {"question": ["ü", None]},
        {"question": {"a": 1}},
    ],
)
def test_fields_are_filled_in_as_they_were_while_it_was_tuned(fields: dict[str, Any], tmp_path: Path) -> None:
    shared = runtime(tmp_path / "filled.db")
    messages = [["developer", "Be brief {{}}"], ["user", "Q: {question}"], ["assistant", "A?"], ["user", "{question}!"]]
    tuned(shared, best=True, provenance={"messages": messages})
    prompt = Prompt(name="p", messages=tuple((role, text) for role, text in messages))
    wanted = prompt.render(Example(id="1", fields=fields))

    llm = ChatSelfReg.from_task(TASK, store=tmp_path / "filled.db", aggregation="first", planner="off")
    assert llm.explain(llm.tuned_prompt.invoke(fields)).payload["messages"] == wanted


def test_the_command_line_tells_and_runs_what_was_tuned(
    provider: FakeProvider, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    provider.reply = Answers("5", "4", "4")
    (tmp_path / "prices.yaml").write_text(f"prices: {{{WINNER}: free}}")

    def run(*arguments: str) -> tuple[str, str]:
        usual = ["-m", WINNER, "--base-url", provider.base_url, "--task", TASK, "--store", store]
        monkeypatch.setattr("sys.argv", ["selfreg", *arguments, *usual, "--prices", str(tmp_path / "prices.yaml")])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr()

    assert "vote of 3, in at most 2 requests" in run("explain", "2+2?").out
    assert json.loads(run("explain", "2+2?", "--json").out)["aggregation"] == "vote of 3"
    answered = run("ask", "2+2?")
    assert (answered.out, "vote of 3: 3 drawn" in answered.err) == ("4\n", True)
    assert "vote" not in run("ask", "2+2?", "--aggregation", "first", "-p", "max_tokens=5").err


def test_from_the_examples_to_the_pipeline(provider: FakeProvider, tmp_path: Path) -> None:
    """Tune a task whose models are right more or less often, and run what came of it."""
    dice, lock = random.Random(3), Lock()

    def reply(payload: Payload) -> list[str]:
        left, right = (int(number) for number in payload["messages"][-1]["content"].split(":")[1].split("+"))
        share = {WINNER: 0.7, "fake-model": 0.2}[payload["model"]]
        with lock:
            off = [0 if dice.random() < share else dice.randint(1, 9) for _ in range(payload.get("n") or 1)]
        return [f"It is {left + right + one}." for one in off]

    provider.reply = reply
    (tmp_path / "prices.yaml").write_text(
        "prices: "
        + json.dumps(dict.fromkeys([WINNER, "fake-model"], PRICE.model_dump(mode="json", exclude_unset=True)))
    )
    task = {
        "name": "sums",
        "examples": [{"question": f"{i}+{i + 1}", "answer": 2 * i + 1} for i in range(24)],
        "prompts": {"plain": "Add {{now}}: {question}"},
        "models": ["fake-model", WINNER],
        "base_url": provider.base_url,
        "prices": str(tmp_path / "prices.yaml"),
        "metric": {"name": "vote", "scorer": "numeric"},
        "space": {"temperature": [0.7], "n": [1, 7], "max_tokens": [32]},
        "budget": "0.03",
        "inference_budget": "0.001",
    }
    found = tune(task, store=tmp_path / "sums.db")
    assert found.winner is not None
    assert (found.winner.config["model"], found.winner.aggregation) == (WINNER, "vote of 7")

    llm = ChatSelfReg.from_task("sums", store=tmp_path / "sums.db", prices=tmp_path / "prices.yaml")
    before = len(provider.payloads)
    message = (llm.tuned_prompt | llm).invoke({"question": "20+3"})
    (sent,) = provider.payloads[before:]
    assert sent["messages"] == [{"role": "user", "content": "Add {now}: 20+3"}]
    said = record(message)
    assert (said["source"], said["aggregation"], said["config_version"]) == (
        "tuned",
        "vote of 7",
        found.versions[WINNER],
    )
    assert set(said["votes"]) <= {str(23 + off) for off in range(10)}
    assert message.text == f"It is {max(said['votes'], key=said['votes'].get)}."
