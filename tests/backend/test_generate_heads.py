"""The engine with heads: what they decide is what is drawn, per row, alone and in a crowd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from local_backend.generate import Row, Token, generate
from local_backend.heads import Heads, HeadsConfig
from local_backend.model import AutoDecoModelForCausalLM

VOCABULARY, WIDTH = 40, 64
NO_END: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.2,
        )
        return LlamaForCausalLM(config).eval()


def lively_heads() -> Heads:
    """Random heads whose decisions differ a lot from token to token."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        heads = Heads(HeadsConfig(hidden_size=WIDTH))
        for head in (heads.temp_head, heads.top_p_head):
            assert head is not None
            nn.init.normal_(head.mlp[2].weight, std=0.6)
    return heads


@pytest.fixture(scope="module")
def model(base: LlamaForCausalLM) -> AutoDecoModelForCausalLM:
    return AutoDecoModelForCausalLM.attach(base, lively_heads())


def run(model: Any, rows: list[Row], eos_ids: frozenset[int] = NO_END) -> list[list[Token]]:
    out: list[list[Token]] = [[] for _ in rows]
    for step in generate(model, rows, eos_ids=eos_ids):
        for token in step:
            out[token.row].append(token)
    return out


def ids(texts: list[list[Token]]) -> list[list[int]]:
    return [[token.id for token in text] for text in texts]


@torch.no_grad()
def decisions(model: AutoDecoModelForCausalLM, prompt: tuple[int, ...], text: list[int]) -> Any:
    """Logits [n, V], T [n] and P [n] before each token of a text, from one pass over all of it."""
    out = model(torch.tensor([[*prompt, *text]]), regulate=False)
    return tuple(part[0, len(prompt) - 1 : -1] for part in (out.logits, out.temperature, out.top_p))


PLAIN = Row(prompt_ids=(2, 3, 4), max_tokens=12, seed=1)
MIXED = [
    PLAIN,
    replace(PLAIN, heads=False, temperature=0.8, seed=2),
    replace(PLAIN, temperature=0, seed=3),
    Row(prompt_ids=(7, 8, 9, 10, 11), max_tokens=15, temperature=1.5, top_p=0.9, seed=4),
    Row(prompt_ids=(5,), max_tokens=20, temperature_bounds=(0.5, 0.6), top_p_bounds=(0.3, 0.4), seed=5),
    Row(prompt_ids=(5,), max_tokens=9, top_k=5, min_p=0.02, repetition_penalty=1.3, trace=True, seed=6),
    Row(prompt_ids=(30, 31), max_tokens=20, temperature=0.5, presence_penalty=1.0, seed=7),
    replace(PLAIN, heads=False, top_p=0.5, seed=8),
]


def test_neutral_heads_are_plain_sampling_token_by_token(base: LlamaForCausalLM) -> None:
    neutral = AutoDecoModelForCausalLM.attach(base, Heads.neutral(HeadsConfig(hidden_size=WIDTH)))
    assert ids(run(neutral, MIXED)) == ids(run(base, MIXED))


def test_lively_heads_are_not_plain_sampling(base: LlamaForCausalLM, model: AutoDecoModelForCausalLM) -> None:
    changed = [with_heads != without for with_heads, without in zip(run(model, MIXED), run(base, MIXED), strict=True)]
    asked = [row.heads for row in MIXED]
    assert changed == asked, "fixed rows are as without heads; all others differ, in how they are drawn if not in what"


def test_eight_mixed_rows_get_what_they_get_alone(model: AutoDecoModelForCausalLM) -> None:
    ends = frozenset({1, 17})
    together = run(model, MIXED, ends)
    alone = [run(model, [row], ends)[0] for row in MIXED]
    assert ids(together) == ids(alone)
    assert len({len(text) for text in together}) > 2  # rows really leave at different steps
    for one, many in zip(alone, together, strict=True):
        for name in ("temperature", "top_p"):
            want = [getattr(token, name) for token in one]
            assert [getattr(token, name) for token in many] == pytest.approx(want, abs=1e-5)


def test_shared_random_numbers_would_be_seen(model: AutoDecoModelForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above fails if a row's random numbers depend on its place in the batch."""
    monkeypatch.setattr("local_backend.generate.row_uniforms", lambda seeds, _: torch.arange(len(seeds)) / len(seeds))
    assert ids(run(model, MIXED)) != ids([run(model, [row])[0] for row in MIXED])


def test_every_token_is_drawn_with_the_heads_times_the_request_inside_the_bounds(
    model: AutoDecoModelForCausalLM,
) -> None:
    for row, text in zip(MIXED, run(model, MIXED), strict=True):
        _, temperature, top_p = decisions(model, row.prompt_ids, [token.id for token in text])
        t = (temperature if row.heads else torch.ones(len(text))).double() * row.temperature
        p = (top_p if row.heads else torch.ones(len(text))).double() * row.top_p
        want_t = [
            0.0 if row.temperature == 0 else min(max(x, row.temperature_bounds[0]), row.temperature_bounds[1])
            for x in t.tolist()
        ]
        want_p = [min(max(x, row.top_p_bounds[0]), row.top_p_bounds[1]) for x in p.tolist()]
        assert [token.temperature for token in text] == pytest.approx(want_t, abs=1e-4)
        assert [token.top_p for token in text] == pytest.approx(want_p, abs=1e-4)
        if row is PLAIN:
            assert max(want_t) - min(want_t) > 0.3, "the heads really differ from token to token"


def test_first_tokens_follow_the_analytic_distribution(model: AutoDecoModelForCausalLM) -> None:
    rows = [replace(PLAIN, max_tokens=1, seed=seed) for seed in range(20_000)]
    drawn = torch.tensor([text[0].id for text in run(model, rows)])
    with torch.no_grad():
        out = model(torch.tensor([PLAIN.prompt_ids]), regulate=False)
    t, mass = float(out.temperature[0, -1]), float(out.top_p[0, -1])
    p = (out.logits[0, -1].double() / t).softmax(-1)
    order = p.argsort(descending=True)
    nucleus = order[p[order].cumsum(0) - p[order] < mass]
    expected = torch.zeros_like(p)
    expected[nucleus] = p[nucleus] / p[nucleus].sum() * len(rows)
    assert 3 <= len(nucleus) < VOCABULARY, "something is cut and something is left"
    assert abs(t - 1) > 0.05
    seen = torch.bincount(drawn, minlength=VOCABULARY).double()
    assert seen[expected == 0].sum() == 0
    rare = expected < 5
    seen, expected = (torch.cat([x[~rare], x[rare].sum().unsqueeze(0)]) for x in (seen, expected))
    # At most 40 degrees of freedom: 80 is beyond the 99.98th percentile; the seeds are fixed.
    assert float(((seen - expected) ** 2 / expected.clamp(min=1e-9)).sum()) < 80


def test_the_trace_is_the_entropy_before_and_the_probability_after(model: AutoDecoModelForCausalLM) -> None:
    rows = [replace(PLAIN, trace=True), replace(PLAIN, trace=True, temperature=0, seed=9)]
    for row, text in zip(rows, run(model, rows), strict=True):
        logits, _, _ = decisions(model, row.prompt_ids, [token.id for token in text])
        for token, raw in zip(text, logits.double(), strict=True):
            p = raw.softmax(-1)
            assert token.entropy == pytest.approx(float(-(p * p.log()).sum()), abs=1e-4)
            if row.temperature == 0:
                assert token.probability == 1
                continue
            scaled = (raw / token.temperature).softmax(-1)
            order = scaled.argsort(descending=True)
            nucleus = order[scaled[order].cumsum(0) - scaled[order] < token.top_p]
            assert token.id in nucleus
            assert token.probability == pytest.approx(float(scaled[token.id] / scaled[nucleus].sum()), abs=1e-4)


def test_what_is_not_asked_for_is_not_measured(model: AutoDecoModelForCausalLM) -> None:
    assert {(token.entropy, token.probability) for token in run(model, [PLAIN])[0]} == {(None, None)}


@contextmanager
def broken_for(head: nn.Module, slot: int) -> Iterator[None]:
    """A head that says NaN for one row of the batch."""

    def poison(_: nn.Module, __: Any, decided: torch.Tensor) -> torch.Tensor:
        decided = decided.clone()
        decided[slot] = torch.nan
        return decided

    with head.register_forward_hook(poison):
        yield


@pytest.mark.parametrize("name", ["temp_head", "top_p_head"])
def test_nan_from_a_head_stays_in_its_row_and_is_counted(model: AutoDecoModelForCausalLM, name: str) -> None:
    rows = [replace(PLAIN, seed=seed, prompt_ids=(seed, 2, 3)) for seed in (11, 12, 13)]
    clean, before = run(model, rows), model.contained
    with broken_for(getattr(model, name), slot=1):
        broken = run(model, rows)
    assert [broken[0], broken[2]] == [clean[0], clean[2]]
    assert {(token.temperature, token.top_p) for token in broken[1]} == {(1.0, 1.0)}, "as without heads"
    assert model.contained == before + PLAIN.max_tokens


def test_uncontained_nan_would_be_seen(model: AutoDecoModelForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_backend.model.contain", lambda decision: (decision, 0))
    with broken_for(model.temp_head, slot=1):
        broken = run(model, [replace(PLAIN, prompt_ids=(seed, 2, 3)) for seed in (11, 12, 13)])
    assert all(math.isnan(token.temperature) for token in broken[1])


def test_heads_nobody_listens_to_are_not_run(model: AutoDecoModelForCausalLM) -> None:
    calls = []
    with model.temp_head.register_forward_hook(lambda *_: calls.append(1)):
        run(model, [replace(PLAIN, heads=False, max_tokens=3)])
        assert not calls
        run(model, [replace(PLAIN, heads=False, max_tokens=3), replace(PLAIN, max_tokens=3)])
        assert len(calls) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature_bounds", (1.0, 0.5)), ("temperature_bounds", (-1.0, 1.0)), ("top_p_bounds", (0.1, 1.5)),
     ("top_p_bounds", (float("nan"), 1.0))],
)  # fmt: skip
def test_bad_bounds_are_refused_by_name(field: str, value: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=field):
        replace(PLAIN, **{field: value})
