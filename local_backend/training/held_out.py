"""What heads buy on records they were not trained on: beside T = 1 and beside the best static temperature there is for them.

The static temperature is the best of 40 on the very records it is judged on; heads are at most the best of the ten or so times that
a run looked at these records. Two measures: the loss that was trained, and the likelihood of the completions (nats a token under the
temperature alone: a hard nucleus has no likelihood).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor

from local_backend.heads import Heads
from local_backend.sampling import nucleus_mask
from local_backend.training.data import Batch
from local_backend.training.gradients import loss_names, per_sequence, pieces
from local_backend.training.losses import LossConfig, hard_positions, losses_of, rank, tempered, terms
from local_backend.training.readout import Readout

STATIC_TEMPERATURES = tuple(step / 20 for step in range(1, 41))
"""0.05 to 2, all the heads can reach."""
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure of heads and of constants; lower is better.

    Attributes:
        heads: what the heads reach.
        plain: T = 1.
        static: the best constant temperature.
        static_temperature: which one that is.
        low: with `high`, the 95 % interval of heads minus static (bootstrap over records).
        high: see `low`.
    """

    heads: float
    plain: float
    static: float
    static_temperature: float
    low: float
    high: float

    def sentence(self, name: str) -> str:
        """For reading."""
        verdict = "better than" if self.high < 0 else "worse than" if self.low > 0 else "no different from"
        return (
            f"{name}: heads {self.heads:.4f}, T=1 {self.plain:.4f}, best static T={self.static_temperature:g} {self.static:.4f}; "
            f"heads are {verdict} it ({self.heads - self.static:+.4f}, 95 % interval {self.low:+.4f} to {self.high:+.4f})"
        )


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Heads on held-out records.

    Attributes:
        records: how many.
        tokens: their supervised tokens.
        loss: the trained loss; constants have P = 1.
        likelihood: nats a token under the temperature alone.
        temperature: mean T.
        top_p: mean P.
        inside: share of the tokens that lie in the nucleus the heads chose.
    """

    records: int
    tokens: int
    loss: Comparison
    likelihood: Comparison
    temperature: float
    top_p: float
    inside: float

    def sentences(self) -> list[str]:
        """For reading."""
        return [
            f"held out: {self.records} records, {self.tokens} tokens; the heads decide T={self.temperature:.3f} and P={self.top_p:.3f} "
            f"on average, and {self.inside:.1%} of the tokens lie in their nucleus",
            self.loss.sentence("trained loss (mean over records)"),
            self.likelihood.sentence("likelihood (nats a token, P=1)"),
        ]


def held_out_loss(
    heads: Heads, readout: Readout, batches: Iterable[tuple[Tensor, Batch]], config: LossConfig, *, chunk: int
) -> float:
    """The trained loss, mean over the records of all processes; `batches`, with their hidden states, are this process's share."""
    rows = _gathered([_measure(heads, readout, *each, config, chunk=chunk, static=()) for each in batches])
    return float(rows.losses.mean())


def compare(
    heads: Heads,
    readout: Readout,
    batches: Iterable[tuple[Tensor, Batch]],
    config: LossConfig,
    *,
    chunk: int,
    seed: int,
) -> HeldOut:
    """Measure heads and constants on the records of all processes; `batches`, with their hidden states, are this process's share."""
    rows = _gathered(
        [_measure(heads, readout, *each, config, chunk=chunk, static=STATIC_TEMPERATURES) for each in batches]
    )
    tokens, temperature, top_p, inside = rows.sums.sum(dim=0).tolist()
    weights = _resamples(len(rows.losses), seed)
    return HeldOut(
        records=len(rows.losses),
        tokens=int(tokens),
        loss=_comparison(rows.losses, torch.ones_like(rows.losses[:, :1]), weights),
        likelihood=_comparison(rows.surprise, rows.sums[:, :1], weights),
        temperature=temperature / tokens,
        top_p=top_p / tokens,
        inside=inside / tokens,
    )


class _Rows(NamedTuple):
    """One row a record, float64: column 0 of the first two is the heads', the others are the static temperatures'.

    Attributes:
        losses: [R, 1 + S], the trained loss.
        surprise: [R, 1 + S], nats.
        sums: [R, 4], tokens, and sums over them of T, of P, and of being inside the nucleus.
    """

    losses: Tensor
    surprise: Tensor
    sums: Tensor


@torch.no_grad()
def _measure(
    heads: Heads,
    readout: Readout,
    hidden: Tensor,
    batch: Batch,
    config: LossConfig,
    *,
    chunk: int,
    static: Sequence[float],
) -> _Rows:
    found: dict[str, list[Tensor]] = {}
    others: list[Tensor] = []
    for piece, logits in pieces(readout, hidden, chunk=chunk):
        labels, uniforms = batch.labels[piece], batch.uniforms[piece]
        temperature, top_p = heads(hidden[piece], logits)
        ranked = rank(logits, labels)
        hard = hard_positions(config, ranked, uniforms)
        plain = tempered(ranked, torch.ones_like(temperature))
        warm = [tempered(ranked, torch.full_like(temperature, each)) for each in static]
        by_choice = [
            losses_of(config, ranked, temperature, top_p, uniforms),
            # Under P = 1 the soft nucleus keeps everything.
            *(terms(config, plain=plain, warm=each, cut=each, hard=hard) for each in warm),
        ]
        for name in loss_names(config, heads):
            counted = by_choice[0][name].counted.unsqueeze(1)
            values = torch.stack([each[name].values for each in by_choice], dim=1) * counted
            found.setdefault(name, []).append(torch.cat([values, counted], dim=1))
        inside = (
            nucleus_mask(logits.float() / temperature.unsqueeze(1), top_p).gather(1, labels.unsqueeze(1)).squeeze(1)
        )
        own = [-tempered(ranked, temperature), *(-each for each in warm)]
        others.append(torch.stack([*own, torch.ones_like(top_p), temperature, top_p, inside.float()], dim=1))
    totals = [per_sequence(torch.cat(parts).double(), batch) for parts in found.values()]
    whole = per_sequence(torch.cat(others).double(), batch)
    losses = torch.stack([each[:, :-1] / each[:, -1:].clamp(min=1) for each in totals]).sum(dim=0)
    return _Rows(losses.cpu(), whole[:, :-4].cpu(), whole[:, -4:].cpu())


def _gathered(mine: Sequence[_Rows]) -> _Rows:
    parts: list[_Rows] = gather_object(list(mine))
    return _Rows(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _resamples(records: int, seed: int) -> Tensor:
    """How often each record is drawn in each resample, [resamples, records]."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(records, (_RESAMPLES, records), generator=generator)
    return torch.zeros(_RESAMPLES, records, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones_like(drawn, dtype=torch.float64)
    )


def _comparison(values: Tensor, sizes: Tensor, weights: Tensor) -> Comparison:
    """Means over `sizes` [R, 1] of the columns of `values` [R, 1 + S]."""
    means = values.sum(dim=0) / sizes.sum()
    best = int(means[1:].argmin())
    difference = values[:, :1] - values[:, 1 + best : 2 + best]
    resampled = ((weights @ difference) / (weights @ sizes)).squeeze(1)
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Comparison(
        heads=float(means[0]),
        plain=float(means[1 + STATIC_TEMPERATURES.index(1.0)]),
        static=float(means[1 + best]),
        static_temperature=STATIC_TEMPERATURES[best],
        low=low,
        high=high,
    )
