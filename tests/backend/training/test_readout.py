"""Hidden states and chunked logits are those of the model's own forward pass, whatever it does to its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
)

from local_backend.config import SetupError
from local_backend.training.readout import Readout
from tests.backend.training.training_parts import random_model

SMALL = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _make(kind: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "soft-cap":
            return Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0))
        if kind == "factor":
            return CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25))
        if kind == "divisor":
            return GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0))
        if kind == "tied":
            names = {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
            return GPT2LMHeadModel(GPT2Config(**names, bos_token_id=1, eos_token_id=2))
        return random_model()


def _run(readout: Readout, ids: Tensor, mask: Tensor) -> Tensor:
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    hidden = readout.hidden(ids, mask, positions)
    rows = hidden.flatten(0, 1)
    pieces = [readout.logits(rows[start : start + 5]) for start in range(0, len(rows), 5)]
    return torch.cat(pieces).view(*ids.shape, -1)


@pytest.mark.parametrize("kind", ["plain", "soft-cap", "factor", "divisor", "tied"])
def test_logits_in_chunks_are_the_models_own_final_ones(kind: str) -> None:
    model = _make(kind).eval()
    ids = torch.randint(3, 29, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    torch.testing.assert_close(_run(Readout(model), ids, torch.ones_like(ids)), expected, rtol=1e-4, atol=1e-5)
    raw = model.get_output_embeddings()(Readout(model).hidden(ids, torch.ones_like(ids), torch.arange(7).expand(2, 7)))
    assert torch.allclose(raw, expected, atol=1e-3) == (kind in ("plain", "tied")), "the case must show what it is for"


def test_padding_on_the_left_shifts_the_states_and_changes_none() -> None:
    readout = Readout(random_model())
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = _run(readout, ids, torch.ones_like(ids))
    padded = torch.tensor([[0, 0, 5, 6, 7, 8]])
    shifted = _run(readout, padded, torch.tensor([[0, 0, 1, 1, 1, 1]]))
    torch.testing.assert_close(shifted[:, 2:], plain, rtol=1e-4, atol=1e-5)


def test_the_base_computes_in_bfloat16_under_autocast_and_leaves_no_gradient() -> None:
    model = random_model()
    readout = Readout(model, autocast=torch.bfloat16)
    ids = torch.tensor([[5, 6, 7]])
    hidden = readout.hidden(ids, torch.ones_like(ids), torch.arange(3)[None])
    logits = readout.logits(hidden[0])
    assert logits.dtype == torch.bfloat16
    assert not logits.requires_grad
    exact = Readout(model).logits(Readout(model).hidden(ids, torch.ones_like(ids), torch.arange(3)[None])[0])
    assert (logits.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_bfloat16_base_is_read_out_as_it_computes_itself() -> None:
    model = random_model().to(torch.bfloat16)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    assert torch.equal(_run(Readout(model), ids, torch.ones_like(ids)), expected)


class _Odd(LlamaForCausalLM):  # type: ignore[misc] # transformers has no types
    """Squares its logits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits**2
        return out


def test_a_model_that_does_something_unknown_to_its_logits_is_refused() -> None:
    with pytest.raises(SetupError, match="_Odd does something to its logits that is not known"):
        Readout(_Odd(random_model().config))


def test_a_model_without_an_output_embedding_is_refused() -> None:
    with pytest.raises(SetupError, match="LlamaModel has no output embedding"):
        Readout(random_model().model)
