"""The trace of a text: what was decided, how open the choice was, and how likely what was chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from local_backend.model import AutoDecoModelForCausalLM
from local_backend.trace import RowTrace, Trace
from tests.backend.autodeco_reference import caught, make_base, make_heads, make_model, prompts, reference


def _expected(model: AutoDecoModelForCausalLM, text: Tensor, prompt: int, heat: float = 1.0) -> RowTrace:
    """The trace of a finished text from one pass over it, in float64."""
    hidden, logits, _ = caught(model.llm, input_ids=text.unsqueeze(0))
    drawn_at = slice(prompt - 1, len(text) - 1)
    decided = reference(model.heads, hidden[0, drawn_at], logits[0, drawn_at], heat=heat)
    p = logits[0, drawn_at].double().softmax(-1)
    tokens = text[prompt:]
    return RowTrace(
        token=tokens.tolist(),
        temperature=decided.temperature.tolist(),
        top_p=decided.top_p.tolist(),
        entropy=(-(p * p.log()).sum(-1)).tolist(),
        probability=decided.probabilities.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).tolist(),
    )


def _assert_same(found: RowTrace, expected: RowTrace) -> None:
    assert found.token == expected.token
    for name in ("temperature", "top_p", "entropy", "probability"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=2e-4, abs=1e-6), name


@pytest.mark.parametrize(
    "how", [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 2}]
)
def test_every_token_is_recorded_as_it_was_drawn(how: dict[str, Any]) -> None:
    model, ids = make_model(), prompts(2, 5)
    with Trace(model) as trace:
        texts = model.generate(
            ids,
            max_new_tokens=9,
            num_return_sequences=2,
            request_temperature=torch.tensor([1.0, 0.6]),
            stopping_criteria=[trace],
            **how,
        )
    assert len(trace.rows) == 4
    for row, text in enumerate(texts):
        _assert_same(trace.rows[row], _expected(model, text, 5, heat=[1.0, 1.0, 0.6, 0.6][row]))
        assert len(trace.rows[row]) == 9
    assert not model.report_entropy
    assert model(ids).entropy is None


def test_left_padding_does_not_show() -> None:
    model, ids = make_model(), prompts(1, 5)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], dim=1)
    with Trace(model) as trace:
        text = model.generate(
            padded,
            attention_mask=(torch.arange(8) >= 3).long().unsqueeze(0),
            max_new_tokens=6,
            stopping_criteria=[trace],
        )
    _assert_same(trace.rows[0], _expected(model, text[0, 3:], 5))


@pytest.mark.parametrize("do_sample", [True, False])
def test_assisted_decoding_records_each_token_once(do_sample: bool) -> None:
    model, ids = make_model(), prompts(1, 5)
    # The same base as the assistant: in greedy decoding it is always right, so several tokens come at once.
    assistant = make_base()
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    with Trace(model) as trace:
        text = model.generate(
            ids, max_new_tokens=14, assistant_model=assistant, do_sample=do_sample, stopping_criteria=[trace]
        )
    _assert_same(trace.rows[0], _expected(model, text[0], 5))
    assert do_sample or len(passes) < 14


def test_a_row_ends_where_its_text_ends() -> None:
    base = make_base()
    base.generation_config.eos_token_id = list(range(30, 61))
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base, temperature=1.8, top_p=0.99))
    torch.manual_seed(0)
    with Trace(model) as trace:
        texts = model.generate(prompts(6, 4), max_new_tokens=20, stopping_criteria=[trace])
    lengths = [len(row) for row in trace.rows]
    assert len(set(lengths)) > 1
    for row, text in zip(trace.rows, texts[:, 4:].tolist(), strict=True):
        assert row.token == text[: len(row)]
        assert row.token[-1] >= 30
        assert set(text[len(row) :]) <= {0}


def test_it_is_json() -> None:
    model = make_model()
    with Trace(model) as trace:
        model.generate(prompts(2, 4), max_new_tokens=3, stopping_criteria=[trace])
    loaded = json.loads(trace.to_json())
    assert loaded == trace.to_dict()
    assert {name: len(column) for name, column in loaded["rows"][1].items()} == {
        "token": 3,
        "temperature": 3,
        "top_p": 3,
        "entropy": 3,
        "probability": 3,
    }


def test_a_trace_of_nothing_says_how_to_get_one() -> None:
    model, ids = make_model(), prompts(1, 4)
    assert Trace(model).rows == []
    with pytest.raises(RuntimeError, match="inside `with Trace"):
        model.generate(ids, max_new_tokens=2, stopping_criteria=[Trace(model)])
