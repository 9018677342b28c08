"""Heads on every kind of base: what enters the output embedding, and the logits after every cap and scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from local_backend.heads import Decision
from local_backend.model import AutoDecoModelForCausalLM
from tests.backend.autodeco_reference import caught, make_base, make_heads, prompts, reference

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# GPT-2 and its kin call the same things by other names.
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral, sliding window": ("mistral", {"sliding_window": 4}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen2_moe": ("qwen2_moe", {**_EXPERTS, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("qwen3_moe", _EXPERTS),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4}),
    "deepseek_v3": (
        "deepseek_v3",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    "gpt2, tied": ("gpt2", _GPT),
    "gpt_neox": ("gpt_neox", {}),
    "opt, projected": ("opt", {"word_embed_proj_dim": 24, "ffn_dim": 48, "do_layer_norm_before": False}),
    "bloom, no position ids": ("bloom", {"n_layer": 2, "n_head": 4}),
    "gemma2, soft-cap": ("gemma2", {"final_logit_softcapping": 2.0, "sliding_window": 4}),
    "gemma3": ("gemma3_text", {"final_logit_softcapping": 2.0, "sliding_window": 4}),
    "cohere, scale": ("cohere", {"logit_scale": 0.25}),
    "cohere2": ("cohere2", {"logit_scale": 0.25, "sliding_window": 4}),
    "granite, scale": ("granite", {"logits_scaling": 4.0}),
    "mamba, no attention": ("mamba", {"state_size": 4, "num_hidden_layers": 2}),
}
CAPPED_OR_SCALED = ["gemma2, soft-cap", "gemma3", "cohere, scale", "cohere2", "granite, scale"]


def _model(name: str) -> AutoDecoModelForCausalLM:
    model_type, settings = BASES[name]
    base = make_base(model_type, **settings)
    return AutoDecoModelForCausalLM.attach(base, make_heads(base))


def _probabilities_match(model: AutoDecoModelForCausalLM, ids: Tensor) -> None:
    hidden, logits, _ = caught(model.llm, input_ids=ids)
    expected = reference(model.heads, hidden, logits)
    with torch.no_grad():
        found = model(ids)
    torch.testing.assert_close(found.temperature.double(), expected.temperature, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.top_p.double(), expected.top_p, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.logits.double().softmax(-1), expected.probabilities, rtol=1e-4, atol=1e-7)
    assert (expected.probabilities == 0).any(), "a nucleus that keeps everything shows nothing"


@pytest.mark.parametrize("name", BASES)
def test_heads_sit_on_any_base(name: str) -> None:
    model = _model(name)
    ids = prompts(3, 9)
    calls: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        plain, own = model.llm(ids).logits, model(ids, regulate=False)
        assert len(calls) == 2, "one pass of the output embedding with heads, as without"
        assert torch.equal(own.logits, plain), "the base's own logits, to the bit"
        last = model(ids, logits_to_keep=2, regulate=False)
    torch.testing.assert_close(last.temperature, own.temperature[:, -2:], rtol=1e-4, atol=0)
    _probabilities_match(model, ids)


@pytest.mark.parametrize("name", BASES)
def test_generate_keeps_every_bases_cache_and_the_padding_right(name: str) -> None:
    """Regulated or not, the likeliest token stays the likeliest: greedy decoding must give what the base gives."""
    model = _model(name)
    ids = prompts(2, 7)
    settings = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        assert torch.equal(model.generate(ids, **settings), model.llm.generate(ids, **settings))
        padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), ids], dim=1)
        given = {"attention_mask": (torch.arange(10) >= 3).long().expand(2, -1)}
        ours = model.generate(padded, **given, **settings)
        theirs = model.llm.generate(padded, **given, **settings)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", CAPPED_OR_SCALED)
def test_heads_on_the_raw_output_of_the_embedding_would_be_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The companion of the test of all bases: the published code takes the logits before cap and scale."""
    model = _model(name)
    decide = model._decide

    def raw(hidden: Tensor, logits: Tensor) -> Decision:
        return decide(hidden, model.get_output_embeddings()(hidden))

    monkeypatch.setattr(model, "_decide", raw)
    with pytest.raises(AssertionError, match="not close"):
        _probabilities_match(model, prompts(3, 9))
