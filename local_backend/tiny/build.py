"""Trains the embedded model from nothing: corpus stream in, Hugging Face folder out.

Muon moves the matrices and AdamW the rest (embeddings, norms): at this size it needs about half the tokens AdamW
alone needs. Batches hold examples of like length. The learning rate follows the share of the budget that is spent,
so the same command fits slow and fast machines; given `steps`, a run is a function of its seed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from local_backend.tiny.corpus import Example, examples
from local_backend.tiny.muon import Muon
from local_backend.tiny.tokenizer import make_tokenizer, render

CONTEXT = 2048
_POOL_BATCHES = 16
_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How to train.

    Attributes:
        minutes: training time on this machine, without the start; ignored when `steps` is given.
        steps: exact number of optimiser steps, for a reproducible run.
        batch: examples a step.
        matrix_rate: peak learning rate of Muon (scaled to AdamW's update size).
        other_rate: peak learning rate of AdamW.
        seed: of weights and corpus.
        bfloat16: autocast; a gain only on processors with bfloat16 units.
        checkpoint_seconds: how often a resumable checkpoint is written.
    """

    minutes: float = 40.0
    steps: int | None = None
    batch: int = 32
    layers: int = 4
    width: int = 192
    matrix_rate: float = 4e-3
    other_rate: float = 4e-3
    seed: int = 0
    bfloat16: bool = False
    checkpoint_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Progress of a run; losses are mean nats per answer token."""

    step: int
    spent: float
    loss: float
    validation: float | None


def make_model(settings: BuildSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama with heads of 32."""
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.width,
            intermediate_size=settings.width * 8 // 3,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.width // 32,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=0.04,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _encode(tokenizer: PreTrainedTokenizerFast, example: Example) -> tuple[list[int], int]:
    """Token ids and where the answer starts."""
    head = render(tokenizer, example.prompt, planning=example.planning)
    answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
    return [*head, *answer, tokenizer.eos_token_id], len(head)


def batches(tokenizer: PreTrainedTokenizerFast, *, size: int, seed: int, validation: bool = False) -> Iterator[Any]:
    """Endless (input_ids, labels), int64 [size, L], padded on the right; labels outside answers are ignored."""
    random = Random(f"batches:{seed}")
    stream = examples(seed=seed, split="validation" if validation else "train")
    while True:
        pool = sorted((_encode(tokenizer, e) for e in islice(stream, size * _POOL_BATCHES)), key=lambda e: len(e[0]))
        groups = [pool[start : start + size] for start in range(0, len(pool), size)]
        random.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            inputs = torch.full((size, length), tokenizer.pad_token_id)
            labels = torch.full((size, length), _IGNORED)
            for row, (ids, start) in enumerate(group):
                inputs[row, : len(ids)] = torch.tensor(ids)
                labels[row, start : len(ids)] = torch.tensor(ids[start:])
            yield inputs, labels


def _loss(model: Any, inputs: Tensor, labels: Tensor, *, bfloat16: bool) -> Tensor:
    # Padding is on the right and the mask causal, so no answer token sees it and no mask is needed.
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        hidden = model.model(input_ids=inputs[:, :-1]).last_hidden_state
        answered = labels[:, 1:] != _IGNORED
        logits = model.lm_head(hidden[answered])
    return torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][answered])


def _optimisers(model: LlamaForCausalLM, settings: BuildSettings) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, lr=settings.matrix_rate),
        torch.optim.AdamW(others, lr=settings.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(spent: float) -> float:
    """Share of the peak learning rate: a short rise, then a cosine down to nothing."""
    return min(1.0, spent / 0.02 + 0.02) * 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))


@torch.no_grad()
def _validate(model: Any, tokenizer: PreTrainedTokenizerFast, settings: BuildSettings) -> float:
    model.eval()
    held_out = islice(batches(tokenizer, size=settings.batch, seed=settings.seed, validation=True), 8)
    losses = [_loss(model, *pair, bfloat16=settings.bfloat16).item() for pair in held_out]
    model.train()
    return sum(losses) / len(losses)


def _save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def build(
    out: Path, settings: BuildSettings, *, resume: bool = False, report: Callable[[Report], None] = lambda _: None
) -> Path:
    """Train and write a Hugging Face folder.

    Args:
        out: folder to write; it also holds the checkpoint while the run lasts.
        settings: how to train.
        resume: continue from `out`'s checkpoint: same weights, optimiser, place in the corpus and time spent.
        report: called about once a second.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: `resume` without a checkpoint.
    """
    tokenizer = make_tokenizer(context=CONTEXT)
    model = make_model(settings, tokenizer)
    optimisers = _optimisers(model, settings)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    step, elapsed = 0, 0.0
    if resume:
        if not checkpoint.exists():
            raise FileNotFoundError(f"no checkpoint at {str(checkpoint)!r}; start without --resume")
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, elapsed = state["step"], state["elapsed"]
    peaks = [settings.matrix_rate, settings.other_rate]
    stream = islice(batches(tokenizer, size=settings.batch, seed=settings.seed), step, None)
    model.train()
    last = reported = saved_at = checked = time.monotonic()
    while True:
        spent = step / settings.steps if settings.steps else elapsed / (settings.minutes * 60)
        if spent >= 1:
            break
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * _rate(spent)
        loss = _loss(model, *next(stream), bfloat16=settings.bfloat16)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        step += 1
        now = time.monotonic()
        elapsed, last = elapsed + now - last, now
        if now - reported > 1:
            validation = None
            if now - checked > 60:
                validation, checked = _validate(model, tokenizer, settings), now
            report(Report(step=step, spent=spent, loss=loss.item(), validation=validation))
            reported = now
        if now - saved_at > settings.checkpoint_seconds:
            moments = [optimiser.state_dict() for optimiser in optimisers]
            _save_checkpoint(
                checkpoint,
                {"model": model.state_dict(), "optimisers": moments, "step": step, "elapsed": elapsed},
            )
            saved_at = now
    report(Report(step=step, spent=1.0, loss=loss.item(), validation=_validate(model, tokenizer, settings)))
    _export(model, tokenizer, out)
    checkpoint.unlink(missing_ok=True)
    return out


def _export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    model.to(torch.bfloat16).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
