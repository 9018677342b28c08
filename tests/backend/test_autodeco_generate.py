"""`generate` of transformers on a model with heads: what is drawn is what the heads decided, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CompileConfig, GenerationConfig, LogitsProcessor, StaticCache, pipeline
from transformers.generation import BaseStreamer

from local_backend.heads import Heads, HeadsConfig
from local_backend.model import AutoDecoModelForCausalLM
from local_backend.sampling import row_uniforms
from tests.backend.autodeco_reference import VOCABULARY, caught, make_base, make_heads, make_model, prompts, reference

DRAWS = 20_000


class SeededDraw(LogitsProcessor):
    """Turns greedy decoding into sampling with random numbers of each row's own (the Gumbel-max trick)."""

    def __init__(self, seeds: list[int], prompt: int) -> None:
        self.seeds, self.prompt = torch.tensor(seeds), prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt
        tokens = torch.arange(scores.shape[-1])
        cells = (self.seeds[:, None] * 1000 + step) * 1000 + tokens
        uniforms = row_uniforms(cells, torch.zeros_like(cells)).clamp(min=1e-7)
        return scores - (-uniforms.log()).log()


def test_a_batch_of_eight_padded_on_the_left_gives_what_eight_single_runs_give() -> None:
    # In float64 the base's rounding does not depend on the batch; the heads are float32 as always.
    base = make_base().double()
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base, temperature=1.4))
    lengths = [3, 9, 5, 4, 8, 9, 6, 7]
    ids = [prompts(1, length, seed=40 + at)[0] for at, length in enumerate(lengths)]
    heat, mass = torch.linspace(0.6, 1.2, 8), torch.linspace(1.3, 0.7, 8)
    padded = torch.stack([torch.cat([torch.zeros(9 - len(row), dtype=torch.int64), row]) for row in ids])
    mask = torch.stack([(torch.arange(9) >= 9 - length).long() for length in lengths])
    settings = {"max_new_tokens": 24, "do_sample": False}
    together = model.generate(
        padded,
        attention_mask=mask,
        request_temperature=heat,
        request_top_p=mass,
        logits_processor=[SeededDraw(list(range(8)), 9)],
        **settings,
    )
    for row in range(8):
        alone = model.generate(
            ids[row].unsqueeze(0),
            attention_mask=torch.ones(1, lengths[row], dtype=torch.int64),
            request_temperature=heat[row : row + 1],
            request_top_p=mass[row : row + 1],
            logits_processor=[SeededDraw([row], lengths[row])],
            **settings,
        )
        assert together[row, 9:].tolist() == alone[0, lengths[row] :].tolist(), row
    assert len({tuple(row.tolist()) for row in together[:, 9:]}) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neutral_heads_draw_the_same_tokens_as_plain_sampling(dtype: torch.dtype) -> None:
    base = make_base().to(dtype)
    model = AutoDecoModelForCausalLM.attach(base, Heads.neutral(HeadsConfig(hidden_size=32)))
    ids = prompts(4, 6)
    torch.manual_seed(7)
    plain = base.generate(ids, max_new_tokens=40, do_sample=True, top_k=0, temperature=1.0, top_p=1.0)
    torch.manual_seed(7)
    assert torch.equal(model.generate(ids, max_new_tokens=40), plain)


def _chi_square(counts: Tensor, probabilities: Tensor) -> tuple[float, float]:
    """The statistic, and what it exceeds by chance once in 10,000 (Wilson and Hilferty); rare cells are pooled."""
    expected = probabilities * counts.sum()
    rare = expected < 8
    seen = torch.cat([counts[~rare], counts[rare].sum().view(1)]).double()
    wanted = torch.cat([expected[~rare], expected[rare].sum().view(1)])
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    spread = 2 / (9 * freedom)
    return float(((seen - wanted) ** 2 / wanted).sum()), freedom * (1 - spread + 3.719 * spread**0.5) ** 3


@pytest.mark.parametrize(("temperature", "top_p", "tokens"), [(1.6, 0.97, 25), (1.3, 0.5, 3), (0.5, 0.9, 3)])
def test_what_is_drawn_follows_the_analytic_distribution(temperature: float, top_p: float, tokens: int) -> None:
    base = make_base()
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base, temperature=temperature, top_p=top_p))
    ids = prompts(1, 4)
    hidden, logits, _ = caught(base, input_ids=ids)
    decided = reference(model.heads, hidden[0, -1], logits[0, -1])
    expected = decided.probabilities
    assert (expected > 0).sum() >= tokens
    torch.manual_seed(3)
    drawn = model.generate(ids, max_new_tokens=1, num_return_sequences=DRAWS)[:, -1]
    counts = drawn.bincount(minlength=VOCABULARY)
    assert not counts[expected == 0].any(), "a token outside the nucleus"
    statistic, limit = _chi_square(counts, expected)
    assert statistic < limit
    # The same draws are told apart from a distribution that is a little off, so the test can fail.
    off = (logits[0, -1].double() / (1.25 * decided.temperature)).softmax(-1) * (expected > 0)
    off_statistic, off_limit = _chi_square(counts, off / off.sum())
    assert off_statistic > off_limit


def test_requests_go_with_their_rows_through_several_sequences() -> None:
    model, ids = make_model(), prompts(2, 4)
    greedy = model.generate(ids, max_new_tokens=8, do_sample=False)
    drawn = model.generate(ids, max_new_tokens=8, num_return_sequences=3, request_temperature=[0.0, 1.0])
    assert torch.equal(drawn[:3], greedy[:1].expand(3, -1)), "temperature 0 is greedy for that row"
    assert len({tuple(row.tolist()) for row in drawn[3:]}) == 3
    assert torch.equal(model.generate(ids, max_new_tokens=8, temperature=0.0), greedy)
    assert torch.equal(
        model.generate(ids, max_new_tokens=8, generation_config=GenerationConfig(temperature=0.0)), greedy
    )


def test_temperature_and_top_p_of_generate_multiply_the_decisions() -> None:
    model, ids = make_model(), prompts(1, 4)
    torch.manual_seed(5)
    requested = model.generate(ids, max_new_tokens=30, request_temperature=0.7, request_top_p=0.8)
    torch.manual_seed(5)
    assert torch.equal(model.generate(ids, max_new_tokens=30, temperature=0.7, top_p=0.8), requested)
    torch.manual_seed(5)
    both = model.generate(ids, max_new_tokens=30, temperature=0.35, request_temperature=torch.tensor([2.0]), top_p=0.8)
    assert torch.equal(both, requested)
    torch.manual_seed(5)
    assert not torch.equal(model.generate(ids, max_new_tokens=30), requested)
    for bad in (-0.1, float("nan"), [float("inf")]):
        with pytest.raises(ValueError, match=r"request_top_p=.* must be finite and >= 0"):
            model.generate(ids, max_new_tokens=1, request_top_p=bad)


def test_a_bases_own_recommended_settings_do_not_cut_what_the_heads_decided() -> None:
    base = make_base()
    base.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.8, top_k=2, min_p=0.3, repetition_penalty=1.1
    )
    model = AutoDecoModelForCausalLM.attach(base, Heads.neutral(HeadsConfig(hidden_size=32)))
    ids = prompts(1, 4)
    drawn = model.generate(ids, max_new_tokens=1, num_return_sequences=3000)[:, -1]
    with torch.no_grad():
        likely = base(ids).logits[0, -1].softmax(-1) > 0.01
    assert likely.sum() > 3
    assert set(likely.nonzero().flatten().tolist()) <= set(drawn.tolist())
    assert model.generation_config.repetition_penalty == 1.1
    assert base.generation_config.top_k == 2, "the base keeps its own"


@pytest.mark.parametrize("cache", ["dynamic", "static", "none", "own static"])
def test_every_cache_gives_the_same_tokens(cache: str) -> None:
    base = make_base().double()
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base))
    ids = prompts(2, 5)
    how: dict[str, Any] = {
        "dynamic": {},
        "static": {"cache_implementation": "static"},
        "none": {"use_cache": False},
        "own static": {"past_key_values": StaticCache(config=base.config, max_cache_len=40)},
    }[cache]
    torch.manual_seed(1)
    expected = model.generate(ids, max_new_tokens=20)
    torch.manual_seed(1)
    assert torch.equal(model.generate(ids, max_new_tokens=20, **how), expected)


@pytest.mark.slow
def test_a_compiled_forward_pass_draws_the_same_tokens() -> None:
    """On a GPU `generate` compiles the pass by itself when the cache is static; here it is told to."""
    model, ids = make_model(), prompts(2, 5)
    torch.manual_seed(1)
    expected = model.generate(ids, max_new_tokens=12)
    compiling = CompileConfig(backend="eager", mode=None, fullgraph=False)
    compiling._compile_all_devices = True
    torch.manual_seed(1)
    found = model.generate(ids, max_new_tokens=12, cache_implementation="static", compile_config=compiling)
    assert torch.equal(found, expected)


class _Collected(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def test_tokens_are_streamed() -> None:
    model, ids, streamer = make_model(), prompts(1, 5), _Collected()
    drawn = model.generate(ids, max_new_tokens=12, streamer=streamer)
    assert streamer.tokens == drawn[0].tolist()
    assert streamer.ended


def test_assisted_decoding_draws_from_the_regulated_distribution() -> None:
    """Speculative sampling keeps the target's distribution, and the target is what the heads made of it."""
    base, draft = make_base(), make_base(seed=9, num_hidden_layers=1)
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base, temperature=1.2, top_p=0.6))
    ids = prompts(1, 4)
    hidden, logits, _ = caught(base, input_ids=ids)
    expected = reference(model.heads, hidden[0, -1], logits[0, -1], heat=0.9).probabilities
    torch.manual_seed(0)
    drawn = [
        model.generate(ids, max_new_tokens=2, assistant_model=draft, request_temperature=0.9)[0, 4].item()
        for _ in range(150)
    ]
    statistic, limit = _chi_square(torch.tensor(drawn).bincount(minlength=VOCABULARY), expected)
    assert statistic < limit


@pytest.mark.parametrize("assistant", ["plain", "with heads", "prompt lookup"])
def test_assisted_decoding_keeps_greedy_text(assistant: str) -> None:
    model, ids = make_model(), prompts(1, 4)
    how: dict[str, Any] = {
        "plain": {"assistant_model": make_base(seed=9, num_hidden_layers=1)},
        "with heads": {"assistant_model": make_model(seed=9)},
        "prompt lookup": {"prompt_lookup_num_tokens": 2},
    }[assistant]
    greedy = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(model.generate(ids, **how, **greedy), model.llm.generate(ids, **greedy))


def test_beams_are_refused_unless_the_heads_are_off() -> None:
    model, ids = make_model(), prompts(1, 4)
    with pytest.raises(ValueError, match="AutoDecoModelForCausalLM only supports"):
        model.generate(ids, max_new_tokens=3, num_beams=2)
    with model.plain():
        beams = model.generate(ids, max_new_tokens=3, num_beams=2, do_sample=False)
    assert torch.equal(beams, model.llm.generate(ids, max_new_tokens=3, num_beams=2, do_sample=False))


def test_a_typo_in_an_argument_is_still_caught() -> None:
    with pytest.raises(ValueError, match="request_temprature"):
        make_model().generate(prompts(1, 4), max_new_tokens=3, request_temprature=0.5)


def test_it_runs_in_a_pipeline(model_folder: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base))
    run = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained(model_folder))
    assert len(run("hello", max_new_tokens=4, return_full_text=False)[0]["generated_text"]) > 0
