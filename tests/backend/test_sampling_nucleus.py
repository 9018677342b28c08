"""The exact nucleus: against a float64 reference, with ties, banned tokens, wide vocabularies and broken rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from local_backend.sampling import decoding_logits, draw, nucleus_mask, sample_tokens, top_k_mask

WIDE = 9_000
"""More than the histogram of a nucleus has bins, twice over."""


def reference(logits: torch.Tensor, top_p: float) -> tuple[list[bool], float]:
    """Which tokens one row keeps by the definition, and how near to top_p the mass of a prefix comes."""
    p = logits.double().softmax(-1).tolist()
    order = sorted(range(len(p)), key=lambda token: (-float(logits[token]), token))
    keep, mass, nearest = [False] * len(p), 0.0, 1.0
    for token in order:
        if mass < top_p or top_p >= 1:
            keep[token] = True
        mass += p[token]
        nearest = min(nearest, abs(mass - top_p))
    return keep, nearest


@given(
    logits=st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, -torch.inf]), min_size=1, max_size=30),
    top_p=st.floats(0.001, 1),
)
def test_it_is_the_definition_with_ties_and_banned_tokens(logits: list[float], top_p: float) -> None:
    assume(max(logits) > -torch.inf)
    row = torch.tensor(logits)
    keep, nearest = reference(row, top_p)
    assume(nearest > 1e-5)  # on the knife's edge float32 may round to either side
    assert nucleus_mask(row, torch.tensor(top_p)).tolist() == keep


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.01, 1.0, 3.0, 12.0]),
    top_p=st.floats(0.001, 0.9999),
    coarse=st.booleans(),
)
def test_it_is_the_definition_for_wide_vocabularies(seed: int, scale: float, top_p: float, coarse: bool) -> None:
    row = torch.randn(WIDE, generator=torch.Generator().manual_seed(seed)) * scale
    if coarse:  # bfloat16 has many ties
        row = row.bfloat16().float()
    keep, nearest = reference(row, top_p)
    got = nucleus_mask(row, torch.tensor(top_p))
    # Where a prefix's mass comes this near, the last token may fall to either side.
    allowed = 1 if nearest < 1e-7 else 0
    assert int((got != torch.tensor(keep)).sum()) <= allowed


def test_a_flat_wide_vocabulary_keeps_the_first_ids() -> None:
    kept = nucleus_mask(torch.zeros(2, WIDE), torch.tensor([0.50004, 1e-9]))
    assert kept.sum(-1).tolist() == [round(WIDE * 0.5) + 1, 1]
    assert kept[0, : round(WIDE * 0.5) + 1].all()
    assert kept[1, 0]


@pytest.mark.parametrize("width", [7, WIDE])
@pytest.mark.parametrize("top_p", [1.0, 2.0, 0.0, -1.0])
def test_all_at_one_and_the_likeliest_at_nothing(width: int, top_p: float) -> None:
    row = torch.linspace(0, 5, width)
    kept = nucleus_mask(row, torch.tensor(top_p))
    assert kept.nonzero().flatten().tolist() == (list(range(width)) if top_p >= 1 else [width - 1])


@pytest.mark.parametrize("width", [50, WIDE])
def test_rows_of_any_shape_do_not_see_each_other(width: int) -> None:
    logits = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0)) * 4
    top_p = torch.tensor([[0.1, 0.5, 0.9], [1.0, 0.7, 0.99]])
    together = nucleus_mask(logits, top_p)
    for i in range(2):
        for j in range(3):
            assert torch.equal(together[i, j], nucleus_mask(logits[i, j], top_p[i, j]))
    assert torch.equal(together, nucleus_mask(logits.bfloat16().float() * 0 + logits, top_p))


@pytest.mark.parametrize("width", [50, WIDE])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_broken_row_harms_no_other(width: int, bad: float) -> None:
    logits = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    top_p = torch.full((3,), 0.6)
    clean = nucleus_mask(logits, top_p)
    logits[1, 3] = bad
    logits_all_banned = logits.clone()
    logits_all_banned[1] = -torch.inf
    for broken in (logits, logits_all_banned):
        kept = nucleus_mask(broken, top_p)
        assert torch.equal(kept[[0, 2]], clean[[0, 2]])
        tokens = draw(broken.masked_fill(~kept, -torch.inf), torch.tensor([0.5, 0.5, 0.5]))
        assert all(0 <= token < width for token in tokens.tolist())
        assert clean[[0, 2]].gather(1, tokens[[0, 2]].unsqueeze(1)).all()


@given(
    logits=st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0, -torch.inf]), min_size=1, max_size=12),
    top_k=st.integers(0, 14),
)
def test_top_k_keeps_k_and_ties_with_the_last(logits: list[float], top_k: int) -> None:
    ordered = sorted(logits, reverse=True)
    lowest = -torch.inf if not 0 < top_k < len(logits) else ordered[top_k - 1]
    kept = top_k_mask(torch.tensor([logits]), torch.tensor([top_k]))
    assert kept[0].tolist() == [value >= lowest for value in logits]


def test_decoding_logits_are_the_distribution_that_is_drawn_from() -> None:
    p = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04])
    logits = p.log().expand(5, -1)
    out = decoding_logits(
        logits,
        temperature=torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0]),
        top_p=torch.tensor([1.0, 0.1, 1.0, 0.6, 1.0]),
        top_k=torch.tensor([0, 0, 0, 0, 2]),
        min_p=torch.tensor([0.2, 0.0, 0.0, 0.0, 0.0]),
    )
    sharp = (p**2 / (p**2).sum()).tolist()
    want = [
        [4 / 9, 3 / 9, 2 / 9, 0, 0],
        [1, 0, 0, 0, 0],
        sharp,
        [4 / 7, 3 / 7, 0, 0, 0],
        [4 / 7, 3 / 7, 0, 0, 0],
    ]
    torch.testing.assert_close(out.softmax(-1), torch.tensor(want))


def test_greedy_rows_take_the_first_of_equals_beside_rows_that_sample() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    tokens = sample_tokens(
        logits,
        temperature=torch.tensor([0.0, 1.0]),
        top_p=torch.ones(2),
        top_k=torch.zeros(2, dtype=torch.int64),
        min_p=torch.zeros(2),
        uniforms=torch.tensor([0.999, 0.999]),
    )
    assert tokens.tolist() == [1, 2]
