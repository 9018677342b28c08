"""Training records: JSON lines to token ids, and token ids to batches of supervised positions.

A line is one of
    {"prompt": "...", "completion": "..."}                         text as the model sees it, chat template already applied
    {"prompt": [messages], "completion": [messages]}               a conversation, templated here
    {"messages": [..., {"role": "assistant", "content": "..."}]}   the same; the last assistant turn is the completion
    {"inputs": {"p_ids": [...], "r_ids": [...]}}                   token ids, as `heads sample` writes and AutoDeco publishes
The completion alone is supervised, up to and with its end token, and prompt and completion are encoded apart, as when generating.
Which batch an example falls in, and its random numbers, are functions of (seed, epoch, line, position) and of nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from torch import Tensor

from local_backend.config import SetupError
from local_backend.sampling import row_uniforms
from local_backend.training.encoding import Encoder

TooLong = Literal["drop", "cut"]
Side = Literal["right", "left"]
_TOLD = 5


class DataError(SetupError):
    """Records that cannot be trained on; the message names their lines."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One record.

    Attributes:
        line: its line in the file, from 1: its identity in every random draw.
        ids: int32 [L], prompt and completion.
        start: where the completion starts, at least 1.
    """

    line: int
    ids: Tensor
    start: int

    @property
    def prompt(self) -> bytes:
        """The prompt's identity: samples of one prompt stay on one side of a split."""
        return bytes(self.ids[: self.start].numpy().tobytes())

    @property
    def supervised(self) -> int:
        """Completion tokens."""
        return len(self.ids) - self.start


@dataclass(frozen=True, kw_only=True)
class Records:
    """A file's examples, and what was done to it.

    Attributes:
        examples: in the file's order.
        dropped: records left out because they were too long.
        cut: records whose completion lost its tail.
        digest: of the file's bytes.
        temperatures: the temperatures its completions were sampled at, where the records say so.
    """

    examples: tuple[Example, ...]
    dropped: int
    cut: int
    digest: str
    temperatures: tuple[float, ...]


def read_records(
    path: Path,
    tokenizer: Any,
    *,
    end_ids: frozenset[int],
    vocabulary: int,
    max_length: int,
    too_long: TooLong = "drop",
) -> Records:
    """Read and encode a JSONL file.

    Args:
        path: the file.
        tokenizer: the base model's.
        end_ids: tokens that end an answer; a text completion without one gets the tokenizer's.
        vocabulary: ids at or above it are refused.
        max_length: most tokens of prompt and completion together.
        too_long: drop longer records, or cut the tail of their completion. A prompt that fills it all is dropped either way.

    Raises:
        DataError: lines that are no such record, empty completions, foreign token ids, or nothing left.
    """
    encoder = Encoder(tokenizer, end_ids)
    examples: list[Example] = []
    wrong: list[str] = []
    temperatures: set[float] = set()
    dropped = cut = 0
    digest = hashlib.blake2b(digest_size=16)
    with _open(path) as lines:
        for number, raw in enumerate(lines, 1):
            digest.update(raw)
            if not raw.strip():
                continue
            try:
                record = json.loads(raw)
                prompt, completion = encoder.record(record)
                if min(*prompt, *completion) < 0 or max(*prompt, *completion) >= vocabulary:
                    raise ValueError(f"a token id is outside the model's vocabulary of {vocabulary}")
            except (ValueError, TypeError, KeyError, TemplateError) as error:
                wrong.append(f"line {number}: {error}")
                continue
            if (heat := _sampled_at(record)) is not None:
                temperatures.add(heat)
            excess = len(prompt) + len(completion) - max_length
            if excess > 0 and (too_long == "drop" or excess >= len(completion)):
                dropped += 1
                continue
            if excess > 0:
                cut += 1
                completion = completion[:-excess]
            ids = torch.tensor([*prompt, *completion], dtype=torch.int32)
            examples.append(Example(line=number, ids=ids, start=len(prompt)))
    if wrong:
        more = f"\n  and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        raise DataError(f"{str(path)!r} has records to mend or remove:\n  " + "\n  ".join(wrong[:_TOLD]) + more)
    if not examples:
        raise DataError(
            f"{str(path)!r} leaves nothing to train on: {dropped} records are longer than {max_length} tokens"
        )
    return Records(
        examples=tuple(examples),
        dropped=dropped,
        cut=cut,
        digest=digest.hexdigest(),
        temperatures=tuple(sorted(temperatures)),
    )


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _sampled_at(record: Mapping[str, Any]) -> float | None:
    sampling = record.get("sampling")
    heat = sampling.get("temperature") if isinstance(sampling, dict) else None
    return float(heat) if isinstance(heat, (int, float)) else None


def seed_of(*parts: object) -> int:
    """A signed 64-bit seed made of anything that prints the same every time."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def epoch_order(examples: Sequence[Example], *, seed: int, epoch: int) -> list[Example]:
    """The examples in the order of one epoch."""
    return sorted(examples, key=lambda each: seed_of(seed, epoch, each.line))


def split(examples: Sequence[Example], *, fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples; whole prompts are held out, at least one where anything is.

    Raises:
        DataError: a share is to be held out, and all examples have the same prompt.
    """
    if fraction == 0:
        return list(examples), []
    groups: dict[bytes, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.prompt, []).append(example)
    if len(groups) < 2:
        raise DataError(
            "all records have the same prompt, so none can be held out: give a validation file, or hold out 0"
        )

    def draw(prompt: bytes) -> bytes:
        return hashlib.blake2b(prompt, key=str(seed).encode(), digest_size=8).digest()

    held_out: list[Example] = []
    training: list[Example] = []
    for number, prompt in enumerate(sorted(groups, key=draw)):
        room = len(held_out) < fraction * len(examples) and number < len(groups) - 1
        (held_out if room else training).extend(groups[prompt])
    return training, held_out


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some examples, padded, and their N supervised positions, example by example.

    Attributes:
        input_ids: int64 [B, L].
        attention_mask: int64 [B, L].
        position_ids: int64 [B, L], 0 at the first token of each prompt.
        row: int64 [N], the position's example.
        column: int64 [N], where in `input_ids` the token stands whose hidden state predicts it.
        labels: int64 [N].
        uniforms: float32 [N], its random number.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    row: Tensor
    column: Tensor
    labels: Tensor
    uniforms: Tensor

    @property
    def size(self) -> int:
        """B."""
        return len(self.input_ids)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def collate(examples: Sequence[Example], *, seed: int, epoch: int, side: Side = "right") -> Batch:
    """Pad examples on one side; the padding is masked, and what is computed of the rest does not depend on the side."""
    width = max(len(each.ids) for each in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    rows, columns, labels, uniforms = [], [], [], []
    for row, each in enumerate(examples):
        first = 0 if side == "right" else width - len(each.ids)
        ids[row, first : first + len(each.ids)] = each.ids
        mask[row, first : first + len(each.ids)] = 1
        places = torch.arange(each.supervised)
        rows.append(torch.full_like(places, row))
        # The hidden state of the token before predicts a token.
        columns.append(first + each.start - 1 + places)
        labels.append(each.ids[each.start :].long())
        uniforms.append(row_uniforms(torch.full_like(places, seed_of(seed, epoch, each.line)), places))
    return Batch(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        row=torch.cat(rows),
        column=torch.cat(columns),
        labels=torch.cat(labels),
        uniforms=torch.cat(uniforms),
    )


def micro_batches(examples: Sequence[Example], *, tokens: int) -> Iterator[tuple[Example, ...]]:
    """Groups of like length of at most `tokens` padded tokens, or of one example."""
    group: list[Example] = []
    for each in sorted(examples, key=lambda example: (len(example.ids), example.line)):
        # Ascending lengths: the newest is the longest, so it sets the padded width.
        if group and len(each.ids) * (len(group) + 1) > tokens:
            yield tuple(group)
            group = []
        group.append(each)
    if group:
        yield tuple(group)
