"""Small random models and records for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from local_backend.tiny.families import FAMILIES

HIDDEN, WORDS = 16, 29


def random_model(*, seed: int = 0, vocabulary: int = WORDS, hidden: int = HIDDEN) -> LlamaForCausalLM:
    """Two layers of random weights, large enough that distributions are far from flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=8192,
            initializer_range=0.5,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        return LlamaForCausalLM(config).eval()


def write_lines(path: Path, records: Iterable[Mapping[str, Any] | str]) -> Path:
    """A JSONL file; texts are written as they are."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def id_records(path: Path, *, count: int = 24, seed: int = 0, longest: int = 12, vocabulary: int = WORDS) -> Path:
    """Random records in the published layout of token ids."""
    random = Random(seed)

    def ids(most: int) -> list[int]:
        return [random.randrange(3, vocabulary) for _ in range(random.randint(1, most))]

    return write_lines(path, ({"inputs": {"p_ids": ids(6), "r_ids": [*ids(longest), 2]}} for _ in range(count)))


def family_records(path: Path, *, count: int) -> Path:
    """Worked answers of the embedded model's families, as conversations."""
    random = Random(0)
    records = []
    for family in FAMILIES.values():
        prompts = family.prompts("train", seed=1)
        for _ in range(count):
            prompt = next(prompts)
            turns = [("user", prompt), ("assistant", family.solve(prompt, random, True))]
            records.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    return write_lines(path, records)
