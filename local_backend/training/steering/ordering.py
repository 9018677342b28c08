"""What heads decide for prompts at three levels, and whether low, normal and high come out in this order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from local_backend.heads import Heads
from local_backend.training.data import Example, micro_batches
from local_backend.training.gradients import chunk_positions
from local_backend.training.hidden import HiddenStates
from local_backend.training.readout import Readout
from local_backend.training.steering.triples import Triple


class Decider:
    """Heads on the answers of examples.

    Args:
        readout: the frozen base.
        chunk_mib: size of the largest piece of logits in memory.
        micro_batch_tokens: padded tokens the base sees at once.
    """

    def __init__(self, readout: Readout, *, chunk_mib: int, micro_batch_tokens: int) -> None:
        self.states = HiddenStates(readout, micro_batch_tokens=micro_batch_tokens)
        self._readout = readout
        self._chunk = chunk_positions(readout.vocabulary, chunk_mib)
        self._tokens = micro_batch_tokens

    def __call__(self, heads: Heads, examples: Sequence[Example]) -> list[Tensor]:
        """T and P at each token of each answer, [n, 2]; logits exist a piece at a time, and gradients reach the heads."""
        found: dict[Example, Tensor] = {}
        for group in micro_batches(examples, tokens=self._tokens):
            hidden = self.states.of(group)
            pieces = [
                torch.stack(heads(piece, self._readout.logits(piece)), dim=-1)
                for piece in torch.split(hidden, self._chunk)
            ]
            answers = torch.split(torch.cat(pieces), [each.supervised for each in group])
            found.update(zip(group, answers, strict=True))
        return [found[each] for each in examples]


Pair = tuple[float, float]
"""A number of T, and the same of P."""


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """How prompts follow commands.

    Attributes:
        prompts: how many, each at three levels.
        ordered: share of the prompts with mean low < normal < high over the answer's tokens.
        lowered: share with low < normal.
        raised: share with normal < high.
        low, normal, high: means over the prompts of those means.
        before: what the heads decided for the normal prompts before they were steered.
        moved: how far a normal prompt's token is from there, root mean square.
    """

    prompts: int
    ordered: Pair
    lowered: Pair
    raised: Pair
    low: Pair
    normal: Pair
    high: Pair
    before: Pair
    moved: Pair

    def sentence(self, name: str) -> str:
        """For reading."""
        t, p = (
            f"{kind} low {self.low[at]:.3f} < normal {self.normal[at]:.3f} < high {self.high[at]:.3f} for {self.ordered[at]:.0%}"
            for at, kind in enumerate("TP")
        )
        return (
            f"{name}, {self.prompts} prompts: {t}, {p}; normal ones were at T {self.before[0]:.3f}, P {self.before[1]:.3f} before, "
            f"and a token moved by {self.moved[0]:.3f} and {self.moved[1]:.3f}"
        )


@torch.no_grad()
def measure(
    decide: Callable[[Heads, Sequence[Example]], list[Tensor]],
    heads: Heads,
    triples: Sequence[Triple],
    before: Mapping[Example, Tensor],
) -> Ordering:
    """Measure heads on triples.

    Args:
        decide: T and P of each token.
        heads: steered ones.
        triples: prompts at three levels.
        before: what the heads decided for normal prompts before, by example.
    """
    decided = decide(heads, [each for triple in triples for each in triple])
    means = torch.stack([each.mean(dim=0) for each in decided]).view(-1, 3, 2)
    low, normal, high = means.unbind(dim=1)
    was = [before[triple.normal] for triple in triples]
    moved = torch.cat([now - then for now, then in zip(decided[1::3], was, strict=True)])

    def pair(values: Tensor) -> Pair:
        of_t, of_p = values.float().mean(dim=0).tolist()
        return of_t, of_p

    return Ordering(
        prompts=len(triples),
        ordered=pair((low < normal) & (normal < high)),
        lowered=pair(low < normal),
        raised=pair(normal < high),
        low=pair(low),
        normal=pair(normal),
        high=pair(high),
        before=pair(torch.stack([each.mean(dim=0) for each in was])),
        moved=(moved.square().mean(dim=0).sqrt()[0].item(), moved.square().mean(dim=0).sqrt()[1].item()),
    )
