"""Every loss against formulas written out in float64 with an explicit loop, and what the published forms do wrong."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from local_backend.training.losses import Form, LossConfig, SoftTopP, Term, position_losses

POSITIONS, VOCABULARY = 12, 20


def _case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels (a third of them the likeliest token), temperatures, nucleus masses and uniforms, float64."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(POSITIONS, VOCABULARY, generator=random, dtype=torch.float64)
    labels = torch.randint(VOCABULARY, (POSITIONS,), generator=random)
    labels[::3] = logits[::3].argmax(dim=-1)
    temperature = 0.3 + 1.5 * torch.rand(POSITIONS, generator=random, dtype=torch.float64)
    top_p = 0.05 + 0.9 * torch.rand(POSITIONS, generator=random, dtype=torch.float64)
    return logits, labels, temperature, top_p, torch.rand(POSITIONS, generator=random, dtype=torch.float64)


def _reference_nucleus(p: list[Tensor], label: int, top_p: Tensor, alpha: float, kind: SoftTopP) -> Tensor:
    """Soft top-p of one position from tempered probabilities (tensors with a gradient), token by token."""
    order = sorted(range(len(p)), key=lambda token: (-float(p[token].detach()), token))
    mass: Tensor | float = 0.0
    kept, own = torch.zeros((), dtype=torch.float64), None
    for rank, token in enumerate(order):
        before = mass
        mass = mass + p[token]
        over = torch.relu((before if kind == "exclusive" else mass) - top_p)
        soft = p[token] * (1.0 if kind == "safe" and rank == 0 else torch.exp(-alpha * over))
        kept = kept + soft
        own = soft if token == label else own
    assert own is not None
    return torch.log(own / (kept + 1e-9) + 1e-9) if kind == "published" else torch.log(own / kept)


def _reference(config: LossConfig, case: tuple[Tensor, ...]) -> dict[str, list[tuple[Tensor, bool]]]:
    """(value, counted) of each loss at each position."""
    logits, labels, temperature, top_p, uniforms = case
    found: dict[str, list[tuple[Tensor, bool]]] = {}
    for n in range(POSITIONS):
        y = int(labels[n])
        plain = math.exp(logits[n, y]) / sum(math.exp(x) for x in logits[n])
        easy = int(logits[n].argmax()) == y and float(uniforms[n]) < config.easy_token_drop
        exponentials = [torch.exp(x / temperature[n]) for x in logits[n]]
        p = [each / sum(exponentials) for each in exponentials]
        weight = plain**config.dft_exponent
        cut = _reference_nucleus(p, y, top_p[n], config.alpha, config.soft_top_p)
        if config.form == "joint":
            terms = {"joint": (-weight * cut, not easy)}
        elif config.form == "megatron":
            terms = {
                "temperature": (-(float(p[y].detach()) ** config.dft_exponent) * p[y].log(), not easy),
                "top_p": (-weight * cut, not easy),
            }
        else:
            heat = torch.clamp(temperature[n], min=config.min_temperature)
            own = torch.exp(logits[n, y] / heat) / sum(torch.exp(x / heat) for x in logits[n])
            terms = {"temperature": (-weight * own.log(), not easy), "top_p": (-weight * cut, True)}
        for name, term in terms.items():
            found.setdefault(name, []).append(term)
    return found


@pytest.mark.parametrize("form", get_args(Form))
@pytest.mark.parametrize("soft_top_p", get_args(SoftTopP))
def test_every_loss_and_its_gradients_equal_the_written_out_formula(form: Form, soft_top_p: SoftTopP) -> None:
    config = LossConfig(form=form, soft_top_p=soft_top_p, dft_exponent=0.7, easy_token_drop=0.5, min_temperature=0.4)
    logits, labels, temperature, top_p, uniforms = _case()
    ours = temperature.clone().requires_grad_(), top_p.clone().requires_grad_()
    theirs = temperature.clone().requires_grad_(), top_p.clone().requires_grad_()
    found = position_losses(config, logits, labels, *ours, uniforms)
    expected = _reference(config, (logits, labels, *theirs, uniforms))
    assert found.keys() == expected.keys()
    for name, term in found.items():
        values = torch.stack([value for value, _ in expected[name]])
        torch.testing.assert_close(term.values, values, rtol=1e-9, atol=1e-10)
        assert term.counted.tolist() == [counted for _, counted in expected[name]]
        slopes = torch.autograd.grad(
            term.values.sum(), ours, allow_unused=True, materialize_grads=True, retain_graph=True
        )
        wanted = torch.autograd.grad(values.sum(), theirs, allow_unused=True, materialize_grads=True, retain_graph=True)
        torch.testing.assert_close(slopes, wanted, rtol=1e-7, atol=1e-9)


def test_float32_and_bfloat16_logits_are_as_good_as_their_numbers() -> None:
    logits, labels, temperature, top_p, uniforms = _case()
    for dtype in (torch.float32, torch.bfloat16):
        rounded = logits.to(dtype)
        exact = position_losses(LossConfig(), rounded.double(), labels, temperature, top_p, uniforms)
        found = position_losses(LossConfig(), rounded, labels, temperature.float(), top_p.float(), uniforms)
        for name, term in found.items():
            torch.testing.assert_close(term.values.double(), exact[name].values, rtol=1e-4, atol=1e-5)


def test_tokens_without_mass_leave_the_gradient_finite() -> None:
    logits, labels, temperature, top_p, uniforms = _case()
    labels = logits.argmax(dim=-1)
    banned = logits.masked_fill(logits < logits.median(), -torch.inf)
    heat, mass = temperature.clone().requires_grad_(), top_p.clone().requires_grad_()
    total = sum(
        term.values.sum() for term in position_losses(LossConfig(), banned, labels, heat, mass, uniforms).values()
    )
    slopes = torch.autograd.grad(total, (heat, mass))
    assert all(slope.isfinite().all() for slope in slopes)


def test_equal_logits_are_ranked_by_token_id_like_the_nucleus_of_the_engine() -> None:
    flat = torch.zeros(4, 4, dtype=torch.float64)
    ones = torch.ones(4, dtype=torch.float64)
    found = position_losses(
        LossConfig(dft_exponent=0, alpha=50), flat, torch.arange(4), ones, 0.5 * ones, torch.zeros(4)
    )["top_p"].values
    # Exclusive masses are 0, .25, .5, .75 and P is .5: the fourth token alone lies outside.
    assert found[0] == found[1] == found[2]
    assert found[3] - found[0] == pytest.approx(50 * 0.25)


def _slope_by_top_p(kind: SoftTopP, probabilities: list[float], label: int, top_p: float) -> float:
    logits = torch.tensor([probabilities], dtype=torch.float64).log()
    mass = torch.tensor([top_p], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    term = position_losses(LossConfig(soft_top_p=kind, dft_exponent=0), logits, torch.tensor([label]), one, mass, one)
    return float(torch.autograd.grad(term["top_p"].values.sum(), mass)[0])


@pytest.mark.parametrize(("kind", "dead"), [("published", True), ("safe", False), ("exclusive", False)])
def test_below_the_largest_probability_only_the_published_form_has_no_gradient(kind: SoftTopP, dead: bool) -> None:
    # The second token is wanted and P = .5 < p1 = .6: P should grow.
    slope = _slope_by_top_p(kind, [0.6, 0.3, 0.1], 1, 0.5)
    assert abs(slope) < 1e-3 if dead else slope < -1


@pytest.mark.parametrize(("kind", "explodes"), [("published", True), ("safe", False), ("exclusive", False)])
def test_far_below_it_only_the_published_form_explodes(kind: SoftTopP, explodes: bool) -> None:
    # The likeliest token is wanted, and is kept whatever P is: there is nothing to gain from a larger P.
    slope = _slope_by_top_p(kind, [0.95, 0.04, 0.01], 0, 0.05)
    assert slope == pytest.approx(-29, abs=1) if explodes else abs(slope) < 1e-3


def test_exclusive_matches_the_hard_nucleus_where_the_published_form_is_far_harsher() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log().expand(4, 4)
    ones = torch.ones(4, dtype=torch.float64)

    def soft(kind: SoftTopP) -> list[float]:
        config = LossConfig(soft_top_p=kind, dft_exponent=0)
        term = position_losses(config, logits, torch.arange(4), ones, 0.5 * ones, ones)["top_p"]
        return (-term.values).exp().tolist()

    assert soft("published") == pytest.approx([0.998, 0.002, 0, 0], abs=1e-3)
    # The hard nucleus at P = .5 keeps the first two: .4/.7 and .3/.7.
    assert soft("exclusive") == pytest.approx([0.571, 0.428, 0, 0], abs=2e-3)


TWO_TOKENS = [(0.99, 0.56), (0.95, 0.59), (0.9, 0.63), (0.8, 0.75), (0.7, 1.09), (0.65, 1.92), (0.6, 2.0)]


def _optimum(config: LossConfig, p1: float) -> float:
    """T in (0, 2) that minimises the expected temperature loss over labels drawn from the model, by gradient descent."""
    logits = torch.tensor([[p1, 1 - p1]], dtype=torch.float64).log().expand(4, 2)
    labels = torch.tensor([0, 0, 1, 1])
    # Each label once with a draw that drops it if it is easy, and once with one that does not; weighed as often as that happens.
    uniforms = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    drop = config.easy_token_drop
    odds = torch.tensor([p1 * drop, p1 * (1 - drop), (1 - p1) * drop, (1 - p1) * (1 - drop)], dtype=torch.float64)
    raw = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def loss() -> Tensor:
        optimiser.zero_grad()
        term: Term = position_losses(
            config, logits, labels, 2 * raw.sigmoid().expand(4), torch.ones(4, dtype=torch.float64), uniforms
        )["temperature"]
        total = (odds * term.counted * term.values).sum()
        total.backward()
        return total

    optimiser.step(loss)
    return 2 * float(raw.detach().sigmoid())


@pytest.mark.parametrize(("p1", "temperature"), TWO_TOKENS)
def test_the_published_constants_decide_the_temperature_of_two_tokens(p1: float, temperature: float) -> None:
    # With probability p1 of the likelier token, the optimum of drop .6 and DFT exponent 1 in closed form is
    # ln(p1 / (1 - p1)) / ln(.4 p1^2 / (1 - p1)^2), capped at 2.
    ratio = math.log(0.4 * (p1 / (1 - p1)) ** 2)
    closed = min(2.0, math.log(p1 / (1 - p1)) / ratio) if ratio > 0 else 2.0
    assert closed == pytest.approx(temperature, abs=0.006)
    assert _optimum(LossConfig(), p1) == pytest.approx(closed, abs=0.02)


def test_without_the_constants_the_optimum_is_1_and_dft_alone_makes_it_a_half() -> None:
    for p1 in (0.95, 0.8, 0.65):
        assert _optimum(LossConfig(easy_token_drop=0, dft_exponent=0), p1) == pytest.approx(1, abs=1e-3)
        assert _optimum(LossConfig(easy_token_drop=0, dft_exponent=1), p1) == pytest.approx(0.5, abs=1e-3)
        assert _optimum(LossConfig(easy_token_drop=0.6, dft_exponent=0), p1) > 1.2


@pytest.mark.parametrize(
    ("name", "value"), [("easy_token_drop", 1.0), ("dft_exponent", -1.0), ("alpha", 0.0), ("min_temperature", -0.1)]
)
def test_constants_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value}"):
        LossConfig(**{name: value})
