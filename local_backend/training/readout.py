"""From tokens to hidden states, and from hidden states to a model's final logits: apart, so that logits exist a chunk at a time.

The hidden state is what enters the output embedding. The logits are final: after whatever the model does behind its output
embedding (Gemma's soft-cap, the scales of Cohere and Granite), which is found by comparison with the model's own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from local_backend.config import SetupError

_PROBE_TOKENS = 4


class Readout:
    """A frozen causal LM, cut at its output embedding.

    Args:
        base: any Hugging Face causal LM; it is put in eval mode and never gets a gradient.
        autocast: compute the base in this dtype whatever its weights are stored in.

    Raises:
        SetupError: the model has no output embedding, or does something behind it that is not known here.
    """

    def __init__(self, base: Any, *, autocast: torch.dtype | None = None) -> None:
        self.base = base.eval()
        self.embedding = base.get_output_embeddings()
        if self.embedding is None:
            raise SetupError(f"{type(base).__name__} has no output embedding: heads need a causal language model")
        self.device: torch.device = self.embedding.weight.device
        self.vocabulary: int = self.embedding.weight.shape[0]
        self.hidden_size: int = self.embedding.weight.shape[1]
        self._autocast = autocast
        self._finish = self._find_finish()

    @torch.no_grad()
    def hidden(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """One forward pass of the base over [B, L] without its logits: [B, L, H]."""
        with self._precision(), self._tap(keep=1) as taken:
            self.base(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
        return taken[0].to(self.device)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Final logits [N, V] of hidden states [N, H], in the base's precision."""
        with self._precision():
            logits: Tensor = self._finish(self.embedding(hidden.to(self.embedding.weight.dtype)))
        return logits

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._autocast is None else torch.autocast(self.device.type, self._autocast)

    @contextmanager
    def _tap(self, *, keep: int | None) -> Iterator[list[Tensor]]:
        """Collect what enters the output embedding; only its last `keep` positions go on, None lets all pass."""
        taken: list[Tensor] = []

        def take(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            taken.append(arguments[0])
            return None if keep is None else (arguments[0][:, -keep:],)

        handle = self.embedding.register_forward_pre_hook(take)
        try:
            yield taken
        finally:
            handle.remove()

    @torch.no_grad()
    def _find_finish(self) -> Callable[[Tensor], Tensor]:
        ids = torch.arange(_PROBE_TOKENS, device=self.base.device).unsqueeze(0) % self.vocabulary
        with self._precision():
            with self._tap(keep=None) as taken:
                expected = self.base(input_ids=ids, use_cache=False).logits.float()
            raw = self.embedding(taken[0])
            half = torch.finfo(raw.dtype).bits < 32
            for finish in _finishes(self.base.config.get_text_config()):
                if torch.allclose(
                    finish(raw).float(), expected, rtol=2e-2 if half else 1e-4, atol=1e-2 if half else 1e-5
                ):
                    return finish
        raise SetupError(
            f"{type(self.base).__name__} does something to its logits that is not known here, so heads cannot be trained "
            f"on it; known are a soft-cap (final_logit_softcapping) and a scale (logit_scale, logits_scaling)"
        )


def _finishes(config: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """What a config may mean, the declared before nothing: two models use one name, one to divide and one to multiply."""
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        yield lambda logits: cap * torch.tanh(logits / cap)
    for name in ("logit_scale", "logits_scaling"):
        scale = getattr(config, name, None)
        if scale is not None:
            yield partial(torch.mul, other=scale)
            yield partial(torch.div, other=scale)
    yield lambda logits: logits
