"""A batch's gradient in pieces is that of the whole, and its memory is that of a piece."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from local_backend.heads import Heads, HeadsConfig
from local_backend.training.data import Batch, Example, Side, collate
from local_backend.training.gradients import add_gradients, chunk_positions
from local_backend.training.hidden import HiddenStates
from local_backend.training.losses import LossConfig, position_losses
from local_backend.training.readout import Readout
from tests.backend.training.training_parts import HIDDEN, WORDS, random_model


def _examples(lengths: list[tuple[int, int]]) -> list[Example]:
    random = torch.Generator().manual_seed(1)
    return [
        Example(line=line, ids=torch.randint(3, WORDS, (prompt + answer,), generator=random).int(), start=prompt)
        for line, (prompt, answer) in enumerate(lengths, 1)
    ]


def _heads(*, temperature: bool = True, top_p: bool = True) -> Heads:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Heads(HeadsConfig(hidden_size=HIDDEN, temperature=temperature, top_p=top_p))


def _gradient(heads: Heads) -> Tensor:
    return torch.cat([torch.zeros(1), *(p.grad.flatten() for p in heads.parameters() if p.grad is not None)])


def _ours(heads: Heads, config: LossConfig, examples: list[Example], *, chunk: int, side: Side = "right") -> Tensor:
    readout = Readout(random_model())
    heads.zero_grad()
    batch = collate(examples, seed=5, epoch=2, side=side)
    hidden = readout.hidden(batch.input_ids, batch.attention_mask, batch.position_ids)[batch.row, batch.column]
    add_gradients(heads, readout, hidden, batch, config, chunk=chunk, share=1 / len(examples))
    return _gradient(heads)


def _whole(heads: Heads, config: LossConfig, examples: list[Example]) -> Tensor:
    """Every sequence alone through the model's own forward pass, its mean losses, and one backward pass."""
    heads.zero_grad()
    model = random_model()
    for example in examples:
        batch: Batch = collate([example], seed=5, epoch=2)
        out = model(input_ids=batch.input_ids, output_hidden_states=True)
        logits, hidden = out.logits[0, batch.column].detach(), out.hidden_states[-1][0, batch.column].detach()
        found = position_losses(config, logits, batch.labels, *heads(hidden, logits), batch.uniforms)
        means = [
            term.values[term.counted].mean()
            for name, term in found.items()
            if term.counted.any() and not (name == "top_p" and heads.top_p_head is None)
        ]
        if means:
            (sum(means) / len(examples)).backward()
    return _gradient(heads)


LENGTHS = [(3, 9), (1, 4), (5, 1), (2, 13)]


@pytest.mark.parametrize("form", ["two_losses", "joint", "megatron"])
@pytest.mark.parametrize("chunk", [8, 17, 1000])
def test_in_pieces_as_whole(form: str, chunk: int) -> None:
    config = LossConfig(form=form)  # type: ignore[arg-type] # parametrised
    heads, examples = _heads(), _examples(LENGTHS)
    torch.testing.assert_close(
        _ours(heads, config, examples, chunk=chunk), _whole(heads, config, examples), rtol=1e-4, atol=1e-7
    )


def test_one_head_alone_is_trained_on_its_own_loss() -> None:
    heads, examples = _heads(top_p=False), _examples(LENGTHS)
    found = _ours(heads, LossConfig(), examples, chunk=16)
    torch.testing.assert_close(found, _whole(heads, LossConfig(), examples), rtol=1e-4, atol=1e-7)


def test_the_side_of_the_padding_changes_nothing() -> None:
    heads, examples = _heads(), _examples(LENGTHS)
    right = _ours(heads, LossConfig(), examples, chunk=16)
    torch.testing.assert_close(_ours(heads, LossConfig(), examples, chunk=16, side="left"), right, rtol=1e-4, atol=1e-7)


def test_a_sequence_of_dropped_easy_tokens_adds_nothing_and_no_nan() -> None:
    model = random_model()
    ids = torch.tensor([[5, 6]])
    easy = int(model(input_ids=ids).logits[0, -1].argmax())
    example = Example(line=1, ids=torch.tensor([5, 6, easy], dtype=torch.int32), start=2)
    heads = _heads(top_p=False)
    config = LossConfig(easy_token_drop=0.999999)
    assert float(collate([example], seed=5, epoch=2).uniforms) < 0.999999
    assert _ours(heads, config, [example], chunk=16).abs().sum() == 0
    assert _ours(heads, LossConfig(easy_token_drop=0), [example], chunk=16).abs().sum() > 0


def test_kept_hidden_states_are_those_of_the_forward_pass() -> None:
    readout, examples = Readout(random_model()), _examples(LENGTHS)
    fresh = HiddenStates(readout, micro_batch_tokens=64).of(examples)
    states = HiddenStates(readout, micro_batch_tokens=8)
    assert not states.keep(examples, mib=0)
    assert states.keep(examples, mib=1)
    torch.testing.assert_close(states.of(examples), fresh, rtol=1e-5, atol=1e-6)
    batch = collate(examples, seed=0, epoch=0)
    assert len(fresh) == len(batch.labels) == sum(each.supervised for each in examples)


MEMORY = """
import re, sys, torch
from pathlib import Path
from local_backend.heads import Heads, HeadsConfig
from local_backend.training.data import Example, collate
from local_backend.training.gradients import add_gradients, chunk_positions
from local_backend.training.losses import LossConfig
from local_backend.training.readout import Readout
from tests.backend.training.training_parts import random_model

torch.set_num_threads(1)
mib, tokens = int(sys.argv[1]), int(sys.argv[2])
model = random_model(vocabulary=32_000, hidden=64)
readout, heads = Readout(model), Heads(HeadsConfig(hidden_size=64))

def step(length):
    example = Example(line=1, ids=torch.arange(length, dtype=torch.int32) % 999, start=1)
    batch = collate([example], seed=0, epoch=0)
    hidden = readout.hidden(batch.input_ids, batch.attention_mask, batch.position_ids)[batch.row, batch.column]
    add_gradients(heads, readout, hidden, batch, LossConfig(), chunk=chunk_positions(32_000, mib), share=1.0)

def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

step(8)
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
before = memory("VmRSS")
step(tokens)
print((memory("VmHWM") - before) / 1024)
"""
"""Prints the peak memory in MiB that a step adds to a process with the model in it."""
CHUNK_MIB = 64


def _peak(mib: int, tokens: int) -> float:
    command = [sys.executable, "-W", "error", "-c", MEMORY, str(mib), str(tokens)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)


reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")


@reads_proc
def test_memory_at_4k_tokens_and_32k_words_is_below_three_times_one_chunk() -> None:
    assert chunk_positions(32_000, CHUNK_MIB) < 4096 / 7
    assert _peak(CHUNK_MIB, 4096) < 3 * CHUNK_MIB


@reads_proc
def test_the_memory_test_notices_a_step_in_one_piece() -> None:
    assert chunk_positions(32_000, 3 * CHUNK_MIB) > 1500
    assert _peak(3 * CHUNK_MIB, 1500) > 3 * CHUNK_MIB
