"""Heads on the embedded model behind real HTTP: modes, bounds, traces whole and streamed, metrics, loading, the command."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from openai import OpenAI
from torch import nn

from local_backend import checkpoint
from local_backend.config import SetupError
from local_backend.generate import has_heads
from local_backend.heads import Heads, HeadsConfig
from local_backend.loading import load
from tests.backend.small_server import Served, running

ASK: list[Any] = [{"role": "user", "content": "Write two sentences with the words river and lamp."}]


@pytest.fixture(scope="module")
def heads_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random heads for the embedded model whose decisions differ a lot from token to token."""
    folder = tmp_path_factory.mktemp("heads") / "lively"
    model, tokenizer = load("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        heads = Heads(HeadsConfig(hidden_size=model.config.hidden_size))
        for head in (heads.temp_head, heads.top_p_head):
            assert head is not None
            nn.init.normal_(head.mlp[2].weight, std=0.3)
            nn.init.constant_(head.mlp[2].bias, 1.0)
    checkpoint.save_heads(folder, heads, base=model, base_name="tiny", tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def served(heads_folder: Path) -> Iterator[Served]:
    with running(*load("tiny", heads=heads_folder), model_name="tiny") as one:
        assert one.worker.started.wait(60)
        yield one


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with served.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def plain() -> Iterator[OpenAI]:
    """The same model without heads."""
    with running(*load("tiny"), model_name="tiny") as one, one.client() as opened:
        assert one.worker.started.wait(60)
        yield opened


def ask(client: OpenAI, *, selfreg: dict[str, Any] | None = None, **fields: Any) -> Any:
    options = {"model": "tiny", "messages": ASK, "max_tokens": 24, "seed": 5, **fields}
    return client.chat.completions.create(**options, extra_body={"selfreg": selfreg or {}})


def texts(reply: Any) -> list[str]:
    return [choice.message.content for choice in reply.choices]


def test_the_model_card_says_that_there_are_heads(client: OpenAI, plain: OpenAI) -> None:
    assert client.models.retrieve("tiny").selfreg["heads"] is True  # type: ignore[attr-defined]
    assert plain.models.retrieve("tiny").selfreg["heads"] is False  # type: ignore[attr-defined]


def test_heads_decide_and_the_reply_tells_what(client: OpenAI, plain: OpenAI) -> None:
    reply = ask(client, n=3, selfreg={"trace": True})
    report = reply.selfreg
    assert report["mode"] == "auto"
    assert sum(len(sample["token"]) for sample in report["trace"]) == reply.usage.completion_tokens
    for sample in report["trace"]:
        assert {len(column) for column in sample.values()} == {len(sample["token"])}
        assert set(sample) == {"text", "token", "temperature", "top_p", "entropy", "probability"}
        assert all(0 < p <= 1 for p in sample["probability"])
        assert all(h >= 0 for h in sample["entropy"])
    every = {name: [x for sample in report["trace"] for x in sample[name]] for name in ("temperature", "top_p")}
    assert report["temperature_mean"] == pytest.approx(fmean(every["temperature"]), rel=1e-4)
    assert report["top_p_mean"] == pytest.approx(fmean(every["top_p"]), rel=1e-4)
    assert max(every["temperature"]) - min(every["temperature"]) > 0.2, "the heads really differ from token to token"
    assert texts(reply) != texts(ask(plain, n=3)), "and it shows in the text"


def test_without_a_trace_only_the_means_travel(client: OpenAI) -> None:
    report = ask(client).selfreg
    assert set(report) == {"mode", "temperature_mean", "top_p_mean"}
    assert report["mode"] == "auto"


def test_the_traced_text_is_the_answer(client: OpenAI) -> None:
    reply = ask(client, selfreg={"trace": True})
    ended = reply.choices[0].finish_reason == "stop"
    pieces = reply.selfreg["trace"][0]["text"]
    assert "".join(pieces[:-1] if ended else pieces) == reply.choices[0].message.content


def test_a_streamed_trace_is_the_whole_ones_piece_by_piece(client: OpenAI) -> None:
    want = ask(client, n=2, selfreg={"trace": True}).selfreg
    chunks = list(ask(client, n=2, stream=True, selfreg={"trace": True}))
    got: list[dict[str, list[Any]]] = [{name: [] for name in want["trace"][0]} for _ in range(2)]
    for chunk in chunks:
        for sample in (getattr(chunk, "selfreg", None) or {}).get("trace", []):
            for name, column in sample.items():
                got[chunk.choices[0].index][name] += column
    assert got == want["trace"]
    assert sum("trace" in (getattr(chunk, "selfreg", None) or {}) for chunk in chunks) > 10, "it came as a stream"
    last = chunks[-1].selfreg
    assert {name: last[name] for name in ("mode", "temperature_mean", "top_p_mean")} == {
        name: want[name] for name in ("mode", "temperature_mean", "top_p_mean")
    }


def test_a_stream_without_a_trace_reports_once(client: OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    reports = [chunk.selfreg for chunk in chunks if getattr(chunk, "selfreg", None)]
    assert reports == [ask(client).selfreg]


def test_fixed_means_the_requests_numbers(client: OpenAI, plain: OpenAI) -> None:
    options = {"temperature": 0.7, "top_p": 0.9, "n": 2}
    reply = ask(client, **options, selfreg={"mode": "fixed"})
    assert reply.selfreg == {"mode": "fixed", "temperature_mean": 0.7, "top_p_mean": 0.9}
    assert texts(reply) == texts(ask(plain, **options))


def test_the_request_multiplies_and_the_bounds_hold(client: OpenAI) -> None:
    free = ask(client, max_tokens=1, selfreg={"trace": True}).selfreg["trace"][0]
    half = ask(client, max_tokens=1, temperature=0.5, top_p=0.5, selfreg={"trace": True}).selfreg["trace"][0]
    assert half["temperature"][0] == pytest.approx(free["temperature"][0] / 2, rel=1e-4)
    assert half["top_p"][0] == pytest.approx(free["top_p"][0] / 2, rel=1e-4)
    bounds = {"temperature": {"min": 0.9, "max": 1.0}, "top_p": {"max": 0.4}}
    trace = ask(client, selfreg={"trace": True, **bounds}).selfreg["trace"][0]
    assert all(0.9 <= t <= 1.0 for t in trace["temperature"])
    assert all(p <= 0.4 for p in trace["top_p"])
    assert {0.9, 1.0} & set(trace["temperature"]), "a bound was really met"
    assert 0.4 in trace["top_p"]


def test_temperature_0_is_greedy_with_heads_too(client: OpenAI, plain: OpenAI) -> None:
    reply = ask(client, temperature=0, selfreg={"temperature": {"min": 0.5}})
    assert reply.selfreg["temperature_mean"] == 0
    assert texts(reply) == texts(ask(plain, temperature=0))


def test_metrics_sum_what_was_used(served: Served, client: OpenAI) -> None:
    before = served.totals()
    reports = [ask(client, selfreg={"trace": True}), ask(client, n=2, selfreg={"trace": True})]
    after = served.totals()
    for name in ("temperature", "top_p"):
        used = [x for reply in reports for sample in reply.selfreg["trace"] for x in sample[name]]
        assert after[f"{name}_total"] - before[f"{name}_total"] == pytest.approx(sum(used), rel=1e-4)
    assert after["contained_decisions_total"] == 0


def test_nan_from_a_head_is_counted_and_the_answer_stands(served: Served, client: OpenAI) -> None:
    def poison(*_: Any) -> torch.Tensor:
        return torch.full((1, 1), torch.nan)

    with served.model.temp_head.register_forward_hook(poison):  # type: ignore[attr-defined]
        reply = ask(client, max_tokens=4)
    assert reply.selfreg == {"mode": "auto", "temperature_mean": 1, "top_p_mean": 1}
    assert served.totals()["contained_decisions_total"] == reply.usage.completion_tokens


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_heads_alone_brings_its_base(heads_folder: Path) -> None:
    model, tokenizer = load(heads_folder)
    assert has_heads(model)
    assert tokenizer.chat_template


def test_a_merged_folder_loads_as_it_is(heads_folder: Path, tmp_path: Path) -> None:
    checkpoint.merge(heads_folder, tmp_path / "merged")
    model, tokenizer = load(tmp_path / "merged")
    assert has_heads(model)
    assert tokenizer.chat_template
    want = checkpoint.load_heads(heads_folder)[0].state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in model.heads.state_dict().items())


def test_heads_saved_without_a_tokenizer_speak_their_bases(tmp_path: Path) -> None:
    base, _ = load("tiny")
    heads = Heads.neutral(HeadsConfig(hidden_size=base.config.hidden_size))
    checkpoint.save_heads(tmp_path / "bare", heads, base=base, base_name="tiny")
    model, tokenizer = load(tmp_path / "bare")
    assert has_heads(model)
    assert tokenizer.chat_template


def test_heads_of_another_base_are_refused_in_words(heads_folder: Path, model_folder: Path) -> None:
    with pytest.raises(SetupError, match="belong to another base"):
        load(model_folder, heads=heads_folder)


def test_the_command_serves_heads(heads_folder: Path) -> None:
    command = [sys.executable, "-m", "local_backend", "serve", "tiny", "--heads", str(heads_folder), "--port", "0"]
    process = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        with OpenAI(base_url=found[0], api_key="none", max_retries=0, timeout=60) as client:
            assert ask(client, max_tokens=4).selfreg["mode"] == "auto"
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
