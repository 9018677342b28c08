"""The shipped model: tokenizer, chat template, size, plans, and a difference between cold and hot decoding."""

import json
from itertools import islice
from pathlib import Path
from statistics import fmean

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from local_backend.tiny import weights_path
from local_backend.tiny.corpus import examples
from local_backend.tiny.families import FAMILIES
from local_backend.tiny.sweep import EmbeddedModel
from local_backend.tiny.tokenizer import CHARACTERS, SPECIAL, render
from policies.plan import PLAN_MARKER, Plan


@pytest.fixture(scope="module")
def model() -> EmbeddedModel:
    return EmbeddedModel(weights_path())


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.tokenizer


@given(text=st.text(alphabet=CHARACTERS, max_size=80))
@settings(max_examples=60, deadline=None)
@example(text=' {"a": [1, 2]}\n\t~ ')
def test_known_characters_come_back_exactly(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


@given(text=st.text(max_size=60).filter(lambda text: not any(special in text for special in SPECIAL)))
@settings(max_examples=60, deadline=None)
@example(text="naïve 🙂\x00 日本")
def test_any_text_tokenises_one_token_a_character(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text)
    assert [i == tokenizer.unk_token_id for i in ids] == [character not in CHARACTERS for character in text]


def test_chat_template_renders_conversations(tokenizer):
    turns = [
        {"role": "system", "content": "Be nice."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
        {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|user|>Hi<|assistant|>Yo<|end|><|user|>AB<|assistant|>"
    assert tokenizer.apply_chat_template(turns[:2], tokenize=False) == "<s><|user|>Hi"


def test_the_planning_instruction_is_one_token(tokenizer):
    turns = [{"role": "system", "content": f"{PLAN_MARKER} Answer with JSON."}, {"role": "user", "content": "x"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|plan|><|user|>x<|assistant|>"
    assert render(tokenizer, "x", planning=True) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(render(tokenizer, "x", planning=True)) == 5


def test_the_model_is_small_and_servable():
    assert sum(f.stat().st_size for f in weights_path().iterdir()) <= 8_000_000
    with safe_open(weights_path() / "model.safetensors", "pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        dtypes = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    assert sum(torch.Size(shape).numel() for shape in shapes) <= 3_000_000
    assert dtypes == {"BF16"}
    config = json.loads((weights_path() / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] % 32 == 0
    assert config["max_position_embeddings"] >= 1024
    assert {file.name for file in Path(weights_path()).iterdir()} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_plans_for_held_out_requests_parse_and_name_the_family(model):
    calls = list(islice((e for e in examples(seed=9, split="test") if e.planning), 150))
    answers = model.answers([call.prompt for call in calls], temperature=0, max_tokens=130, planning=True)
    plans = [Plan(**json.loads(answer)) for (answer,) in answers]
    labels = [Plan(**json.loads(call.answer)) for call in calls]
    assert {label.family for label in labels} == {*FAMILIES, "chat"}
    assert fmean(plan.family == label.family for plan, label in zip(plans, labels, strict=True)) >= 0.98
    assert fmean(plan == label for plan, label in zip(plans, labels, strict=True)) >= 0.95


@pytest.mark.parametrize("name", ["extraction", "translation"])
def test_forced_work_wants_cold_decoding(model, name):
    family = FAMILIES[name]
    prompts = family.held_out("test", count=40, seed=1)
    cold, hot = (
        fmean(
            family.score(prompt, samples)
            for prompt, samples in zip(
                prompts, model.answers(prompts, temperature=temperature, max_tokens=80), strict=True
            )
        )
        for temperature in (0.0, 1.5)
    )
    assert cold >= hot + 0.3
