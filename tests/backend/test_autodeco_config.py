"""The configuration: the published config.json, and the base's fields as if they were its own."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig, Qwen2Config

from local_backend.autodeco_config import AutoDecoConfig
from local_backend.heads import HeadsConfig
from local_backend.model import AutoDecoModelForCausalLM

# As released: the base's fields flat, and the heads' beside them.
PUBLISHED: dict[str, Any] = {
    "architectures": ["AutoDecoModelForCausalLM"],
    "model_type": "autodeco",
    "base_model_type": "qwen2",
    "base_model_name_or_path": "/home/someone/R1-Distill-Qwen-7B",
    "enable_temperature_head": True,
    "enable_top_p_head": True,
    "use_enhanced_features": True,
    "temperature_hidden_size": 256,
    "top_p_hidden_size": 256,
    "hidden_size": 3584,
    "vocab_size": 152064,
    "num_hidden_layers": 28,
    "torch_dtype": "bfloat16",
}


def test_a_published_config_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, AutoDecoConfig)
    assert isinstance(config.base_config, Qwen2Config)
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (3584, 152064, 28)
    assert config.heads_config(3584) == HeadsConfig(hidden_size=3584)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["dtype"] == "bfloat16"
    assert {name: written[name] for name in PUBLISHED if name != "torch_dtype"} == {
        name: value for name, value in PUBLISHED.items() if name != "torch_dtype"
    }
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_the_oldest_names_of_the_switches_are_known() -> None:
    config = AutoDecoConfig(base_model_type="llama", train_temp=True, train_top_p=False, use_enhanced_features=False)
    assert config.heads_config(64) == HeadsConfig(hidden_size=64, top_p=False, statistics=False)


def test_whatever_is_not_about_heads_is_the_bases() -> None:
    base = LlamaConfig(vocab_size=100, num_hidden_layers=3)
    config = AutoDecoConfig.of(base, HeadsConfig(hidden_size=8))
    assert config.num_hidden_layers == 3
    config.num_hidden_layers = 5
    assert base.num_hidden_layers == 5
    assert config.get_text_config() is base
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin.base_config is not base
        assert twin.to_dict() == config.to_dict()
    with pytest.raises(AttributeError, match="no_such_field"):
        _ = config.no_such_field


def test_a_config_without_a_base_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="names no base: give base_config or base_model_type"):
        AutoDecoConfig(hidden_size=4)
    with pytest.raises(ValueError, match="no_such_model"):
        AutoDecoConfig(base_model_type="no_such_model")


def test_a_model_of_a_config_alone_is_a_new_one() -> None:
    small = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = AutoDecoConfig(base_model_type="llama", num_attention_heads=2, top_p_hidden_size=32, **small)
    model = AutoDecoModelForCausalLM(config)
    assert model.heads.config == HeadsConfig(hidden_size=16, top_p_width=32)
    assert model.config.base_config is model.llm.config
