"""The two heads of AutoDeco: from a token's hidden state to the temperature and the nucleus mass it is drawn with.

Shapes, names and order are the published ones (arXiv 2510.26697, section 3, and its released checkpoints), so that their weights
load as they are. Heads compute in float32 whatever the base runs in. They know nothing of text, caches or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from local_backend.blocks import row_blocks

MAX_TEMPERATURE = 2.0
WIDTH = 256
STATISTICS = 4
"""Largest probability, entropy, variance and mass of the five likeliest."""
_TOP = 5
_EPSILON = 1e-8
_LOWEST = torch.finfo(torch.float32).min
_COLUMNS = 256
_NEUTRAL_LOGIT = 40.0
"""A sigmoid of it is exactly 1 in float32."""


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """What heads are built as; a checkpoint's tensors say all of it.

    Attributes:
        hidden_size: H, what the base hands to its output embedding.
        statistics: the top-p head also sees the distribution, as all released heads do; the paper does not mention it.
        temperature: there is a temperature head.
        top_p: there is a top-p head.
        temperature_width: hidden units of the temperature head.
        top_p_width: hidden units of the top-p head.
    """

    hidden_size: int
    statistics: bool = True
    temperature: bool = True
    top_p: bool = True
    temperature_width: int = WIDTH
    top_p_width: int = WIDTH

    def __post_init__(self) -> None:
        for name in ("hidden_size", "temperature_width", "top_p_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")
        if not (self.temperature or self.top_p):
            raise ValueError("heads without a temperature head and without a top-p head decide nothing: keep one")

    @property
    def top_p_inputs(self) -> int:
        """Features of the top-p head: the hidden state, the temperature, and the statistics if it sees them."""
        return self.hidden_size + 1 + (STATISTICS if self.statistics else 0)

    @property
    def view_size(self) -> int:
        """Numbers by which the top-p head, where there is one, sees the distribution."""
        return STATISTICS if self.statistics and self.top_p else 0


class Decision(NamedTuple):
    """What the heads decide for each position, float32 [...]: temperature in (0, 2) and nucleus mass in (0, 1)."""

    temperature: Tensor
    top_p: Tensor


class _Head(nn.Module):
    """Linear, ReLU, Linear to one number; the names of its parameters are published."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Features [..., inputs] to a number in (0, 1), [...]."""
        return torch.sigmoid(self.mlp(features).squeeze(-1))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A model that is cast to bfloat16 takes its heads along to the device, not to the dtype.
        def keeping_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keeping_dtype, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it


class Heads(nn.Module):
    """Both heads. A head that is switched off decides 1, which changes nothing.

    Args:
        config: what to build; PyTorch's own initialisation, which starts near T = 1 and P = .5.
    """

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.temp_head = _Head(config.hidden_size, config.temperature_width) if config.temperature else None
        self.top_p_head = _Head(config.top_p_inputs, config.top_p_width) if config.top_p else None

    @classmethod
    def neutral(cls, config: HeadsConfig) -> Self:
        """Heads that decide T = 1 and P = 1 exactly, everywhere: a model with them is the model without."""
        heads = cls(config)
        for head, logit in ((heads.temp_head, 0.0), (heads.top_p_head, _NEUTRAL_LOGIT)):
            if head is not None:
                last = head.mlp[-1]
                assert isinstance(last, nn.Linear)
                nn.init.zeros_(last.weight)
                nn.init.constant_(last.bias, logit)
        return heads

    def forward(self, hidden: Tensor, logits: Tensor) -> Decision:
        """Decide for each position.

        The temperature that the top-p head sees is detached, as published: its loss trains the temperature head through
        the tempered distribution alone.

        Args:
            hidden: [..., H], what enters the output embedding (after the final norm).
            logits: [..., V], the model's final logits.
        """
        temperature = self.temperature(hidden)
        seen = temperature.detach()
        return Decision(temperature, self.top_p(hidden, seen, self.view(logits, seen)))

    def temperature(self, hidden: Tensor) -> Tensor:
        """T of each position [...], from what enters the output embedding [..., H] alone."""
        if self.temp_head is None:
            return torch.ones(hidden.shape[:-1], device=hidden.device)
        decided: Tensor = MAX_TEMPERATURE * self.temp_head(hidden.float())
        return decided

    def view(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """What the top-p head sees of the tempered distribution, float32 [..., 4], or [..., 0] if it sees nothing of it."""
        if not self.config.view_size:
            return torch.empty(*temperature.shape, 0, device=temperature.device)
        return statistics(logits, temperature)

    def top_p(self, hidden: Tensor, temperature: Tensor, view: Tensor) -> Tensor:
        """P of each position [...], from the hidden state [..., H], T [...] and the `view`."""
        if self.top_p_head is None:
            return torch.ones_like(temperature)
        decided: Tensor = self.top_p_head(torch.cat([hidden.float(), temperature.unsqueeze(-1), view], dim=-1))
        return decided


@torch.no_grad()
def statistics(logits: Tensor, temperature: Tensor) -> Tensor:
    """What the top-p head sees of the tempered distribution p = softmax(logits / T), float32 [..., 4].

    In the published order: largest probability; entropy in nats; variance of p over the vocabulary (unbiased); mass of the
    five likeliest tokens. The small constants are the released code's, since released weights were trained with them. No
    gradient passes: the base is frozen while heads learn.

    Args:
        logits: [..., V].
        temperature: [...], >= 0.
    """
    shape, logits = temperature.shape, logits.reshape(-1, logits.shape[-1])
    width = logits.shape[-1]
    cold = 1 / (temperature.float().reshape(-1, 1) + _EPSILON)  # [N, 1]
    top = _largest(logits).float()  # [N, 5]
    total, drawn, squares, blurred = _sums(logits, top[:, :1], cold)  # [N] each
    top = ((top - top[:, :1]) * cold).exp() / total.unsqueeze(-1)
    # sum p log(p + e) = sum p log p + sum p log(1 + e / p). In the first, log p is known without a logarithm, which would take as
    # long as the softmax. Of the second each token has at most e, and log(1 + x) = x / (1 + x / 2) misses it by less than e / 13.
    entropy = total.log() - drawn / total - _EPSILON * blurred
    variance = (squares / total.square() - 1 / width) / max(1, width - 1)
    return torch.stack([top[:, 0], entropy, variance, top.sum(dim=-1)], dim=-1).view(*shape, STATISTICS)


def _sums(logits: Tensor, peak: Tensor, cold: Tensor) -> Tensor:
    """Of weights w = exp(s), s = (logits - peak) / T: the sums of w, w s, w^2, and w / (w + e / 2 of all), [4, N].

    Everything that touches the vocabulary, and nothing else, so that a block passes through the caches once.
    """
    blocks = row_blocks(logits)
    scratch = torch.empty(2, *blocks[0].shape, device=logits.device)
    found = []
    width = logits.shape[-1]
    for rows, top, inverse in zip(blocks, row_blocks(peak, width), row_blocks(cold, width), strict=True):
        s, w = scratch[:, : len(rows)]
        # A banned token (-inf) weighs 0 and must not make 0 * inf.
        torch.sub(rows, top, out=s).mul_(inverse).clamp_(min=_LOWEST)
        torch.exp(s, out=w)
        total = w.sum(dim=-1)
        drawn, squares = torch.linalg.vecdot(w, s), torch.linalg.vector_norm(w, dim=-1).square()
        torch.add(w, _EPSILON / 2 * total.unsqueeze(-1), out=s)
        found.append(torch.stack([total, drawn, squares, torch.div(w, s, out=s).sum(dim=-1)]))
    return torch.cat(found, dim=1)


def _largest(logits: Tensor) -> Tensor:
    """The five largest of each row [N, V], descending: [N, 5]. They lie in the five columns with the largest maxima."""
    rows, width = logits.shape
    if width < _COLUMNS * _TOP or rows == 1:
        return logits.topk(min(_TOP, width), dim=-1).values
    even = width - width % _COLUMNS
    table = logits[:, :even].view(rows, -1, _COLUMNS)
    columns = table.amax(dim=1).topk(_TOP, dim=-1, sorted=False).indices
    candidates = table.gather(2, columns.unsqueeze(1).expand(-1, table.shape[1], -1)).flatten(1)
    return torch.cat([candidates, logits[:, even:]], dim=-1).topk(_TOP, dim=-1).values
