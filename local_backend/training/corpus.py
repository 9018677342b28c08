"""The records of one run: read, split into those to train on and those held out, and laid out over steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_backend.config import SetupError
from local_backend.loading import end_tokens
from local_backend.training.config import PUBLISHED_STEPS, TrainConfig
from local_backend.training.data import Example, Records, epoch_order, read_records, split

_LONGEST = 16_384
"""Tokens of the longest record in the paper; for models that do not say how long they were built for."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a run is trained and judged on.

    Attributes:
        training: the examples of every epoch.
        held_out: those of no epoch.
        facts: what of it decides the weights, for the recipe.
        notes: what a person should know of it, a sentence each.
    """

    training: list[Example]
    held_out: list[Example]
    facts: dict[str, Any]
    notes: list[str]

    def steps_per_epoch(self, config: TrainConfig) -> int:
        """Optimiser steps of one pass; the last takes what is left."""
        return math.ceil(len(self.training) / config.batch_size)

    def steps(self, config: TrainConfig) -> int:
        """Optimiser steps of the whole run."""
        per_epoch = self.steps_per_epoch(config)
        return config.steps or per_epoch * (config.epochs or math.ceil(PUBLISHED_STEPS / per_epoch))

    def examples_from(self, step: int, config: TrainConfig) -> Iterator[tuple[int, list[Example]]]:
        """The epoch and the examples of each step from this one on, to the run's end."""
        size, per_epoch = config.batch_size, self.steps_per_epoch(config)
        for epoch in itertools.count(step // per_epoch):
            order = epoch_order(self.training, seed=config.seed, epoch=epoch)
            for place in range(step - epoch * per_epoch, per_epoch):
                if step == self.steps(config):
                    return
                yield epoch, order[place * size : (place + 1) * size]
                step += 1


def load_corpus(config: TrainConfig, base: Any, tokenizer: Any) -> Corpus:
    """Read a run's records.

    Args:
        config: the run.
        base: the model; only its configuration is looked at.
        tokenizer: its tokenizer.

    Raises:
        SetupError: they cannot be read or split.
    """
    text = base.config.get_text_config()
    built_for = getattr(text, "max_position_embeddings", None)
    if config.max_length is not None and built_for is not None and config.max_length > built_for:
        raise SetupError(f"max_length={config.max_length!r} is longer than the model's own {built_for}")
    longest = config.max_length or min(built_for or _LONGEST, _LONGEST)

    def read(path: Path) -> Records:
        return read_records(
            path,
            tokenizer,
            end_ids=end_tokens(base, tokenizer),
            vocabulary=text.vocab_size,
            max_length=longest,
            too_long=config.too_long,
        )

    records = read(config.data)
    apart = read(config.validation) if config.validation is not None else None
    training, held_out = (
        (list(records.examples), list(apart.examples))
        if apart is not None
        else split(records.examples, fraction=config.validation_fraction, seed=config.seed)
    )
    sampled_at = [config.data_temperature] if config.data_temperature is not None else list(records.temperatures)
    facts = {
        "data": records.digest,
        "validation_data": None if apart is None else apart.digest,
        "records": len(training),
        "max_length": longest,
        "data_temperature": sampled_at[0] if len(sampled_at) == 1 else sampled_at or None,
    }
    return Corpus(training=training, held_out=held_out, facts=facts, notes=_notes(training, held_out, records, facts))


def _notes(training: list[Example], held_out: list[Example], records: Records, facts: dict[str, Any]) -> list[str]:
    tokens = sum(each.supervised for each in training)
    notes = [f"{len(training)} records to train on ({tokens} supervised tokens), {len(held_out)} held out"]
    if records.dropped:
        notes.append(f"{records.dropped} records longer than {facts['max_length']} tokens were dropped")
    if records.cut:
        notes.append(f"{records.cut} records were cut to {facts['max_length']} tokens")
    if facts["data_temperature"] is None:
        notes.append(
            "the records do not say at which temperature they were sampled, which decides much of what heads learn: "
            "set the data temperature, or make records with `heads sample`"
        )
    return notes
