"""The two heads against float64, and what they promise about dtypes, names and shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from local_backend.heads import Heads, HeadsConfig, statistics
from tests.backend.autodeco_reference import reference


def _inputs(rows: int, width: int, hidden: int, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, hidden, generator=random), scale * torch.randn(rows, width, generator=random)


@pytest.mark.parametrize("width", [3, 61, 1279, 1280, 5003, 32_000])
@pytest.mark.parametrize("scale", [0.3, 3.0, 12.0])
@pytest.mark.parametrize("with_statistics", [True, False])
def test_both_heads_are_those_of_the_paper_in_float64(width: int, scale: float, with_statistics: bool) -> None:
    torch.manual_seed(0)
    heads = Heads(HeadsConfig(hidden_size=24, statistics=with_statistics))
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    hidden, logits = _inputs(11, width, 24, scale=scale)
    expected = reference(heads, hidden, logits)
    found = heads(hidden, logits)
    torch.testing.assert_close(found.temperature.double(), expected.temperature, rtol=2e-6, atol=0)
    torch.testing.assert_close(found.top_p.double(), expected.top_p, rtol=2e-5, atol=0)
    assert expected.temperature.std() > 0.05
    assert expected.top_p.std() > 0.02


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0, 40.0])
def test_the_four_statistics_against_float64(scale: float) -> None:
    _, logits = _inputs(9, 32_000, 1, scale=scale)
    temperature = torch.linspace(0.05, 1.95, 9)
    p = (logits.double() / (temperature.double() + 1e-8)[:, None]).softmax(-1)
    entropy = -(p * (p + 1e-8).log()).sum(-1)
    expected = torch.stack([p.amax(-1), entropy, p.var(-1), p.sort(-1).values[:, -5:].sum(-1)], dim=-1)
    found = statistics(logits, temperature).double()
    # Logits that are divided by a small T lose digits in float32, here as in every engine.
    for column, (relative, absolute) in enumerate([(5e-4, 1e-9), (5e-4, 3e-5), (1e-3, 1e-10), (5e-4, 1e-9)]):
        torch.testing.assert_close(found[:, column], expected[:, column], rtol=relative, atol=absolute)


def test_statistics_of_bfloat16_logits_are_computed_in_float32() -> None:
    _, logits = _inputs(4, 4096, 1)
    rounded = logits.bfloat16()
    torch.testing.assert_close(
        statistics(rounded, torch.ones(4)), statistics(rounded.float(), torch.ones(4)), rtol=0, atol=0
    )


def test_a_row_does_not_depend_on_how_many_rows_come_with_it() -> None:
    heads = Heads(HeadsConfig(hidden_size=16))
    hidden, logits = _inputs(40, 20_000, 16)
    with torch.no_grad():
        together, alone = heads(hidden, logits), heads(hidden[33:34], logits[33:34])
    torch.testing.assert_close(together.top_p[33:34], alone.top_p)
    assert heads(hidden.view(4, 10, 16), logits.view(4, 10, -1)).top_p.shape == (4, 10)


def test_banned_tokens_and_the_smallest_temperature_leave_statistics_finite() -> None:
    _, logits = _inputs(3, 2000, 1)
    logits[:, 100:] = -torch.inf
    kept = statistics(logits[:, :100], torch.ones(3))
    torch.testing.assert_close(statistics(logits, torch.ones(3))[:, [0, 1, 3]], kept[:, [0, 1, 3]])
    assert statistics(logits, torch.zeros(3))[:, 1].abs().max() < 2e-8
    tied = torch.tensor([[5.0, 5.0, 1.0]])
    torch.testing.assert_close(statistics(tied, torch.zeros(1))[0, 1].item(), 0.6931472, rtol=1e-5, atol=0)


def test_neutral_heads_decide_one_and_one_exactly() -> None:
    heads = Heads.neutral(HeadsConfig(hidden_size=8))
    decision = heads(*_inputs(50, 300, 8, scale=20))
    assert set(decision.temperature.tolist()) == {1.0}
    assert set(decision.top_p.tolist()) == {1.0}


@pytest.mark.parametrize(("temperature", "top_p"), [(True, False), (False, True)])
def test_a_head_that_is_off_decides_one(temperature: bool, top_p: bool) -> None:
    heads = Heads(HeadsConfig(hidden_size=8, temperature=temperature, top_p=top_p))
    decision = heads(*_inputs(5, 50, 8))
    assert (set(decision.temperature.tolist()) == {1.0}) is not temperature
    assert (set(decision.top_p.tolist()) == {1.0}) is not top_p


def test_names_shapes_and_sizes_are_the_published_ones() -> None:
    heads = Heads(HeadsConfig(hidden_size=4096))
    assert {name: tuple(tensor.shape) for name, tensor in heads.state_dict().items()} == {
        "temp_head.mlp.0.weight": (256, 4096),
        "temp_head.mlp.0.bias": (256,),
        "temp_head.mlp.2.weight": (1, 256),
        "temp_head.mlp.2.bias": (1,),
        "top_p_head.mlp.0.weight": (256, 4101),
        "top_p_head.mlp.0.bias": (256,),
        "top_p_head.mlp.2.weight": (1, 256),
        "top_p_head.mlp.2.bias": (1,),
    }
    assert sum(parameter.numel() for parameter in heads.parameters()) == 2_099_458  # the paper's 2.1 M for Llama-8B


def test_heads_stay_float32_and_lose_no_digit_when_their_model_is_cast() -> None:
    heads = Heads(HeadsConfig(hidden_size=8))
    before = {name: tensor.clone() for name, tensor in heads.state_dict().items()}
    torch.nn.ModuleDict({"heads": heads}).bfloat16()
    assert all(torch.equal(before[name], tensor) for name, tensor in heads.state_dict().items())
    hidden, logits = _inputs(2, 40, 8)
    assert heads(hidden.bfloat16(), logits.bfloat16()).top_p.dtype == torch.float32


def test_gradients_reach_both_heads_and_the_temperature_stays_out_of_the_top_p_head() -> None:
    heads = Heads(HeadsConfig(hidden_size=8))
    hidden, logits = _inputs(6, 40, 8)
    heads(hidden, logits).top_p.sum().backward()
    assert heads.temp_head is not None
    assert heads.top_p_head is not None
    assert all(parameter.grad is None for parameter in heads.temp_head.parameters())
    assert all(parameter.grad is not None for parameter in heads.top_p_head.parameters())
    heads(hidden, logits).temperature.sum().backward()
    assert all(parameter.grad is not None for parameter in heads.temp_head.parameters())


def test_nonsense_configurations_name_the_value() -> None:
    with pytest.raises(ValueError, match="hidden_size=0"):
        HeadsConfig(hidden_size=0)
    with pytest.raises(ValueError, match="decide nothing"):
        HeadsConfig(hidden_size=4, temperature=False, top_p=False)
