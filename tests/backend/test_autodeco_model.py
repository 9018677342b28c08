"""The wrapped model's forward pass: what it returns, refuses, contains and leaves alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaForCausalLM

from local_backend.heads import Decision, Heads, HeadsConfig
from local_backend.model import AutoDecoModelForCausalLM
from local_backend.regulate import regulated
from tests.backend.autodeco_reference import caught, make_base, make_heads, make_model, prompts, reference


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_keeps_float32_heads(dtype: torch.dtype) -> None:
    base = make_base().to(dtype)
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base)).to(dtype)
    ids = prompts(2, 5)
    hidden, logits, _ = caught(base, input_ids=ids)
    expected = reference(model.heads, hidden, logits)
    with torch.no_grad():
        out = model(ids)
    assert out.logits.dtype == out.temperature.dtype == torch.float32
    assert model.llm.dtype == logits.dtype == dtype
    torch.testing.assert_close(out.temperature.double(), expected.temperature, rtol=1e-5, atol=0)
    torch.testing.assert_close(out.logits.double().softmax(-1), expected.probabilities, rtol=1e-3, atol=1e-6)


def test_requests_multiply_row_by_row() -> None:
    model, ids = make_model(), prompts(4, 5)
    hidden, logits, _ = caught(model.llm, input_ids=ids)
    heat, mass = [1.0, 0.5, 1.7, 0.0], [1.0, 0.4, 9.0, 0.8]
    with torch.no_grad():
        out = model(ids, request_temperature=torch.tensor(heat), request_top_p=torch.tensor(mass))
    for row in range(3):
        expected = reference(model.heads, hidden[row], logits[row], heat=heat[row], mass=mass[row])
        torch.testing.assert_close(out.temperature[row].double(), expected.temperature, rtol=1e-5, atol=0)
        torch.testing.assert_close(out.top_p[row].double(), expected.top_p, rtol=1e-4, atol=0)
        torch.testing.assert_close(out.logits[row].double().softmax(-1), expected.probabilities, rtol=1e-4, atol=1e-7)
    assert out.temperature[3].tolist() == [0.0] * 5
    assert torch.equal(out.logits[3].softmax(-1), torch.nn.functional.one_hot(logits[3].argmax(-1), 61).float())
    alone = model(ids[1:2], request_temperature=0.5, request_top_p=0.4)
    torch.testing.assert_close(alone.logits[0], out.logits[1])
    with pytest.raises(ValueError, match=r"request_top_p of shape \(2,\) for a batch of 4"):
        model(ids, request_top_p=torch.ones(2))


def test_positions_that_are_kept_are_those_that_are_decided_for() -> None:
    model, ids = make_model(), prompts(2, 6)
    with torch.no_grad():
        everything = model(ids)
        for kept, positions in ((1, [5]), (3, [3, 4, 5]), (torch.tensor([0, 4]), [0, 4])):
            some = model(ids, logits_to_keep=kept)
            torch.testing.assert_close(some.logits, everything.logits[:, positions])
            torch.testing.assert_close(some.top_p, everything.top_p[:, positions])


def test_padding_on_the_left_and_a_cache_change_nothing() -> None:
    model, ids = make_model(), prompts(1, 6)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), ids], dim=1)
    mask = (torch.arange(10) >= 4).long().unsqueeze(0)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = model(ids)
        beside = model(padded, attention_mask=mask, position_ids=positions)
        torch.testing.assert_close(beside.temperature[:, 4:], whole.temperature)
        start = model(ids[:, :4], use_cache=True)
        rest = model(ids[:, 4:], past_key_values=start.past_key_values)
        torch.testing.assert_close(rest.logits, whole.logits[:, 4:])


def test_neutral_heads_and_plain_leave_the_logits_to_the_bit() -> None:
    base, ids = make_base(), prompts(3, 6)
    neutral = AutoDecoModelForCausalLM.attach(base, Heads.neutral(HeadsConfig(hidden_size=32)))
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base))
    with torch.no_grad():
        own = base(ids).logits
        assert torch.equal(neutral(ids).logits, own)
        with model.plain():
            assert torch.equal(model(ids).logits, own)
            cold = model(ids, request_temperature=0.5, request_top_p=0.9)
        expected = neutral(ids, request_temperature=0.5, request_top_p=0.9)
        assert torch.equal(cold.logits, expected.logits)
        assert (cold.temperature == 0.5).all()
        assert not torch.equal(model(ids).logits, own)


def _check_that_a_ruined_row_ruins_no_other() -> None:
    base, ids = make_base(), prompts(3, 4)
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base))
    with torch.no_grad():
        before = model(ids)
        model.llm.model.embed_tokens.weight[2] = torch.nan  # attention hands it to its whole row
        broken = ids.clone()
        broken[1, -1] = 2
        out = model(broken)
    assert model.contained == 4
    assert out.temperature[1].tolist() == out.top_p[1].tolist() == [1.0] * 4
    for row in (0, 2):
        assert torch.equal(out.logits[row], before.logits[row])


def test_a_decision_that_is_no_number_is_contained_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    _check_that_a_ruined_row_ruins_no_other()
    monkeypatch.setattr("local_backend.model.contain", lambda decision: (decision, torch.zeros((), dtype=torch.int64)))
    with pytest.raises(AssertionError):
        _check_that_a_ruined_row_ruins_no_other()


def test_heads_that_are_no_numbers_decode_as_the_base_does() -> None:
    base, ids = make_base(), prompts(2, 4)
    model = AutoDecoModelForCausalLM.attach(base, make_heads(base))
    assert model.temp_head is not None
    with torch.no_grad():
        model.temp_head.mlp[2].bias.fill_(torch.nan)
        out = model(ids)
        assert torch.equal(out.logits, base(ids).logits)
    assert model.contained == 8


def test_a_temperature_of_zero_leaves_exactly_one_token_even_in_a_tie() -> None:
    logits = torch.tensor([[1.0, 7.0, 7.0, 2.0], [-3e38, 3e4, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    out = regulated(logits, _decision([0.0, 1e-30, 0.0], [1.0, 1.0, 0.0]))
    assert out.isfinite().sum(dim=-1).tolist() == [1, 1, 1]
    assert out.softmax(-1).argmax(-1).tolist() == [1, 1, 0]


class _Allocated(TorchDispatchMode):
    """The largest piece of memory that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


def _largest_piece(rows: int) -> int:
    random = torch.Generator().manual_seed(0)
    hidden, logits = torch.randn(rows, 32, generator=random), torch.randn(rows, 4099, generator=random)
    heads = Heads(HeadsConfig(hidden_size=32))
    with torch.no_grad(), _Allocated() as allocated:
        regulated(logits, heads(hidden, logits))
    return allocated.largest


def test_memory_does_not_grow_with_the_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the logits there is a block of them at most, in float64 for the nucleus, and what is small."""
    assert _largest_piece(2000) <= 8 * 2**18 + 1
    monkeypatch.setattr("local_backend.blocks._CPU_BLOCK", 1 << 40)
    assert _largest_piece(2000) > 8 * 2**18, "without blocks it would have been noticed"


def test_regulated_a_block_at_a_time_every_row_is_what_it_is_alone() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 4099, generator=random) * 4
    decision = _decision(torch.linspace(0.1, 1.9, 300).tolist(), torch.linspace(0.05, 0.99, 300).tolist())
    with torch.no_grad():
        alone = torch.cat(
            [
                regulated(logits[at : at + 1].clone(), _decision([t.item()], [p.item()]))
                for at, (t, p) in enumerate(zip(*decision, strict=True))
            ]
        )
        found = regulated(logits, decision)
    assert found.data_ptr() == logits.data_ptr(), "overwritten where nothing else needs them"
    assert torch.equal(found, alone)


def test_gradients_reach_the_heads_through_regulated_logits() -> None:
    model, ids = make_model(), prompts(2, 4)
    model.llm.requires_grad_(False)
    model(ids).logits.softmax(-1)[..., 5].sum().backward()
    assert model.temp_head is not None
    assert all(parameter.grad is not None for parameter in model.temp_head.parameters())


def test_a_copy_stands_on_its_own_and_a_replaced_embedding_is_watched() -> None:
    model, ids = make_model(), prompts(1, 4)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.llm.lm_head.weight.zero_()
        assert not torch.equal(twin(ids).temperature, torch.zeros(1, 4))
        assert model(ids).logits.isfinite().any()
        model.resize_token_embeddings(70, mean_resizing=False)
        assert model(ids).logits.shape == (1, 4, 70)
    assert model.config.vocab_size == 70
    model.llm.lm_head = torch.nn.Linear(32, 70)
    with pytest.raises(RuntimeError, match=r"0 times in one pass.*set_output_embeddings"):
        model(ids)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_saved_model_loads_by_its_folder_alone(tmp_path: Path, model_type: str) -> None:
    tied = {"tie_word_embeddings": True} if model_type == "llama" else {"n_embd": 32, "n_layer": 2, "n_head": 4}
    model, ids = make_model(model_type, **tied), prompts(2, 5)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, AutoDecoModelForCausalLM)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert (again.generation_config.top_k, again.generation_config.do_sample) == (0, True)
    loaded, saved = again.config.base_config.to_diff_dict(), model.config.base_config.to_diff_dict()
    assert {**saved, "dtype": "float32"} == loaded


def test_what_does_not_work_is_said_clearly() -> None:
    model, ids = make_model(), prompts(1, 3)
    with pytest.raises(ValueError, match="use local_backend"):
        model(ids, labels=ids)
    with pytest.raises(ValueError, match="hidden size of 48, but LlamaForCausalLM hands 32"):
        AutoDecoModelForCausalLM.attach(make_base(), Heads(HeadsConfig(hidden_size=48)))
    bert = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    with pytest.raises(ValueError, match="BertModel has no output embedding"):
        AutoDecoModelForCausalLM.attach(bert, Heads(HeadsConfig(hidden_size=32)))


def test_heads_go_where_the_logits_of_a_device_map_are(tmp_path: Path) -> None:
    """Layers and the output embedding on the disk: what accelerate's hooks bring in is where the heads compute."""
    whole, ids = make_model(), prompts(2, 5)
    base = make_base()
    places = {name: "cpu" for name, _ in base.model.named_children() if name != "layers"}
    layers = {"layers.0": "cpu", "layers.1": "disk"}
    device_map = {**{f"model.{name}": place for name, place in (places | layers).items()}, "lm_head": "disk"}
    base = dispatch_model(base, device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    assert base.lm_head.weight.device.type == "meta"
    model = AutoDecoModelForCausalLM.attach(base, whole.heads)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, whole(ids).logits)
    assert model.generate(ids, max_new_tokens=3).shape == (2, 8)


class _Twice(LlamaForCausalLM):
    """Calls its output embedding twice a pass."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        super().forward(*args, **kwargs)
        return super().forward(*args, **kwargs)


def test_a_base_that_does_not_call_its_embedding_once_is_refused() -> None:
    base = _Twice(make_base().config)
    with pytest.raises(ValueError, match="2 times for one token, not once"):
        AutoDecoModelForCausalLM.attach(base, Heads(HeadsConfig(hidden_size=32)))


def test_attaching_changes_neither_weights_nor_mode_nor_random_numbers() -> None:
    base = make_base(attention_dropout=0.5).train()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    heads = make_heads(base)
    state = torch.get_rng_state()
    model = AutoDecoModelForCausalLM.attach(base, heads)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert base.training
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
    assert list(model.state_dict()) == [
        *(f"llm.{name}" for name in before),
        *(f"temp_head.{name}" for name in heads.temp_head.state_dict()),
        *(f"top_p_head.{name}" for name in heads.top_p_head.state_dict()),
    ]


def _decision(temperature: list[float], top_p: list[float]) -> Decision:
    return Decision(torch.tensor(temperature), torch.tensor(top_p))
