"""Samples of many prompts at once, and the hidden states they were drawn from: what a reward is computed on and learned from.

The engine's loop serves texts as they come; this one draws whole groups, takes any rule from hidden states to a distribution, and
keeps what a gradient needs, so that the frozen base is run once for each token and never again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from local_backend.sampling import row_uniforms, sample_tokens

Decoder = Callable[[Tensor, Tensor], Tensor]
"""Hidden states [B, H] and the model's final logits [B, V] to the logits to draw from [B, V], -inf for what is cut."""
_FINISHED = 0.3
"""Rows leave the batch when this share of it is done: cheaper than moving the cache for each."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """R samples.

    Attributes:
        tokens: int64 [R, L]; what follows a sample's end is the end token.
        live: bool [R, L], true up to and with the end token.
        hidden: [R, L, H], what each token was drawn from; None if it was not kept.
    """

    tokens: Tensor
    live: Tensor
    hidden: Tensor | None

    def texts(self, tokenizer: Any) -> list[str]:
        """Each sample without its special tokens."""
        ids = [row[live].tolist() for row, live in zip(self.tokens, self.live, strict=True)]
        found: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return found


@torch.no_grad()
def draw(
    base: Any,
    prompts: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    decode: Decoder,
    *,
    max_tokens: int,
    end_ids: frozenset[int],
    keep_hidden: bool = False,
) -> Drawn:
    """Draw one sample for each prompt; equal prompts share one prefill.

    Args:
        base: any causal LM without heads, in eval mode; its device is used.
        prompts: R of them, at least one token each.
        seeds: R; a sample's random numbers are a function of (seed, position) alone.
        decode: the rule.
        max_tokens: longest sample; the end token counts.
        end_ids: tokens that end a sample.
        keep_hidden: whether the hidden states are kept, R * L * H numbers in the base's precision.
    """
    device = base.device
    end = min(end_ids)
    distinct: dict[tuple[int, ...], int] = {}
    owner = torch.tensor([distinct.setdefault(prompt, len(distinct)) for prompt in prompts], device=device)
    width = max(map(len, distinct))
    ids = torch.tensor([[end] * (width - len(p)) + list(p) for p in distinct], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in distinct], device=device)
    entering: list[Tensor] = []
    handle = base.get_output_embeddings().register_forward_pre_hook(lambda _, given: entering.append(given[0][:, -1]))
    try:
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        out = base(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1)
        cache, mask = out.past_key_values, mask[owner]
        cache.batch_select_indices(owner)
        cache.layers = [RoomyLayer(each, max_tokens) if type(each) is DynamicLayer else each for each in cache.layers]
        hidden, logits, place = entering.pop()[owner], out.logits[:, -1][owner], mask.sum(dim=1)

        rows = torch.arange(len(prompts), device=device)  # which sample each row of the batch is
        seeds_of = torch.tensor(list(seeds), dtype=torch.int64, device=device)
        tokens = torch.full((len(prompts), max_tokens), end, device=device)
        live = torch.zeros_like(tokens, dtype=torch.bool)
        done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        kept: list[tuple[Tensor, Tensor]] = []
        ends = torch.tensor(sorted(end_ids), device=device)
        for at in range(max_tokens):
            uniforms = row_uniforms(seeds_of[rows], torch.full_like(rows, at))
            token = _drawn(decode(hidden, logits.float()), uniforms)
            running = ~done[rows]
            tokens[rows, at] = torch.where(running, token, end)
            live[rows, at] = running
            if keep_hidden:
                kept.append((rows, hidden))
            done[rows] |= torch.isin(token, ends)
            going = ~done[rows]
            if at + 1 == max_tokens or not bool(going.any()):
                break
            if float(going.float().mean()) <= 1 - _FINISHED:
                take = going.nonzero().squeeze(1)
                cache.batch_select_indices(take)
                rows, mask, place, token = rows[take], mask[take], place[take], token[take]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            out = base(
                input_ids=token.unsqueeze(1),
                attention_mask=mask,
                position_ids=place.unsqueeze(1),
                past_key_values=cache,
                use_cache=True,
            )
            hidden, logits, place = entering.pop(), out.logits[:, -1], place + 1
    finally:
        handle.remove()
    length = at + 1
    states = None
    if keep_hidden:
        states = hidden.new_zeros(len(prompts), length, hidden.shape[-1])
        for step, (those, values) in enumerate(kept):
            states[those, step] = values
    return Drawn(tokens=tokens[:, :length], live=live[:, :length], hidden=states)


def _drawn(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token for each row of final logits [B, V]."""
    ones = torch.ones_like(uniforms)
    nothing = torch.zeros_like(uniforms)
    return sample_tokens(logits, temperature=ones, top_p=ones, top_k=nothing.long(), min_p=nothing, uniforms=uniforms)


class RoomyLayer(DynamicLayer):
    """A layer's keys and values with room for what comes: appending copies one token, where `DynamicLayer` copies them all.

    Args:
        layer: filled by the prefill.
        room: tokens to come.
    """

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.is_initialized, self.dtype, self.device = True, layer.dtype, layer.device
        self._keys, self._values = _with_room(layer.keys, room), _with_room(layer.values, room)
        self.keys, self.values = layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append [B, heads, 1, D] and return all of them, views of the buffers."""
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self._keys[:, :, start:end], self._values[:, :, start:end] = key_states, value_states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        length = self.keys.shape[2]
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]


def _with_room(states: Tensor, room: int) -> Tensor:
    batch, heads, length, width = states.shape
    buffer = states.new_empty(batch, heads, length + room, width)
    buffer[:, :, :length] = states
    return buffer
