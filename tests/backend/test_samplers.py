"""Decoding rules against float64 references written from their papers, alone, chained, per row and on a model."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from local_backend.generate import Row, generate
from local_backend.samplers import MIN_TEMPERATURE, RULES, Sampler, optimal_temperature

ROWS = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    weights = [math.exp((value - top) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def probabilities(text: str, row: list[float]) -> list[float]:
    """What a sampler makes of one row."""
    return Sampler.parse(text)(torch.tensor([row])).softmax(-1)[0].tolist()


def kept(p: list[float], keep: list[bool]) -> list[float]:
    mass = sum(x for x, k in zip(p, keep, strict=True) if k)
    return [x / mass if k else 0.0 for x, k in zip(p, keep, strict=True)]


def near_edge(values: list[float], threshold: float) -> bool:
    """Whether float32 may see a value on the other side of a threshold; the maximum itself is no such case."""
    return any(0 < abs(value - threshold) < 1e-4 for value in values)


@given(ROWS, st.floats(0.05, 3))
def test_temperature(row, t):
    assert probabilities(f"temperature={t}", row) == pytest.approx(softmax(row, t), abs=2e-5)


def test_temperature_0_leaves_the_first_of_the_likeliest():
    assert probabilities("temperature=0", [1.0, 3.0, 3.0, 2.0]) == [0, 1, 0, 0]


@given(ROWS, st.floats(0.01, 0.99))
def test_min_p(row, share):
    p = softmax(row)
    if not near_edge([x / max(p) for x in p], share):
        assert probabilities(f"min_p={share}", row) == pytest.approx(
            kept(p, [x >= share * max(p) for x in p]), abs=1e-5
        )


@given(ROWS, st.floats(0.1, 3))
def test_top_n_sigma(row, n):
    mean = sum(row) / len(row)
    sigma = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row))
    threshold = max(row) - n * sigma
    if not near_edge(row, threshold):
        want = kept(softmax(row), [x >= threshold for x in row])
        assert probabilities(f"top_n_sigma={n}", row) == pytest.approx(want, abs=1e-5)


@given(st.lists(st.sampled_from([-4.0, -1.5, 0.25, 1.0, 3.0]), min_size=3, max_size=10), st.floats(0.1, 3))
def test_top_n_sigma_keeps_the_same_at_any_temperature_and_does_not_count_banned_tokens(row, temperature):
    sampler = Sampler.parse("top_n_sigma=1.03")
    plain = sampler(torch.tensor([row])) > -torch.inf
    assert torch.equal(sampler(torch.tensor([row]) / temperature) > -torch.inf, plain)
    assert torch.equal(
        sampler(torch.tensor([[*row, -torch.inf]])) > -torch.inf, torch.cat([plain, plain[:, :1] & False], 1)
    )


@given(ROWS, st.floats(0.2, 2), st.floats(0, 3))
def test_edt(row, base, theta):
    t = base * 0.8 ** (theta / max(entropy(softmax(row)), 1e-30))
    if t > 0.02:
        assert probabilities(f"edt={base}:{theta}", row) == pytest.approx(softmax(row, t), abs=1e-3)


def test_edt_is_greedy_where_nothing_is_open_and_theta_0_is_plain_temperature():
    certain = [50.0, -50.0, -60.0]
    assert probabilities("edt=1:0.5", certain) == [1, 0, 0]
    row = [1.0, 0.5, -1.0]
    assert probabilities("edt=0.7:0", row) == pytest.approx(softmax(row, 0.7), abs=1e-6)


@given(ROWS, st.floats(0.1, 1), st.floats(1, 2), st.sampled_from([0.5, 1.0, 2.0]))
def test_dynatemp(row, low, high, exponent):
    t = low + (high - low) * (entropy(softmax(row)) / math.log(len(row))) ** exponent
    got = probabilities(f"dynatemp={low}:{high}:{exponent}", row)
    assert got == pytest.approx(softmax(row, t), abs=1e-3)


def test_dynatemp_measures_what_is_left():
    row = [2.0, 1.0, -1.0]
    alone = probabilities("dynatemp=0.5:1.5", row[:2])
    assert probabilities("top_k=2,dynatemp=0.5:1.5", row) == pytest.approx([*alone, 0.0], abs=1e-6)
    assert probabilities("top_k=1,dynatemp=0.5:1.5", row) == [1, 0, 0]


@given(ROWS)
def test_p_less(row):
    p = softmax(row)
    threshold = sum(x * x for x in p)
    if not near_edge(p, threshold):
        assert probabilities("p_less", row) == pytest.approx(kept(p, [x >= threshold - 1e-12 for x in p]), abs=1e-5)


def test_p_less_keeps_all_of_a_flat_distribution():
    assert probabilities("p_less", [0.7] * 7) == pytest.approx([1 / 7] * 7)


# -- the temperature that the published objective asks for -------------------------------------------------------------


def published_loss(row: list[float], t: float, mask_ratio: float, exponent: float, data_temperature: float) -> float:
    """Expected temperature loss on samples of the model itself, in float64, from the formula."""
    p, drawn = softmax(row), softmax(row, data_temperature)
    best = row.index(max(row))
    top = max(row)
    log_sum = math.log(sum(math.exp((x - top) / t) for x in row))
    total = 0.0
    for token, x in enumerate(row):
        keep = 1 - mask_ratio if token == best else 1.0
        total += drawn[token] * keep * p[token] ** exponent * (log_sum - (x - top) / t)
    return total


def star(row: list[float], mask_ratio: float = 0.6, exponent: float = 1.0, data_temperature: float = 1.0) -> float:
    numbers = (torch.tensor(x) for x in (mask_ratio, exponent, data_temperature))
    return float(optimal_temperature(torch.tensor([row]), *numbers))


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=8),
    st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from([0.6, 1.0, 1.3]),
)
def test_t_star_minimises_the_published_loss(row, mask_ratio, exponent, data_temperature):
    setting = (mask_ratio, exponent, data_temperature)
    t = star(row, *setting)
    assert MIN_TEMPERATURE <= t <= 2
    at = published_loss(row, t, *setting)
    for other in (t * 0.97, t * 1.03, t / 2, 1.0, 2.0):
        if other <= 2:
            assert at <= published_loss(row, other, *setting) + 1e-6


@pytest.mark.parametrize(
    ("p", "t"), [(0.99, 0.56), (0.95, 0.59), (0.9, 0.63), (0.8, 0.75), (0.7, 1.09), (0.65, 1.92), (0.6, 2.0)]
)
def test_t_star_of_two_tokens_at_the_published_constants(p, t):
    assert star([math.log(p), math.log(1 - p)]) == pytest.approx(t, abs=0.006)


@pytest.mark.parametrize(("exponent", "data_temperature"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, 0.6), (0.0, 0.5)])
def test_t_star_without_masking_has_a_closed_form(exponent, data_temperature):
    row = [3.0, 1.0, 0.5, -2.0, -torch.inf]
    assert star(row, 0.0, exponent, data_temperature) == pytest.approx(1 / (1 / data_temperature + exponent), rel=1e-4)


def test_the_minimum_is_found_and_not_assumed():
    """The check of the loss sees a temperature that is 10 % off."""
    row = [2.0, 0.0, -1.0, -1.5]
    t = star(row)
    assert published_loss(row, t, 0.6, 1, 1) < published_loss(row, 1.1 * t, 0.6, 1, 1) - 1e-5


# -- chains, rows, text ------------------------------------------------------------------------------------------------


def test_rules_apply_in_the_order_they_are_named():
    row = [2.0, 1.0, 0.0]
    first = probabilities("min_p=0.3,temperature=5", row)
    last = probabilities("temperature=5,min_p=0.3", row)
    assert [p > 0 for p in first] == [True, True, False]
    assert [p > 0 for p in last] == [True, True, True]


def test_nothing_named_changes_nothing():
    logits = torch.randn(3, 9)
    assert torch.equal(Sampler.parse("")(logits), logits)


NEUTRAL = "temperature=1,top_p=1,top_k=0,min_p=0,dynatemp=1:1,edt=1:0"


@given(ROWS)
def test_neutral_numbers_are_plain_sampling(row):
    assert probabilities(NEUTRAL, row) == pytest.approx(softmax(row), abs=1e-5)


EXAMPLES = {
    "temperature": [(0.0,), (0.7,), (1.6,)],
    "top_p": [(0.3,), (0.9,), (1.0,)],
    "top_k": [(0,), (1,), (3,)],
    "min_p": [(0.0,), (0.1,), (0.6,)],
    "top_n_sigma": [(0.5,), (1.0,), (2.0,)],
    "edt": [(1.0, 0.1), (0.7, 0.0), (1.2, 0.9)],
    "dynatemp": [(0.3, 1.2, 1.0), (0.5, 0.5, 1.0), (0.1, 2.0, 2.0)],
    "p_less": [(), (), ()],
    "t_star": [(0.6, 1.0, 1.0), (0.0, 1.0, 0.6), (0.9, 0.0, 1.0)],
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_each_row_has_its_own_numbers_and_no_neighbours(name):
    logits = torch.randn(3, 2, 20, generator=torch.Generator().manual_seed(3)) * 3
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*EXAMPLES[name], strict=True)]
    together = Sampler([(name, columns)])
    alone = [Sampler([(name, numbers)]) for numbers in EXAMPLES[name]]
    for row, one in enumerate(alone):
        torch.testing.assert_close(together(logits[:, 0])[row : row + 1], one(logits[row : row + 1, 0]))
        torch.testing.assert_close(together(logits)[row : row + 1], one(logits[row : row + 1]))


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_text_of_a_sampler_makes_it_again(name):
    sampler = Sampler([(name, EXAMPLES[name][0])])
    again = Sampler.parse(str(sampler))
    logits = torch.randn(2, 15)
    assert str(again) == str(sampler)
    assert torch.equal(again(logits), sampler(logits))


def test_text_is_read_with_defaults_and_spaces():
    assert (
        str(Sampler.parse(" min_p=0.1 , temperature=1.2,p_less,edt=0.9"))
        == "min_p=0.1,temperature=1.2,p_less,edt=0.9:0.1"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topp=0.9", "'topp' is no decoding rule: there are temperature, top_p"),
        ("temperature", "'temperature' needs a number for temperature: write temperature=NUMBER"),
        ("temperature=hot", "'temperature=hot' is no rule"),
        ("temperature=1:2", r"takes 1 numbers \(temperature\), got 2"),
        ("p_less=1", r"takes 0 numbers \(none\), got 1"),
        ("top_p=1.5", "top_p=1.5 of 'top_p' must be from 0 to 1"),
        ("min_p=nan", "min_p=nan of 'min_p' must be"),
        ("t_star=1", "mask_ratio=1.0 of 't_star'"),
    ],
)
def test_a_bad_text_is_refused_with_its_reason(text, message):
    with pytest.raises(ValueError, match=message):
        Sampler.parse(text)


# -- on a model --------------------------------------------------------------------------------------------------------


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def texts(model: LlamaForCausalLM, **settings: float) -> list[list[int]]:
    rows = [Row(prompt_ids=(3, 4, seed), max_tokens=12, seed=seed, **settings) for seed in range(20)]
    found: list[list[int]] = [[] for _ in rows]
    for step in generate(model, rows, eos_ids=frozenset()):
        for token in step:
            found[token.row].append(token.id)
    return found


def test_in_the_engine_a_sampler_on_the_model_is_the_same_as_the_requests_numbers() -> None:
    model = small_model()
    want = texts(model, temperature=0.7, top_p=0.9)
    with Sampler.parse("temperature=0.7,top_p=0.9").put_on(model):
        assert texts(model) == want
    assert texts(model) != want, "and without it they differ"


def test_a_model_that_carries_a_sampler_decodes_by_it_in_transformers_own_loop():
    model = small_model()
    prompt = torch.tensor([[3, 4, 5]]).expand(3_000, -1)
    options = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 1, "pad_token_id": 0}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # transformers on the mask of a prompt that holds the padding token
        with Sampler.parse("top_k=6,temperature=0.7").put_on(model), torch.no_grad():
            drawn = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[:, -1]
    with torch.no_grad():
        plain = model(prompt[:1]).logits[0, -1].double()
    best = plain.topk(6)
    expected = torch.zeros(30, dtype=torch.float64).scatter(0, best.indices, (best.values / 0.7).softmax(-1)) * len(
        drawn
    )
    seen = torch.bincount(drawn, minlength=30)
    assert seen[expected == 0].sum() == 0
    live = expected > 0
    assert float(((seen[live] - expected[live]) ** 2 / expected[live]).sum()) < 25  # 5 degrees of freedom
    # The block has ended, and the model is as it was.
    with torch.no_grad():
        assert torch.equal(model(prompt[:1]).logits[0, -1].double(), plain)
