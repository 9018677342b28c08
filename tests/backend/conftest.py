"""The small model, served once for all tests of a session, and as a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.backend.small_server import Served, make_model, make_tokenizer, serving


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The server most tests share."""
    with serving() as one:
        yield one


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    gated = make_model(tokenizer)
    plain = LlamaForCausalLM(gated.config)
    plain.load_state_dict(gated.state_dict())
    plain.save_pretrained(folder)
    return folder
