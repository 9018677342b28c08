"""The decoding loop on a small random Llama: batch equals alone, rows end where they should."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from local_backend.generate import Row, generate

EOS = frozenset({1})


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def run(model, rows, **options) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in rows]
    for step in generate(model, rows, eos_ids=options.pop("eos_ids", EOS), **options):
        for token in step:
            out[token.row].append(token.id)
    return out


MIXED = [
    Row(prompt_ids=(2, 3, 4), max_tokens=12, temperature=0, seed=1),
    Row(prompt_ids=(5,), max_tokens=20, seed=2),
    Row(prompt_ids=(7, 8, 9, 10, 11, 12, 13), max_tokens=15, temperature=1.5, top_p=0.9, seed=3),
    Row(prompt_ids=(2, 3, 4), max_tokens=9, temperature=0.8, top_k=5, seed=4),
    Row(prompt_ids=(2, 3, 4), max_tokens=20, repetition_penalty=1.3, frequency_penalty=0.5, seed=4),
    Row(prompt_ids=(30, 31), max_tokens=20, min_p=0.1, presence_penalty=1.0, seed=2**80 + 5),
]


def test_a_batch_gives_every_row_what_it_gets_alone(model):
    together = run(model, MIXED)
    assert together == [run(model, [row])[0] for row in MIXED]
    assert len({len(tokens) for tokens in together}) > 2  # rows really leave at different steps


def test_greedy_equals_the_argmax_of_full_forward_passes(model):
    row = Row(prompt_ids=(2, 3, 4), max_tokens=8, temperature=0, seed=0)
    ids = list(row.prompt_ids)
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert run(model, [row], eos_ids=frozenset()) == [ids[3:]]


def test_first_tokens_follow_the_models_distribution(model):
    rows = [Row(prompt_ids=(2, 3, 4), max_tokens=1, seed=seed) for seed in range(8_000)]
    drawn = torch.tensor([tokens[0] for tokens in run(model, rows)])
    with torch.no_grad():
        expected = model(torch.tensor([[2, 3, 4]])).logits[0, -1].softmax(-1).double() * len(rows)
    rare = expected < 5
    seen = torch.bincount(drawn, minlength=40).double()
    seen, expected = (torch.cat([x[~rare], x[rare].sum().unsqueeze(0)]) for x in (seen, expected))
    # At most 40 degrees of freedom: 80 is beyond the 99.98th percentile; the seeds are fixed.
    assert float(((seen - expected) ** 2 / expected.clamp(min=1e-9)).sum()) < 80


def test_one_prefill_serves_all_samples_of_a_prompt(model):
    widths = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        texts = run(model, [Row(prompt_ids=(2, 3, 4), max_tokens=3, seed=s) for s in range(6)], eos_ids=frozenset())
    finally:
        hook.remove()
    assert widths == [(1, 3), (6, 1), (6, 1)]
    assert len(set(map(tuple, texts))) > 1


def test_eos_is_yielded_and_ends_the_row(model):
    free = run(model, [Row(prompt_ids=(5,), max_tokens=10, temperature=0, seed=0)], eos_ids=frozenset())[0]
    cut = run(model, [Row(prompt_ids=(5,), max_tokens=10, temperature=0, seed=0)], eos_ids=frozenset({free[3]}))[0]
    assert cut == free[: free.index(free[3]) + 1]


def test_should_stop_ends_one_row_and_spares_the_others(model):
    rows = [Row(prompt_ids=(5,), max_tokens=10, seed=s) for s in (1, 2, 3)]
    full = run(model, rows, eos_ids=frozenset())
    asked = {0: 0, 1: 0, 2: 0}

    def should_stop(row: int) -> bool:
        asked[row] += 1
        return row == 1 and asked[row] == 4

    cut = run(model, rows, eos_ids=frozenset(), should_stop=should_stop)
    assert cut == [full[0], full[1][:4], full[2]]


def test_no_rows_no_steps(model):
    assert list(generate(model, [], eos_ids=EOS)) == []


def test_gradients_are_on_again_between_steps(model):
    steps = generate(model, [Row(prompt_ids=(5,), max_tokens=3, seed=0)], eos_ids=frozenset())
    next(steps)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_tokens", 0), ("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.1),
     ("top_k", -1), ("min_p", 2.0), ("repetition_penalty", 0.0), ("prompt_ids", ())],
)  # fmt: skip
def test_a_bad_row_is_refused_by_name(field, value):
    good = {"prompt_ids": (1,), "max_tokens": 1, "seed": 0}
    with pytest.raises(ValueError, match=field):
        Row(**{**good, field: value})
