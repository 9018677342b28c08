"""The noisy nucleus against an integral over the noise and finite differences, in float64 from the definitions alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from local_backend.sampling import nucleus_mask
from local_backend.training.reinforce.exploration import explore

LOGITS = torch.tensor([[2.0, 1.2, 0.3, -0.5, -2.0], [0.1, 3.0, 2.8, -1.0, 0.0], [0.0, 0.2, 0.1, 0.3, -0.1]])
TEMPERATURE = torch.tensor([1.0, 0.6, 1.8])
TOP_P = torch.tensor([0.7, 0.95, 0.4])
NOISE = 0.5


def integrated(
    logits: list[float], temperature: float, top_p: float, *, noise: float, grid: int = 20_000
) -> list[float]:
    """Nucleus sampling of one position, averaged over logistic noise on logit(P): its quantiles at the middles of equal parts."""
    p = np.exp(np.array(logits, dtype=np.float64) / temperature)
    order = np.argsort(-p)
    p = p[order] / p.sum()
    u = (np.arange(grid) + 0.5) / grid
    noisy = 1 / (1 + np.exp(-(np.log(top_p / (1 - top_p)) + noise * np.log(u / (1 - u)))))
    # A token is kept as long as those before it have not reached P.
    kept = (np.cumsum(p) - p)[None, :] < noisy[:, None]
    drawn = (p * kept / (p * kept).sum(axis=1, keepdims=True)).mean(axis=0)
    return [float(drawn[list(order).index(token)]) for token in range(len(logits))]


def probabilities(logits: Tensor, temperature: Tensor, top_p: Tensor, *, noise: float) -> Tensor:
    return explore(logits, temperature, top_p, noise=noise).logits().exp()


def test_it_is_the_mean_over_the_noise() -> None:
    found = probabilities(LOGITS, TEMPERATURE, TOP_P, noise=NOISE)
    for row in range(len(LOGITS)):
        expected = integrated(LOGITS[row].tolist(), float(TEMPERATURE[row]), float(TOP_P[row]), noise=NOISE)
        assert found[row].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_reference_tells_another_noise() -> None:
    found = probabilities(LOGITS, TEMPERATURE, TOP_P, noise=1.0)
    expected = integrated(LOGITS[0].tolist(), 1.0, float(TOP_P[0]), noise=NOISE)
    assert found[0].tolist() != pytest.approx(expected, abs=1e-2)


def test_without_noise_it_is_the_hard_nucleus() -> None:
    found = probabilities(LOGITS, TEMPERATURE, TOP_P, noise=1e-4)
    warm = LOGITS / TEMPERATURE.unsqueeze(1)
    expected = warm.masked_fill(~nucleus_mask(warm, TOP_P), -torch.inf).softmax(dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_nucleus_of_one_keeps_everything() -> None:
    found = probabilities(LOGITS, TEMPERATURE, torch.ones(3), noise=NOISE)
    torch.testing.assert_close(found, (LOGITS / TEMPERATURE.unsqueeze(1)).softmax(dim=-1))


def test_gradients_are_the_slopes_of_the_integral() -> None:
    token = torch.tensor([1, 2, 3])
    temperature, top_p = TEMPERATURE.clone().requires_grad_(), TOP_P.clone().requires_grad_()
    explore(LOGITS, temperature, top_p, noise=NOISE).log_probability(token).sum().backward()
    assert temperature.grad is not None
    assert top_p.grad is not None

    def log(row: int, heat: float, mass: float) -> float:
        return math.log(integrated(LOGITS[row].tolist(), heat, mass, noise=NOISE, grid=200_000)[int(token[row])])

    for row in range(len(LOGITS)):
        heat, mass = float(TEMPERATURE[row]), float(TOP_P[row])
        slope = (log(row, heat + 0.02, mass) - log(row, heat - 0.02, mass)) / 0.04
        assert float(temperature.grad[row]) == pytest.approx(slope, abs=0.01)
        slope = (log(row, heat, mass + 0.005) - log(row, heat, mass - 0.005)) / 0.01
        assert float(top_p.grad[row]) == pytest.approx(slope, abs=0.02)


def test_extreme_decisions_stay_finite() -> None:
    logits = torch.tensor([[80.0, 0.0, -80.0], [0.0, 0.0, 0.0], [5.0, -torch.inf, 4.0]])
    for heat in (0.0, 1e-6, 2.0):
        for mass in (0.0, 1e-9, 1.0):
            temperature = torch.full((3,), heat, requires_grad=True)
            top_p = torch.full((3,), mass, requires_grad=True)
            found = explore(logits, temperature, top_p, noise=NOISE)
            torch.testing.assert_close(found.probability.sum(dim=-1), torch.ones(3))
            found.log_probability(torch.tensor([0, 1, 2])).sum().backward()
            assert temperature.grad is not None
            assert temperature.grad.isfinite().all()
            assert top_p.grad is not None
            assert top_p.grad.isfinite().all()
