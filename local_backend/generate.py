"""The reference decoding loop: token ids in, token ids out, one step of all rows at a time.

It never sees text: stop strings and disconnects reach it through `should_stop`. Rows with the same prompt share
one prefill, rows of different lengths are padded on the left, and finished rows leave the batch at once. Where a model has
heads, they decide temperature and top-p of every token, for the rows that want it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from local_backend.heads import Decision
from local_backend.model import AutoDecoModelForCausalLM
from local_backend.sampling import (
    decoding_logits,
    draw,
    entropy,
    penalise_presence_frequency,
    penalise_repetition,
    row_uniforms,
    sample_tokens,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence to generate: its prompt and its own decoding settings.

    Attributes:
        prompt_ids: the prompt, at least one token.
        max_tokens: most tokens to generate, >= 1; the end token counts.
        temperature: 0 is greedy; multiplies what heads decide.
        top_p: nucleus mass in (0, 1]; multiplies what heads decide.
        heads: the model's heads decide, if it has any.
        temperature_bounds: closed; what the product is clamped to. Greedy stays greedy.
        top_p_bounds: closed; likewise.
        trace: measure entropy and probability of every token.
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
    heads: bool = True
    temperature_bounds: tuple[float, float] = (0.0, float("inf"))
    top_p_bounds: tuple[float, float] = (0.0, 1.0)
    trace: bool = False
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
            ("temperature_bounds", _ordered(self.temperature_bounds, float("inf")), "(low, high), 0 <= low <= high"),
            ("top_p_bounds", _ordered(self.top_p_bounds, 1), "(low, high), 0 <= low <= high <= 1"),
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


def _ordered(bounds: tuple[float, float], most: float) -> bool:
    return 0 <= bounds[0] <= bounds[1] <= most


class Token(NamedTuple):
    """One token of one row, and how it was drawn.

    Attributes:
        row: index of its row.
        id: the token.
        temperature: it was drawn with; 0 is greedy.
        top_p: nucleus mass it was drawn with.
        entropy: of the model's own distribution in nats, before penalties, temperature and truncation; if it is traced.
        probability: of the token in the distribution it was drawn from; if it is traced.
    """

    row: int
    id: int
    temperature: float
    top_p: float
    entropy: float | None = None
    probability: float | None = None


class _Output(NamedTuple):
    """What the model says of each row's next token: logits float32 [B, V], and what its heads decide, [B]."""

    logits: Tensor
    decision: Decision | None


class _Batch:
    """The live rows as tensors: settings [B], attention mask [B, L], KV cache and, if needed, token counts [B, V]."""

    def __init__(self, model: Any, rows: Sequence[Row]) -> None:
        self.decides = has_heads(model) and any(row.heads for row in rows)
        # Heads that nobody listens to are not run.
        self.model = model.llm if has_heads(model) and not self.decides else model
        self.traced = any(row.trace for row in rows)
        self.live = list(range(len(rows)))
        self.cache: Any = None
        self.step = 0
        device = self.device = next(model.parameters()).device

        def column(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor([getattr(row, name) for row in rows], dtype=dtype, device=device)

        self.settings = {
            "temperature": column("temperature"),
            "top_p": column("top_p"),
            "heads": column("heads", torch.bool),
            "temperature_bounds": column("temperature_bounds"),  # [B, 2]
            "top_p_bounds": column("top_p_bounds"),
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
    def prefill(self, rows: Sequence[Row]) -> _Output:
        """Run each distinct prompt once and share its cache among its rows."""
        slots: dict[tuple[int, ...], int] = {}
        owner = [slots.setdefault(row.prompt_ids, len(slots)) for row in rows]
        width = max(map(len, slots))
        ids = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in slots], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in slots], device=self.device)
        self.mask = mask
        logits, decision = self._run(ids, (mask.cumsum(dim=1) - 1).clamp(min=0))
        if self.penalties is not None:
            self.seen = torch.zeros_like(logits, dtype=torch.bool)
            for prompt, slot in slots.items():
                self.seen[slot, torch.tensor(prompt, device=self.device)] = True
        if owner != list(range(len(slots))):
            take = torch.tensor(owner, device=self.device)
            self.cache.batch_select_indices(take)
            self.mask, logits = self.mask[take], logits[take]
            decision = None if decision is None else Decision(*(part[take] for part in decision))
            if self.penalties is not None:
                self.seen = self.seen[take]
        if self.penalties is not None:
            self.counts = torch.zeros_like(logits, dtype=torch.int64)
        return _Output(logits, decision)

    def _run(self, ids: Tensor, positions: Tensor) -> _Output:
        """One forward pass over ids [B, L] at their positions [B, L], behind what the cache holds."""
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **({"regulate": False} if self.decides else {}),
        )
        self.cache = out.past_key_values
        decision = Decision(out.temperature[:, -1], out.top_p[:, -1]) if self.decides else None
        return _Output(out.logits[:, -1].float(), decision)

    @torch.inference_mode()
    def draw(self, output: _Output) -> tuple[Tensor, list[Token]]:
        """Sample every row's next token: int64 [B], and the same with how it came about."""
        temperature, top_p = self._settle(output.decision)
        logits = output.logits
        if self.penalties is not None:
            logits = penalise_repetition(logits, self.seen, self.penalties["repetition_penalty"])
            logits = penalise_presence_frequency(
                logits, self.counts, self.penalties["presence_penalty"], self.penalties["frequency_penalty"]
            )
        uniforms = row_uniforms(self.seeds, torch.full_like(self.seeds, self.step))
        how = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": self.settings["top_k"],
            "min_p": self.settings["min_p"],
        }
        columns = [temperature, top_p]
        if self.traced:
            scaled = decoding_logits(logits, **how)
            tokens = draw(scaled, uniforms)
            probability = scaled.softmax(dim=-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
            columns += [entropy(output.logits), probability]
        else:
            tokens = sample_tokens(logits, **how, uniforms=uniforms)
        if self.penalties is not None:
            self.seen.scatter_(1, tokens.unsqueeze(1), True)
            self.counts.scatter_add_(1, tokens.unsqueeze(1), torch.ones_like(tokens).unsqueeze(1))
        self.step += 1
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        taken = zip(self.live, tokens.tolist(), numbers, strict=True)
        return tokens, [Token(row, token, *values) for row, token, values in taken]

    def _settle(self, decision: Decision | None) -> Decision:
        """Temperature and top_p [B] of the next tokens: what heads decide times what was requested, inside the bounds."""
        temperature, top_p = requested = Decision(self.settings["temperature"], self.settings["top_p"])
        if decision is not None:
            heads = self.settings["heads"]
            temperature = temperature * torch.where(heads, decision.temperature, 1.0)
            top_p = top_p * torch.where(heads, decision.top_p, 1.0)
        temperature = temperature.clamp(*self.settings["temperature_bounds"].unbind(dim=1))
        greedy = requested.temperature == 0
        return Decision(temperature.masked_fill(greedy, 0.0), top_p.clamp(*self.settings["top_p_bounds"].unbind(dim=1)))

    @torch.inference_mode()
    def advance(self, tokens: Tensor) -> _Output:
        """Feed one token per row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.live), 1)], dim=1)
        return self._run(tokens.unsqueeze(1), self.mask.sum(dim=1, keepdim=True) - 1)

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


def has_heads(model: Any) -> bool:
    """Whether a model decides temperature and top-p for itself."""
    return isinstance(model, AutoDecoModelForCausalLM)


def generate(
    model: Any,
    rows: Sequence[Row],
    *,
    eos_ids: frozenset[int],
    should_stop: Callable[[int], bool] | None = None,
) -> Iterator[list[Token]]:
    """Generate all rows together, one step per item.

    Args:
        model: any Hugging Face causal LM in eval mode, with heads or without; its device is used.
        rows: what to generate; rows with equal prompts share one prefill.
        eos_ids: tokens that end a row; the end token is yielded, then the row is gone.
        should_stop: asked with a row's index after each of its tokens was yielded; true ends the row.

    Yields:
        Per step one token of every live row, in ascending row order.
    """
    if not rows:
        return
    batch = _Batch(model, rows)
    output = batch.prefill(rows)
    while batch.live:
        tokens, step = batch.draw(output)
        yield step
        slots = [
            slot
            for slot, token in enumerate(step)
            if token.id not in eos_ids
            and batch.step < rows[token.row].max_tokens
            and not (should_stop is not None and should_stop(token.row))
        ]
        if len(slots) < len(step):
            if not slots:
                return
            batch.keep(slots)
            tokens = tokens[torch.tensor(slots, device=tokens.device)]
        output = batch.advance(tokens)
