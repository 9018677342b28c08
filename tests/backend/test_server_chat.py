"""Chat completions over real HTTP: shapes, seeds, stops, usage and refusals, as OpenAI clients see them."""

from __future__ import annotations

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI

from tests.backend.small_server import Served

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    with served.client() as opened:
        yield opened


def ask(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "small", "messages": HELLO, "max_tokens": 24, **fields})


def text(client: OpenAI, **fields: Any) -> str:
    return ask(client, **fields).choices[0].message.content


def streamed(client: OpenAI, **fields: Any) -> tuple[dict[int, str], dict[int, str], list[Any]]:
    """Texts and finish reasons by index, and every chunk."""
    chunks = list(ask(client, stream=True, **fields))
    texts: dict[int, str] = defaultdict(str)
    reasons: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            assert choice.index not in reasons, "a piece after the finish"
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return dict(texts), reasons, chunks


def test_a_whole_answer_has_the_shape_clients_know(served: Served) -> None:
    body = served.post(model="small", messages=HELLO, max_tokens=5, temperature=0).json()
    content = body["choices"][0]["message"]["content"]
    assert body == {
        "id": body["id"],
        "object": "chat.completion",
        "created": body["created"],
        "model": "small",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 22, "completion_tokens": 5, "total_tokens": 27},
        "selfreg": {"mode": "fixed", "temperature_mean": 0.0, "top_p_mean": 1.0},
    }
    assert content
    assert body["id"].startswith("chatcmpl-")


def test_a_stream_has_the_shape_clients_know(served: Served) -> None:
    body = {"model": "small", "messages": HELLO, "max_tokens": 6, "seed": 1, "n": 2, "stream": True}
    reply = served.post(**body, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, done = reply.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    roles, pieces, usage = chunks[:2], chunks[2:-1], chunks[-1]
    assert [c["choices"][0]["delta"] for c in roles] == [{"role": "assistant", "content": ""}] * 2
    assert all(chunk["usage"] is None for chunk in [*roles, *pieces])
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 22, "completion_tokens": 12, "total_tokens": 34}
    finals = [c for c in pieces if c["choices"][0]["finish_reason"]]
    assert sorted(c["choices"][0]["index"] for c in finals) == [0, 1]
    assert finals[-1]["selfreg"]["mode"] == "fixed"
    assert all(c["choices"][0]["delta"] == {} for c in finals)


def test_usage_is_only_streamed_when_asked_for(served: Served) -> None:
    reply = served.post(model="small", messages=HELLO, max_tokens=3, stream=True)
    assert '"usage"' not in reply.text


@pytest.mark.parametrize("fields", [{"seed": 5}, {"seed": 5, "n": 3}, {"temperature": 0}, {"seed": -1, "top_p": 0.5}])
def test_a_stream_says_what_the_whole_answer_says(client: OpenAI, fields: dict[str, Any]) -> None:
    whole = ask(client, **fields).choices
    texts, reasons, _ = streamed(client, **fields)
    assert texts == {c.index: c.message.content for c in whole}
    assert reasons == {c.index: c.finish_reason for c in whole}


def test_the_seed_decides_the_text(client: OpenAI) -> None:
    assert text(client, seed=3) == text(client, seed=3)
    assert len({text(client, seed=seed) for seed in range(4)}) == 4
    assert text(client) != text(client)


def test_a_crowd_gets_what_each_would_get_alone(client: OpenAI) -> None:
    alone = [text(client, seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda seed: text(client, seed=seed), range(12))) == alone


def test_samples_differ_and_the_first_is_the_single_one(client: OpenAI) -> None:
    samples = [c.message.content for c in ask(client, seed=3, n=6).choices]
    assert len(set(samples)) == 6
    assert samples[0] == text(client, seed=3)
    # Neighbouring request seeds share no sample.
    assert not set(samples) & {c.message.content for c in ask(client, seed=4, n=6).choices}


@pytest.mark.parametrize("temperature", [0, 1e-30, 1e-42, 5e-324])
def test_temperature_zero_is_greedy(client: OpenAI, temperature: float) -> None:
    greedy = text(client, temperature=0)
    assert {c.message.content for c in ask(client, temperature=temperature, n=3).choices} == {greedy}


@pytest.mark.parametrize(
    "fields", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1}, {"extra_body": {"selfreg": {"top_p": {"max": 1e-9}}}}]
)
def test_the_tightest_truncation_is_greedy(client: OpenAI, fields: dict[str, Any]) -> None:
    extra = fields if "extra_body" in fields or "top_p" in fields else {"extra_body": fields}
    assert text(client, **extra) == text(client, temperature=0)


@pytest.mark.parametrize(
    "fields",
    [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"extra_body": {"repetition_penalty": 5}}],
)
def test_penalties_reach_the_model(client: OpenAI, fields: dict[str, Any]) -> None:
    assert text(client, temperature=0, max_tokens=80, **fields) != text(client, temperature=0, max_tokens=80)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_limit_has_two_names(served: Served, name: str) -> None:
    body = served.post(model="small", messages=HELLO, temperature=0, **{name: 7}).json()
    assert body["usage"]["completion_tokens"] == 7
    assert body["choices"][0]["finish_reason"] == "length"


def test_without_a_limit_the_context_is_the_limit(client: OpenAI) -> None:
    reply = ask(client, seed=1, max_tokens=None, n=2)
    for choice in reply.choices:
        assert choice.finish_reason in ("stop", "length")
    assert reply.usage.completion_tokens <= 2 * (512 - reply.usage.prompt_tokens)
    assert reply.usage.completion_tokens > 24


def test_the_end_token_ends_and_counts(client: OpenAI) -> None:
    reply = ask(client, seed=1, n=64, max_tokens=60, extra_body={"selfreg": {"trace": True}})
    lengths = [len(sample["temperature"]) for sample in reply.selfreg["trace"]]
    by_reason = defaultdict(set)
    for choice, length in zip(reply.choices, lengths, strict=True):
        by_reason[choice.finish_reason].add(length)
        assert "<end>" not in choice.message.content
    assert by_reason["length"] == {60}
    assert min(by_reason["stop"]) < 60, "no sample drew the end token; choose another seed"
    assert reply.usage.completion_tokens == sum(lengths)


def test_a_stop_string_across_token_borders_never_leaks(client: OpenAI) -> None:
    full = text(client, seed=18, max_tokens=60)
    stop = full[20:25]
    texts, reasons, chunks = streamed(client, seed=18, max_tokens=60, stop=[stop, "never there"])
    assert reasons == {0: "stop"}
    assert texts[0] == full[: full.index(stop)]
    assert len(chunks) > 10, "the text came as a stream"
    reply = ask(client, seed=18, max_tokens=60, stop=stop)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (texts[0], "stop")
    assert reply.usage.completion_tokens < 60


def test_text_held_back_for_a_stop_string_arrives_when_it_never_comes(client: OpenAI) -> None:
    full = text(client, seed=18)
    begun = full[-2:] + " never there"
    assert streamed(client, seed=18, stop=begun)[:2] == ({0: full}, {0: "length"})
    assert text(client, seed=18, stop=begun) == full


def test_one_stopped_sample_leaves_the_others_running(client: OpenAI) -> None:
    free = [c.message.content for c in ask(client, seed=2, n=4, max_tokens=30).choices]
    stop = next(free[1][i : i + 3] for i in range(5, 25) if not any(free[1][i : i + 3] in free[j] for j in (0, 2, 3)))
    stopped = ask(client, seed=2, n=4, max_tokens=30, stop=stop).choices
    assert [c.message.content for c in stopped] == [free[0], free[1][: free[1].index(stop)], free[2], free[3]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 20), start=st.integers(0, 20), size=st.integers(1, 6), stream=st.booleans())
def test_stop_strings_cut_at_their_first_occurrence(
    client: OpenAI, seed: int, start: int, size: int, stream: bool
) -> None:
    full = text(client, seed=seed, max_tokens=24)
    stop = full[start : start + size] or "x"
    got = streamed(client, seed=seed, stop=stop)[0][0] if stream else text(client, seed=seed, stop=stop)
    assert got == full.partition(stop)[0]


def test_usage_is_what_the_server_counted(served: Served, client: OpenAI) -> None:
    before = served.totals()
    replies = [ask(client, seed=1, n=3), ask(client, seed=2, stop="a")]
    _, _, chunks = streamed(client, seed=3, n=2, stream_options={"include_usage": True})
    usages = [*(reply.usage for reply in replies), chunks[-1].usage]
    after = served.totals()
    delta = {name: after[name] - before[name] for name in after if name.endswith("_total")}
    assert delta == {
        "requests_total": 3,
        "prompt_tokens_total": sum(u.prompt_tokens for u in usages),
        "completion_tokens_total": sum(u.completion_tokens for u in usages),
        # Every token was drawn at the defaults, by a model without heads.
        "temperature_total": sum(u.completion_tokens for u in usages),
        "top_p_total": sum(u.completion_tokens for u in usages),
        "contained_decisions_total": 0,
    }
    assert usages[0].completion_tokens > 24, "usage is the sum over samples"


def test_the_extension_reports_what_was_used(client: OpenAI) -> None:
    options = {"mode": "auto", "temperature": {"min": 0.2, "max": 0.6}, "trace": True}
    reply = ask(client, temperature=1.3, top_p=0.9, n=2, max_tokens=3, seed=1, extra_body={"selfreg": options})
    assert {name: value for name, value in reply.selfreg.items() if name != "trace"} == {
        "mode": "fixed",
        "temperature_mean": 0.6,
        "top_p_mean": 0.9,
    }
    for sample in reply.selfreg["trace"]:
        assert (sample["temperature"], sample["top_p"]) == ([0.6] * 3, [0.9] * 3)
    assert [c.message.content for c in reply.choices] == [
        c.message.content for c in ask(client, temperature=0.6, top_p=0.9, n=2, max_tokens=3, seed=1).choices
    ]


def test_roles_and_parts_reach_the_template(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "Hello"}]
    same = [{"role": "developer", "content": "Be kind"}, {"role": "user", "content": parts}]
    plain = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hello"}]
    replies = [ask(client, messages=m, temperature=0) for m in (same, plain, HELLO)]
    assert replies[0].usage.prompt_tokens == replies[1].usage.prompt_tokens > replies[2].usage.prompt_tokens
    assert replies[0].choices[0].message.content == replies[1].choices[0].message.content


def test_labels_change_nothing(client: OpenAI) -> None:
    assert text(client, seed=1, user="someone", metadata={"run": "7"}) == text(client, seed=1)


def test_models(served: Served, client: OpenAI) -> None:
    [card] = client.models.list().data
    assert card == client.models.retrieve("small") == client.models.retrieve("default")
    assert (card.id, card.object, card.owned_by) == ("small", "model", "selfreg")
    assert card.selfreg == {"heads": False, "max_model_len": 512}  # type: ignore[attr-defined]
    assert text(client, model="default", seed=1) == text(client, seed=1)


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "gpt-9"}, 404, "model", "model_not_found"),
        ({"temperature": "hot"}, 400, "temperature", "invalid_type"),
        ({"surprise": 1}, 400, "surprise", "unknown_parameter"),
        ({"reasoning_effort": "low"}, 400, "reasoning_effort", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_value"),
        ({"max_tokens": 500}, 400, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "long " * 200}]}, 400, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "refuse me"}]}, 400, "messages", "invalid_value"),
    ],
)
def test_refusals(served: Served, fields: dict[str, Any], status: int, param: str, code: str) -> None:
    reply = served.post(**{"model": "small", "messages": HELLO, "stream": True, **fields})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"


def test_refusals_are_the_clients_own_exceptions(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="this server serves 'small'"):
        ask(client, model="other")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("owner/other")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405)]
)
def test_unknown_addresses_answer_in_the_same_shape(served: Served, method: str, path: str, status: int) -> None:
    reply = httpx.request(method, served.url + path)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_too_large_or_no_json_is_refused(served: Served) -> None:
    url = f"{served.url}/v1/chat/completions"
    assert httpx.post(url, content=b"{").json()["error"]["code"] == "invalid_json"
    reply = httpx.post(url, content=b" " * (4 * 2**20 + 1))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
