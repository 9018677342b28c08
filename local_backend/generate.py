"""The reference decoding loop: token ids in, token ids out, one step of all rows at a time.

It never sees text: stop strings and disconnects reach it through `should_stop`. Rows with the same prompt share
one prefill, rows of different lengths are padded on the left, and finished rows leave the batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from local_backend.samplers import penalise_presence_frequency, penalise_repetition, row_uniforms, sample_tokens


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence to generate: its prompt and its own decoding settings.

    Attributes:
        prompt_ids: the prompt, at least one token.
        max_tokens: most tokens to generate, >= 1; the end token counts.
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        top_k: 0 is off.
        min_p: 0 is off.
        repetition_penalty: 1 is off; counts prompt and text.
        presence_penalty: 0 is off; counts text only.
        frequency_penalty: 0 is off; counts text only.
        seed: the row's random numbers are a function of (seed, position) alone.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("prompt_ids is empty; start the prompt with at least the bos token")
        for name, good, rule in (
            ("max_tokens", self.max_tokens >= 1, ">= 1"),
            ("temperature", 0 <= self.temperature < float("inf"), ">= 0"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("top_k", self.top_k >= 0, ">= 0"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
            ("repetition_penalty", self.repetition_penalty > 0, "> 0"),
        ):
            if not good:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {rule}")

    @property
    def penalised(self) -> bool:
        """Whether any penalty is on."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class _Batch:
    """The live rows as tensors: settings [B], attention mask [B, L], KV cache and, if needed, token counts [B, V]."""

    def __init__(self, model: Any, rows: Sequence[Row]) -> None:
        self.model = model
        self.live = list(range(len(rows)))
        self.cache: Any = None
        self.step = 0
        device = self.device = next(model.parameters()).device

        def column(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor([getattr(row, name) for row in rows], dtype=dtype, device=device)

        self.settings = {
            "temperature": column("temperature"),
            "top_p": column("top_p"),
            "top_k": column("top_k", torch.int64),
            "min_p": column("min_p"),
        }
        # Any Python int is a seed; it is folded into the signed 64-bit range the hash works in.
        folded = [(row.seed + (1 << 63)) % (1 << 64) - (1 << 63) for row in rows]
        self.seeds = torch.tensor(folded, dtype=torch.int64, device=device)
        self.seen: Tensor
        self.counts: Tensor
        self.penalties: dict[str, Tensor] | None = None
        if any(row.penalised for row in rows):
            names = ("repetition_penalty", "presence_penalty", "frequency_penalty")
            self.penalties = {name: column(name) for name in names}

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row]) -> Tensor:
        """Run each distinct prompt once and share its cache among its rows: logits [B, V]."""
        slots: dict[tuple[int, ...], int] = {}
        owner = [slots.setdefault(row.prompt_ids, len(slots)) for row in rows]
        width = max(map(len, slots))
        ids = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in slots], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in slots], device=self.device)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache, self.mask, logits = out.past_key_values, mask, out.logits[:, -1].float()
        if self.penalties is not None:
            self.seen = torch.zeros_like(logits, dtype=torch.bool)
            for prompt, slot in slots.items():
                self.seen[slot, torch.tensor(prompt, device=self.device)] = True
        if owner != list(range(len(slots))):
            take = torch.tensor(owner, device=self.device)
            self.cache.batch_select_indices(take)
            self.mask, logits = self.mask[take], logits[take]
            if self.penalties is not None:
                self.seen = self.seen[take]
        if self.penalties is not None:
            self.counts = torch.zeros_like(logits, dtype=torch.int64)
        return logits

    @torch.inference_mode()
    def draw(self, logits: Tensor) -> Tensor:
        """Sample every row's next token: int64 [B]."""
        if self.penalties is not None:
            logits = penalise_repetition(logits, self.seen, self.penalties["repetition_penalty"])
            logits = penalise_presence_frequency(
                logits, self.counts, self.penalties["presence_penalty"], self.penalties["frequency_penalty"]
            )
        uniforms = row_uniforms(self.seeds, torch.full_like(self.seeds, self.step))
        tokens = sample_tokens(logits, **self.settings, uniforms=uniforms)
        if self.penalties is not None:
            self.seen.scatter_(1, tokens.unsqueeze(1), True)
            self.counts.scatter_add_(1, tokens.unsqueeze(1), torch.ones_like(tokens).unsqueeze(1))
        self.step += 1
        return tokens

    @torch.inference_mode()
    def advance(self, tokens: Tensor) -> Tensor:
        """Feed one token per row: logits [B, V] of the next."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.live), 1)], dim=1)
        out = self.model(
            input_ids=tokens.unsqueeze(1),
            attention_mask=self.mask,
            position_ids=self.mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1].float()

    @torch.inference_mode()
    def keep(self, slots: list[int]) -> None:
        """Drop every row but those in `slots`."""
        take = torch.tensor(slots, dtype=torch.int64, device=self.device)
        self.live = [self.live[slot] for slot in slots]
        self.cache.batch_select_indices(take)
        self.mask, self.seeds = self.mask[take], self.seeds[take]
        self.settings = {name: values[take] for name, values in self.settings.items()}
        if self.penalties is not None:
            self.penalties = {name: values[take] for name, values in self.penalties.items()}
            self.seen, self.counts = self.seen[take], self.counts[take]


def generate(
    model: Any,
    rows: Sequence[Row],
    *,
    eos_ids: frozenset[int],
    should_stop: Callable[[int], bool] | None = None,
) -> Iterator[list[tuple[int, int]]]:
    """Generate all rows together, one step per item.

    Args:
        model: any Hugging Face causal LM in eval mode; its device is used.
        rows: what to generate; rows with equal prompts share one prefill.
        eos_ids: tokens that end a row; the end token is yielded, then the row is gone.
        should_stop: asked with a row's index after each of its tokens was yielded; true ends the row.

    Yields:
        Per step the (row index, token id) pairs of the live rows, in ascending row order.
    """
    if not rows:
        return
    batch = _Batch(model, rows)
    logits = batch.prefill(rows)
    while batch.live:
        tokens = batch.draw(logits)
        step = list(zip(batch.live, tokens.tolist(), strict=True))
        yield step
        slots = [
            slot
            for slot, (row, token) in enumerate(step)
            if token not in eos_ids
            and batch.step < rows[row].max_tokens
            and not (should_stop is not None and should_stop(row))
        ]
        if len(slots) < len(step):
            if not slots:
                return
            batch.keep(slots)
            tokens = tokens[torch.tensor(slots, device=tokens.device)]
        logits = batch.advance(tokens)
