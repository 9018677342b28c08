"""Drawing tokens: exact distributions, truncation rules, penalties, and independence of neighbours."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from local_backend.blocks import row_blocks
from local_backend.sampling import penalise_presence_frequency, penalise_repetition, row_uniforms, sample_tokens


def draw(logits: torch.Tensor, n: int, *, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, seed=0) -> torch.Tensor:
    """n draws from one row of logits."""
    return sample_tokens(
        logits.expand(n, -1),
        temperature=torch.full((n,), temperature),
        top_p=torch.full((n,), top_p),
        top_k=torch.full((n,), top_k),
        min_p=torch.full((n,), min_p),
        uniforms=row_uniforms(torch.full((n,), seed), torch.arange(n)),
    )


def chi_square(drawn: torch.Tensor, expected: torch.Tensor) -> float:
    seen = torch.bincount(drawn, minlength=len(expected)).double()
    assert seen[expected == 0].sum() == 0
    live = expected > 0
    want = expected[live].double() * len(drawn)
    return float(((seen[live] - want) ** 2 / want).sum())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_samples_follow_the_tempered_softmax(temperature):
    logits = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.0, 1.5])
    expected = torch.softmax(logits / temperature, dim=-1)
    # 5 degrees of freedom: 25 is beyond the 99.98th percentile; the seed is fixed.
    assert chi_square(draw(logits, 20_000, temperature=temperature), expected) < 25


def test_the_chi_square_sees_a_wrong_temperature():
    logits = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.0, 1.5])
    assert chi_square(draw(logits, 20_000, temperature=1.1), torch.softmax(logits, dim=-1)) > 25


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ({"top_p": 0.75}, [0, 1]),
        ({"top_p": 0.4}, [0]),
        ({"top_p": 0.81}, [0, 1, 2]),
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_k": 2, "top_p": 0.6}, [0]),
        ({"min_p": 0.35}, [0, 1]),
        ({"top_p": 1e-9}, [0]),
        ({"top_k": 99}, [0, 1, 2, 3]),
    ],
)
def test_truncation_keeps_the_right_tokens_and_renormalises(setting, kept):
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    expected = torch.zeros(4)
    expected[kept] = probs[kept] / probs[kept].sum()
    assert chi_square(draw(probs.log(), 20_000, **setting), expected) < 25


def test_zero_temperature_is_argmax_and_tiny_temperature_is_finite():
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert draw(logits, 50, temperature=0.0, top_p=0.3).unique().tolist() == [1]
    assert draw(logits * 1e4, 50, temperature=1e-30).unique().tolist() == [1]


def test_banned_tokens_are_never_drawn():
    logits = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    assert set(draw(logits, 2_000, temperature=2.0).tolist()) == {0, 2}


def test_the_largest_uniform_lands_on_a_kept_token():
    logits = torch.cat([torch.zeros(3), torch.full((5,), -torch.inf)])
    one = torch.ones(1)
    token = sample_tokens(
        logits.unsqueeze(0),
        temperature=one,
        top_p=one,
        top_k=torch.zeros(1, dtype=torch.int64),
        min_p=torch.zeros(1),
        uniforms=one,
    )
    assert token.item() == 2


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.5, 1.0, 2.0]),
            st.sampled_from([0.1, 0.7, 1.0]),
            st.sampled_from([0, 1, 5]),
            st.sampled_from([0.0, 0.3]),
        ),
        min_size=2,
        max_size=6,
    ),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_a_row_does_not_notice_its_neighbours(rows, seed):
    size = len(rows)
    logits = torch.randn(size, 33, generator=torch.Generator().manual_seed(seed % 2**31)) * 3
    temperature, top_p, top_k, min_p = (torch.tensor(column) for column in zip(*rows, strict=True))
    uniforms = row_uniforms(torch.arange(size) + seed // 2, torch.arange(size))
    fields = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "uniforms": uniforms}
    together = sample_tokens(logits, **fields)
    alone = [sample_tokens(logits[i : i + 1], **{k: v[i : i + 1] for k, v in fields.items()}) for i in range(size)]
    assert together.tolist() == torch.cat(alone).tolist()


def test_a_row_does_not_notice_the_block_it_is_worked_through_in():
    rows, width = 9, 40_000
    assert len(row_blocks(torch.empty(rows, width))) > 1
    logits = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * 3
    fields = {
        "temperature": torch.tensor([0.0, 0.7, 1.0] * 3),
        "top_p": torch.linspace(0.5, 1, rows),
        "top_k": torch.tensor([0, 0, 0, 7, 0, 0, 0, 0, 3]),
        "min_p": torch.tensor([0.0] * 8 + [0.1]),
        "uniforms": torch.linspace(0, 0.99, rows),
    }
    together = sample_tokens(logits, **fields)
    alone = [sample_tokens(logits[i : i + 1], **{k: v[i : i + 1] for k, v in fields.items()}) for i in range(rows)]
    assert together.tolist() == torch.cat(alone).tolist()


def test_uniforms_are_uniform_and_uncorrelated_over_seeds_and_positions():
    grid = row_uniforms(torch.arange(200).repeat_interleave(200), torch.arange(200).repeat(200)).reshape(200, 200)
    assert grid.min() >= 0
    assert grid.max() < 1
    counts = torch.histc(grid, bins=20, min=0, max=1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 50  # 19 degrees of freedom
    for along in (grid, grid.T):
        pairs = torch.stack([along[:-1].flatten(), along[1:].flatten()])
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 4 / math.sqrt(pairs.shape[1])
    again = row_uniforms(torch.tensor([7]), torch.tensor([9]))
    assert again.item() == grid[7, 9].item()


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False]])
    assert penalise_repetition(logits, seen, torch.tensor([2.0])).tolist() == [[1.0, -4.0, 1.0]]
    assert torch.equal(penalise_repetition(logits, seen, torch.tensor([1.0])), logits)


def test_presence_counts_once_and_frequency_every_time():
    logits = torch.zeros(1, 3)
    counts = torch.tensor([[0, 1, 3]])
    out = penalise_presence_frequency(logits, counts, torch.tensor([0.5]), torch.tensor([0.25]))
    assert out.tolist() == [[0.0, -0.75, -1.25]]
