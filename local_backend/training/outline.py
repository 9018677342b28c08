"""What a run will take, said before it is begun: the base is not loaded for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from local_backend.checkpoint.source import locate
from local_backend.config import SetupError
from local_backend.training.config import TrainConfig
from local_backend.training.corpus import load_corpus

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Sizes of a run; memory in bytes, for one process.

    Attributes:
        notes: what a person should know of the data.
        steps: optimiser steps.
        epochs: passes over the data.
        tokens: supervised tokens of the whole run.
        learning_rate: the peak.
        weights: of the base.
        logits: of the largest piece, with everything that is computed from it.
        hidden: hidden states that are kept.
    """

    notes: list[str]
    steps: int
    epochs: float
    tokens: int
    learning_rate: float
    weights: int
    logits: int
    hidden: int

    def sentences(self) -> list[str]:
        """For reading."""
        whole = (self.weights + self.logits + self.hidden) / _GIB
        return [
            *self.notes,
            f"{self.steps} steps, {self.epochs:.2f} epochs, about {self.tokens:,} supervised tokens; "
            f"learning rate {self.learning_rate:g} at its peak",
            f"about {whole:.2f} GiB and the activations of one forward pass: {self.weights / _GIB:.2f} for the base's weights, "
            f"{self.logits / _GIB:.2f} for logits, {self.hidden / _GIB:.2f} for hidden states",
        ]


def outline(config: TrainConfig) -> Outline:
    """Read the data and the model's configuration.

    Raises:
        SetupError: as `train`, as far as it can be known.
    """
    path = locate(config.model, what="model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        described = AutoConfig.from_pretrained(path)
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(described)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot read {config.model!r}: {error}") from error
    corpus = load_corpus(config, base, tokenizer)
    steps = corpus.steps(config)
    epochs = steps / corpus.steps_per_epoch(config)
    hidden_size = base.get_output_embeddings().weight.shape[1]
    on_gpu = config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())
    stored = described.dtype if config.dtype == "auto" and on_gpu else None
    width = (stored or getattr(torch, "float32" if config.dtype == "auto" else config.dtype)).itemsize
    examples = [*corpus.training, *corpus.held_out]
    hidden = sum(each.supervised for each in examples) * hidden_size * width
    return Outline(
        notes=corpus.notes,
        steps=steps,
        epochs=epochs,
        tokens=round(epochs * sum(each.supervised for each in corpus.training)),
        learning_rate=config.rate(hidden_size),
        weights=sum(each.numel() for each in base.parameters()) * width,
        logits=3 * config.chunk_mib * 2**20,
        hidden=hidden if hidden <= config.keep_mib * 2**20 else 0,
    )
