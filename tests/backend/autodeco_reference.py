"""AutoDeco in float64, written from the paper and the released checkpoints' shapes, and small random models to try it on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from local_backend.heads import Heads, HeadsConfig
from local_backend.model import AutoDecoModelForCausalLM, output_width

VOCABULARY = 61
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


class Reference(NamedTuple):
    """All float64: T and P [...], and the probabilities a token is drawn with [..., V]."""

    temperature: Tensor
    top_p: Tensor
    probabilities: Tensor


def reference(heads: Heads, hidden: Tensor, logits: Tensor, *, heat: float = 1.0, mass: float = 1.0) -> Reference:
    """What published heads decide for hidden [..., H] and final logits [..., V], and what is drawn from then.

    `heat` and `mass` are what the request multiplies in.
    """
    hidden, logits = hidden.double(), logits.double()
    temperature = 2 * _head(heads, "temp_head", hidden)
    p = (logits / (temperature + 1e-8)[..., None]).softmax(-1)
    features = [hidden, temperature[..., None]]
    if heads.config.statistics:
        entropy = -(p * (p + 1e-8).log()).sum(-1)
        features.append(
            torch.stack([p.max(-1).values, entropy, p.var(-1), p.sort(-1).values[..., -5:].sum(-1)], dim=-1)
        )
    top_p = _head(heads, "top_p_head", torch.cat(features, dim=-1))
    temperature, top_p = temperature * heat, (top_p * mass).clamp(max=1)
    return Reference(temperature, top_p, nucleus(logits, temperature, top_p))


def nucleus(logits: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """Hard top-p in float64: the fewest likeliest tokens whose mass reaches P, ties by token id, renormalised."""
    p = (logits.double() / temperature.double()[..., None]).softmax(-1)
    ordered, tokens = p.sort(dim=-1, descending=True, stable=True)
    kept = ordered.cumsum(-1) - ordered < top_p.double()[..., None]
    kept[..., 0] = True
    cut = torch.zeros_like(p).scatter(-1, tokens, ordered * kept)
    return cut / cut.sum(-1, keepdim=True)


def _head(heads: Heads, name: str, features: Tensor) -> Tensor:
    state = {key: tensor.double() for key, tensor in heads.state_dict().items() if key.startswith(f"{name}.")}
    between = (features @ state[f"{name}.mlp.0.weight"].T + state[f"{name}.mlp.0.bias"]).clamp(min=0)
    last = between @ state[f"{name}.mlp.2.weight"].T + state[f"{name}.mlp.2.bias"]
    return 1 / (1 + (-last[..., 0]).exp())


def make_base(model_type: str = "llama", seed: int = 0, **settings: Any) -> Any:
    """A small random causal LM in eval mode."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SMALL, **settings})).eval()


def make_heads(base: Any, *, temperature: float = 1.0, top_p: float = 0.7, seed: int = 1, **settings: Any) -> Heads:
    """Random heads that decide about this much, and something else for every token."""
    torch.manual_seed(seed)
    heads = Heads(HeadsConfig(hidden_size=output_width(base), **settings))
    for head, share in ((heads.temp_head, temperature / 2), (heads.top_p_head, top_p)):
        if head is not None:
            torch.nn.init.normal_(head.mlp[0].weight, std=0.1)
            torch.nn.init.normal_(head.mlp[2].weight, std=0.05)
            torch.nn.init.constant_(head.mlp[2].bias, torch.logit(torch.tensor(share)).item())
    return heads


def make_model(model_type: str = "llama", **settings: Any) -> AutoDecoModelForCausalLM:
    """A small base with random heads."""
    base = make_base(model_type, **settings)
    return AutoDecoModelForCausalLM.attach(base, make_heads(base))


def prompts(batch: int, length: int, seed: int = 2) -> Tensor:
    """Random token ids [batch, length] without the special ones."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def caught(base: Any, **inputs: Any) -> tuple[Tensor, Tensor, int]:
    """What enters the output embedding, the final logits, and how often the embedding was called."""
    seen: list[Tensor] = []
    handle = base.get_output_embeddings().register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
    with torch.no_grad():
        logits = base(**inputs).logits
    handle.remove()
    return seen[-1], logits, len(seen)
