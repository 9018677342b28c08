"""The replay endpoint serves what was recorded and bills it to the last token; the scores of a choice are exact."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: the replay of recorded answers needs it")

import numpy as np

from bench import replay_data
from bench.replay_client import Endpoint, serving
from bench.replay_data import Recorded
from bench.replay_endpoint import Refused, Replay
from bench.replay_scores import ballot, value
from bench.replay_task import Configuration, offer, problems_of
from bench.replay_truth import Pick, Truth
from selfreg_sdk.prompt_bound import prompt_token_bound
from tests.tiny_exam import SAMPLES, rows, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recorded(data: Path) -> Recorded:
    return replay_data.load(data, texts=True)


@pytest.fixture
def replay(recorded: Recorded) -> Replay:
    return Replay(recorded)


@pytest.fixture(scope="module")
def endpoint(data: Path, recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    truth = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    with serving(data, offer(recorded), truth=truth) as running:
        running.truth = truth  # type: ignore[attr-defined]
        yield running


def _asked(**more: object) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "[[prompt=steps]] Think."},
        {"role": "user", "content": "[[problem=5]] Which?"},
    ]
    return {"model": "cheap", "messages": messages, "temperature": 0.5, **more}


def _texts(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


def _recorded_texts(model: str, prompt: str, temperature: float, problem: int) -> list[str]:
    wanted = (model, prompt, temperature, problem)
    return sorted(
        row["text"] for row in rows() if (row["model"], row["prompt"], row["temperature"], row["problem_id"]) == wanted
    )


def test_requests_draw_without_replacement_in_the_order_of_the_seed(replay: Replay) -> None:
    replay.reset(7)
    parts = [_texts(replay.answer(_asked(n=n))) for n in (2, 1, 2)]
    assert sorted(itertools.chain(*parts)) == _recorded_texts("cheap", "steps", 0.5, 5)
    replay.reset(7)
    assert _texts(replay.answer(_asked(n=5))) == list(itertools.chain(*parts))
    orders = set()
    for seed in range(8):
        replay.reset(seed)
        orders.add(tuple(_texts(replay.answer(_asked(n=5)))))
    assert len(orders) > 4


def test_a_key_that_is_used_up_starts_over_in_a_new_order(replay: Replay) -> None:
    replay.reset(1)
    first, short, again = (_texts(replay.answer(_asked(n=n))) for n in (4, 2, 3))
    assert len(set(first)) == 4
    assert replay.bill.again == 1
    assert sorted(set(short + again)) == _recorded_texts("cheap", "steps", 0.5, 5)


def test_the_bill_counts_the_prompt_once_a_request_and_every_completion_token(replay: Replay) -> None:
    usage = [replay.answer(_asked(n=n))["usage"] for n in (1, 4)]
    tokens = sum(-(-len(text) // 4) for text in _recorded_texts("cheap", "steps", 0.5, 5))
    assert [each["prompt_tokens"] for each in usage] == [35, 35]
    assert sum(each["completion_tokens"] for each in usage) == tokens
    assert replay.bill.pico == 2 * 35 * 1_500_000 + tokens * 2_000_000


def test_max_tokens_cuts_text_bill_and_late_answers(replay: Replay) -> None:
    replay.reset(3)
    whole = replay.answer(_asked(n=5))
    replay.reset(3)
    cut = replay.answer(_asked(n=5, max_tokens=60))
    for full, short in zip(whole["choices"], cut["choices"], strict=True):
        text, kept = full["message"]["content"], short["message"]["content"]
        late = len(text) > 240
        assert (full["finish_reason"], short["finish_reason"]) == ("stop", "length" if late else "stop")
        assert kept == (text[: 60 * len(text) // -(-len(text) // 4)] if late else text)
        assert ballot(kept) == ("" if late else ballot(text))
    saved = whole["usage"]["completion_tokens"] - cut["usage"]["completion_tokens"]
    assert saved == -(-(50 * 8 + 19) // 4) - 60


def test_a_missing_sample_is_empty_wrong_and_billed_at_its_prompt(replay: Replay) -> None:
    asked = _asked(model="dear", temperature=1.0, n=SAMPLES)
    asked["messages"][1]["content"] = "[[problem=8]]"
    reply = replay.answer(asked)
    assert _texts(reply).count("") == 1
    assert reply["usage"]["prompt_tokens"] == 90 + 8 + 10
    assert reply["usage"]["completion_tokens"] == sum(
        -(-len(text) // 4) for text in _recorded_texts("dear", "steps", 1.0, 8)
    )


def test_temperatures_snap_to_the_grid_and_prompts_fall_back(replay: Replay) -> None:
    for wanted, recorded_at in ((0.2, 0.0), (0.3, 0.5), (1.2, 1.0), (None, 1.0)):
        replay.reset(0)
        reply = replay.answer(_asked(temperature=wanted, n=5))
        assert sorted(_texts(reply)) == _recorded_texts("cheap", "steps", recorded_at, 5)
    asked = _asked(model="dear", n=5)
    asked["messages"][0]["content"] = "[[prompt=plain,steps]]"
    assert sorted(_texts(replay.answer(asked))) == _recorded_texts("dear", "steps", 0.5, 5)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"model": "other"}, "model"),
        ({"temperature": 1.3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 6}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 0.9}, "top_p"),
        ({"stop": ["x"]}, "stop"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"messages": [{"role": "user", "content": "[[problem=5]]"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "[[prompt=steps]] [[problem=6]]"}]}, "messages"),
        ({"model": "dear", "messages": [{"role": "user", "content": "[[prompt=plain]] [[problem=5]]"}]}, "messages"),
    ],
)
def test_what_was_not_recorded_is_refused_and_costs_nothing(replay: Replay, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        replay.answer(_asked(**wrong))
    assert refused.value.param == param
    assert (replay.bill.pico, replay.bill.refused) == (0, 1)
    replay.answer(_asked(top_p=1, stop=None, seed=None, stream=False))


def test_many_connections_are_billed_exactly(endpoint: Endpoint, recorded: Recorded) -> None:
    endpoint.reset(2, latency=0.01)
    choice = Configuration(model="dear", prompt="steps", temperature=0.5, n=1, max_tokens=40)
    problems = problems_of(recorded, range(4))

    def worker(_: int) -> Decimal:
        with closing(endpoint.another("run")) as own:
            said = [own.complete(choice, problem, 2) for problem in problems for _ in range(6)]
        return sum((reply.prompt + reply.completion for reply in said), Decimal(0))

    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        paid = sum(threads.map(worker, range(8)), Decimal(0))
    assert time.monotonic() - began > 24 * 0.01
    assert paid == endpoint.bill()
    assert endpoint.facts()["requests"] == 8 * 4 * 6
    lines = [json.loads(line) for line in endpoint.truth.read_text().splitlines()]  # type: ignore[attr-defined]
    assert sum(line["pico"] for line in lines if line["run"] == "/run") == endpoint.facts()["pico"]
    with closing(endpoint.another("else")) as other:
        assert other.facts()["requests"] == 0


def test_no_model_bills_more_prompt_tokens_than_the_messages_have_bytes(recorded: Recorded) -> None:
    offered, problems = offer(recorded), problems_of(recorded, range(4))
    for (c, (_, prompt, _)), (p, problem) in itertools.product(enumerate(recorded.cells), enumerate(problems)):
        messages = offered.messages(prompt, problem)
        assert recorded.prompt[c, p] <= sum(len(each["content"].encode()) for each in messages)
        assert recorded.prompt[c, p] <= prompt_token_bound({"messages": messages})  # type: ignore[operator]


@pytest.mark.parametrize("max_tokens", [20, 1000])
def test_values_are_the_means_over_all_orders(recorded: Recorded, max_tokens: int) -> None:
    truth = Truth(recorded)
    for (c, p), metric, n in itertools.product(((0, 1), (4, 1), (8, 2)), ("vote", "expected_success"), range(1, 6)):
        texts = [recorded.content(c, p, slot, max_tokens) for slot in range(SAMPLES)]
        answer = recorded.letters[int(recorded.key[p])]
        means = [value(metric, drawn, answer) for drawn in itertools.permutations(texts, n)]  # type: ignore[arg-type]
        assert truth.value(metric, max_tokens)[c, p, n - 1] == pytest.approx(np.mean(means))  # type: ignore[arg-type]


def test_a_choice_above_its_budget_scores_nothing(recorded: Recorded) -> None:
    truth, all_problems = Truth(recorded), np.arange(4)
    pick = Pick(cell=8, n=3, max_tokens=1000)
    cost = float(truth.cost(1000)[8, :, 2].mean())
    fair = float(truth.value("vote", 1000)[8, all_problems, 2].mean())
    assert truth.score(pick, cost / 1.04, "vote", all_problems) == fair > 0
    assert truth.score(pick, cost / 1.06, "vote", all_problems) == 0
    assert truth.score(None, 1.0, "vote", all_problems) == 0
    best = truth.best_on_all(cost, "vote")
    assert truth.value("vote", recorded.longest)[best.cell, :, best.n - 1].mean() >= fair


def test_the_vote_and_expected_success_of_texts() -> None:
    texts = ['Answer("B")', "no idea", "Answer(A) then Answer('C')", 'Answer("C")', 'Answer("B")']
    assert [ballot(text) for text in texts] == ["B", "", "C", "C", "B"]
    assert (value("vote", texts, "B"), value("vote", texts, "C"), value("vote", ["no"], "")) == (1, 0, 0)
    assert value("expected_success", texts, "B") == pytest.approx(1 - 0.6**5)


def test_without_the_data_nothing_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"samples\.parquet"):
        replay_data.load(tmp_path)
