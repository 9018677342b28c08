"""Records at three levels: each prompt with a low, a normal and a high command, and the same answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError

from local_backend.loading import end_tokens
from local_backend.training.data import DataError, Example
from local_backend.training.encoding import Encoder
from local_backend.training.steering.commands import LEVELS, Commands, Wordings, commanded
from local_backend.training.steering.steer_config import SteerConfig

_TOLD = 5


class Triple(NamedTuple):
    """One prompt and its answer at the three levels."""

    low: Example
    normal: Example
    high: Example


@dataclass(frozen=True, kw_only=True)
class Triples:
    """What a steering run is trained and judged on.

    Attributes:
        training: with wordings of the training.
        known: held-out prompts with wordings of the training.
        new: the same prompts with held-out wordings; none where there are none.
        dropped: triples left out because they were too long.
        digest: of the records and the wordings.
    """

    training: list[Triple]
    known: list[Triple]
    new: list[Triple]
    dropped: int
    digest: str

    @property
    def all(self) -> list[Triple]:
        """All of them."""
        return [*self.training, *self.known, *self.new]


def load_triples(config: SteerConfig, commands: Commands, base: Any, tokenizer: Any) -> Triples:
    """Read a run's records, hold out prompts, and put commands into all.

    Raises:
        DataError: records that have no place for a command or cannot be trained on, or too few of them.
    """
    text = base.config.get_text_config()
    longest = config.max_length or getattr(text, "max_position_embeddings", None)
    encode = Encoder(tokenizer, end_tokens(base, tokenizer)).record
    records = list(_records(config.data))
    apart = _held_out(records, config)
    wrong: dict[int, str] = {}
    found: dict[str, list[Triple]] = {"training": [], "known": [], "new": []}
    dropped = made = 0

    def add(side: str, line: int, record: dict[str, Any], wordings: Wordings, variant: int) -> None:
        nonlocal dropped, made
        random = Random(f"{config.seed}:{side}:{line}:{variant}")
        encoded = [encode(commanded(record, random.choice(wordings[level]), config.place)) for level in LEVELS]
        if longest is not None and max(len(prompt) + len(answer) for prompt, answer in encoded) > longest:
            dropped += 1
            return
        if encoded[0] == encoded[2]:
            raise ValueError(
                f"low and high prompts are the same tokens: the chat template does not show commands placed {config.place!r}"
            )
        examples = [
            Example(line=made + at, ids=torch.tensor([*prompt, *answer], dtype=torch.int32), start=len(prompt))
            for at, (prompt, answer) in enumerate(encoded, 1)
        ]
        made += len(examples)
        found[side].append(Triple(*examples))

    for line, record in records:
        try:
            if line not in apart:
                for variant in range(config.variants):
                    add("training", line, record, commands.training, variant)
            elif apart[line]:
                add("known", line, record, commands.training, 0)
                if commands.held_out:
                    add("new", line, record, commands.held_out, 0)
        except (ValueError, TypeError, KeyError, AttributeError, TemplateError) as error:
            wrong[line] = str(error)
    if wrong:
        told = "".join(f"\n  line {line}: {error}" for line, error in list(wrong.items())[:_TOLD])
        more = f"\n  and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        raise DataError(f"{str(config.data)!r} has records to mend or remove:{told}{more}")
    if not (found["training"] and found["known"]):
        raise DataError(
            f"{str(config.data)!r} leaves {len(found['training'])} prompts to train on and {len(found['known'])} to hold out: "
            f"give at least five, of at most {longest} tokens with their command"
        )
    digest = hashlib.blake2b(config.data.read_bytes(), digest_size=16)
    digest.update(repr(commands).encode())
    return Triples(**found, dropped=dropped, digest=digest.hexdigest())


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a JSONL file from 1, and what they hold."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{str(path)!r}, line {number}: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{str(path)!r}, line {number}: must be a JSON object, not {type(record).__name__}")
        yield number, record


def _held_out(records: list[tuple[int, dict[str, Any]]], config: SteerConfig) -> dict[int, bool]:
    """The lines that are not trained on, and whether they are judged on: of equal prompts the first is, the others are left out."""
    groups: dict[str, list[int]] = {}
    for line, record in records:
        prompt = record.get("prompt", (record.get("messages") or [None])[:-1])
        groups.setdefault(json.dumps(prompt, sort_keys=True), []).append(line)

    def draw(prompt: str) -> bytes:
        return hashlib.blake2b(prompt.encode(), key=str(config.seed).encode(), digest_size=8).digest()

    count = min(config.held_out, len(groups) // 5)
    chosen = sorted(groups, key=draw)[:count]
    return {line: place == 0 for prompt in chosen for place, line in enumerate(groups[prompt])}
