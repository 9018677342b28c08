"""What the heads are trained on: the losses of AutoDeco, published forms and repaired ones, per position.

A loss here is a function of (logits, label, T, P) at one position; whoever calls it decides how much of a sequence is in memory.
Sources: arXiv 2510.26697, section 3, and what its released trainers do beyond the paper. Nothing here knows of models or data.

The vocabulary is sorted once, values alone: a constant under T > 0, so no gradient needs the sort's int64 index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

Form = Literal["two_losses", "joint", "megatron"]
SoftTopP = Literal["exclusive", "safe", "published"]
_EPSILON = 1e-9
"""The published soft top-p adds it to both denominators and logarithms."""
_FLOOR = -1e4
"""Logits this far below the largest have no mass at any temperature; -inf would make 0 * inf of their gradient."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which losses, with which constants. All of them decide what the heads learn, so a checkpoint records them.

    Attributes:
        form: two_losses is the released trainer: a temperature loss and a top-p loss, added. joint is the paper: one cross entropy
            of the softly truncated distribution drives both heads. megatron is the released trainer of the largest models: two
            losses, both without easy tokens, the temperature loss weighted by the tempered probability.
        soft_top_p: exclusive counts the mass before a token, as the nucleus at inference does. safe counts it with the token, as
            published, but always keeps the likeliest and needs no epsilon. published does neither: where P is below the largest
            probability its gradient is nothing, and further below it is about alpha.
        easy_token_drop: share of the positions where the label is the likeliest token that the loss leaves out; 0 leaves none.
        dft_exponent: positions weigh as the label's probability to this power (dynamic fine-tuning, arXiv 2508.05629); 0 is off.
        alpha: how steeply the soft nucleus falls off.
        min_temperature: the two_losses form clamps T here in its temperature loss.
    """

    form: Form = "two_losses"
    soft_top_p: SoftTopP = "exclusive"
    easy_token_drop: float = 0.6
    dft_exponent: float = 1.0
    alpha: float = 30.0
    min_temperature: float = 0.01

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("easy_token_drop", 0 <= self.easy_token_drop < 1, "in [0, 1)"),
            ("dft_exponent", self.dft_exponent >= 0, ">= 0"),
            ("alpha", self.alpha > 0, "> 0"),
            ("min_temperature", self.min_temperature >= 0, ">= 0"),
        ):
            if not good:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {rule}")

    @classmethod
    def published(cls) -> Self:
        """The released trainer to the letter, with its soft nucleus."""
        return cls(soft_top_p="published")


class Ranked(NamedTuple):
    """Logits with their labels' places.

    Attributes:
        values: [N, V], descending, the largest 0.
        place: int64 [N], the label's place among them; of equal logits the smaller token id comes first.
    """

    values: Tensor
    place: Tensor

    def own(self, per_token: Tensor) -> Tensor:
        """The label's entry of [N, V] in this order: [N]."""
        return per_token.gather(-1, self.place.unsqueeze(-1)).squeeze(-1)


class Term(NamedTuple):
    """One loss by position [N], and the positions it counts, bool [N]: a sequence's loss is the mean over those."""

    values: Tensor
    counted: Tensor


@torch.no_grad()
def rank(logits: Tensor, labels: Tensor) -> Ranked:
    """Sort each position's logits [N, V] and find its label [N]; float32, or float64 for float64 logits."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    label = labels.unsqueeze(-1)
    own = logits.gather(-1, label)
    smaller_id = torch.arange(logits.shape[-1], device=logits.device) < label
    place = ((logits > own) | ((logits == own) & smaller_id)).sum(dim=-1)
    values = logits.sort(dim=-1, descending=True).values
    return Ranked((values - values[:, :1]).clamp_(min=_FLOOR), place)


def tempered(ranked: Ranked, temperature: Tensor) -> Tensor:
    """Log probability of each label under softmax(logits / T), [N]."""
    scaled = ranked.values / temperature.unsqueeze(-1)
    return ranked.own(scaled) - scaled.logsumexp(dim=-1)


def softly_truncated(ranked: Ranked, temperature: Tensor, top_p: Tensor, *, alpha: float, kind: SoftTopP) -> Tensor:
    """Log probability of each label under the tempered distribution with a soft nucleus, [N] (section 3, soft top-p).

    A token whose cumulative mass c exceeds P keeps the share exp(-alpha (c - P)) of its probability; the rest is normalised.

    Args:
        ranked: N positions.
        temperature: [N], > 0.
        top_p: [N].
        alpha: see `LossConfig`.
        kind: see `LossConfig.soft_top_p`.
    """
    log_p = (ranked.values / temperature.unsqueeze(-1)).log_softmax(dim=-1)
    p = log_p.exp()
    mass = p.cumsum(dim=-1)
    if kind == "exclusive":
        mass = mass - p
    excess = (mass - top_p.unsqueeze(-1)).relu()
    if kind == "published":
        kept = p * torch.exp(-alpha * excess)
        return (ranked.own(kept) / (kept.sum(dim=-1) + _EPSILON) + _EPSILON).log()
    if kind == "safe":
        # Hard top-p keeps the likeliest token however small P is; so does this, and P has a gradient everywhere.
        excess = torch.cat([torch.zeros_like(excess[:, :1]), excess[:, 1:]], dim=-1)
    log_kept = log_p - alpha * excess
    return ranked.own(log_kept) - log_kept.logsumexp(dim=-1)


def terms(config: LossConfig, *, plain: Tensor, warm: Tensor, cut: Tensor, hard: Tensor) -> dict[str, Term]:
    """Weigh and mask the labels' log probabilities into losses, by name.

    Args:
        config: which form.
        plain: [N], under the model itself (T = 1); the weight of two forms.
        warm: [N], at T.
        cut: [N], at T within the soft nucleus of P.
        hard: bool [N], false where a position was dropped as easy.
    """
    weight = (config.dft_exponent * plain.detach()).exp()
    if config.form == "joint":
        return {"joint": Term(-weight * cut, hard)}
    if config.form == "megatron":
        own_weight = (config.dft_exponent * warm.detach()).exp()
        return {"temperature": Term(-own_weight * warm, hard), "top_p": Term(-weight * cut, hard)}
    return {"temperature": Term(-weight * warm, hard), "top_p": Term(-weight * cut, torch.ones_like(hard))}


def position_losses(
    config: LossConfig, logits: Tensor, labels: Tensor, temperature: Tensor, top_p: Tensor, uniforms: Tensor
) -> dict[str, Term]:
    """The losses of N positions, by name; gradients reach T and P, never the logits.

    Args:
        config: form and constants.
        logits: [N, V], the model's final ones.
        labels: int64 [N].
        temperature: [N].
        top_p: [N].
        uniforms: [N] in [0, 1); an easy position below `easy_token_drop` is dropped.
    """
    return losses_of(config, rank(logits, labels), temperature, top_p, uniforms)


def losses_of(
    config: LossConfig, ranked: Ranked, temperature: Tensor, top_p: Tensor, uniforms: Tensor
) -> dict[str, Term]:
    """The same for logits that are sorted already."""
    heat = temperature.clamp(min=config.min_temperature) if config.form == "two_losses" else temperature
    return terms(
        config,
        plain=tempered(ranked, torch.ones_like(temperature)),
        warm=tempered(ranked, heat),
        cut=softly_truncated(ranked, temperature, top_p, alpha=config.alpha, kind=config.soft_top_p),
        hard=hard_positions(config, ranked, uniforms),
    )


def hard_positions(config: LossConfig, ranked: Ranked, uniforms: Tensor) -> Tensor:
    """Where the loss counts: bool [N], false for easy positions that the draw dropped."""
    return (ranked.place > 0) | (uniforms >= config.easy_token_drop)
