"""What heads are trained to draw from when they learn from rewards: the tempered distribution within a nucleus whose edge is uncertain.

A hard nucleus gives P no gradient: its edge lies between two tokens and stays there under small changes. So while heads learn, P is
noisy: logit(P) plus logistic noise. The noise is never drawn. For each prefix of the sorted tokens, its chance of being the nucleus
is the logistic distribution function at its mass, and a token's probability is the mean over the prefixes that hold it: exact,
differentiable in T and in P, and without the variance of a drawn P. As the noise goes to 0 it becomes the hard nucleus.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EDGE = 1e-6
"""Masses and P stay this far from 0 and 1, where the logit is infinite."""
_COLDEST = 1e-2
_FLOOR = -1e4
"""Logits this far below the largest have no mass at any temperature; -inf would make 0 * inf of their gradient."""
_TINY = 1e-30


class Explored(NamedTuple):
    """A distribution over the vocabulary in the order of likelihood.

    Attributes:
        probability: [N, V].
        tokens: int64 [N, V], whose probability it is.
    """

    probability: Tensor
    tokens: Tensor

    def logits(self) -> Tensor:
        """By token id [N, V]; -inf for what is never drawn."""
        return torch.empty_like(self.probability).scatter(-1, self.tokens, self.probability.log())

    def log_probability(self, token: Tensor) -> Tensor:
        """Of one token for each position [N], [N]."""
        place = (self.tokens == token.unsqueeze(-1)).long().argmax(dim=-1, keepdim=True)
        return self.probability.gather(-1, place).squeeze(-1).clamp(min=_TINY).log()


def explore(logits: Tensor, temperature: Tensor, top_p: Tensor, *, noise: float) -> Explored:
    """The distribution of one draw under a noisy P.

    Args:
        logits: [N, V], the model's final ones.
        temperature: [N].
        top_p: [N]; 1 keeps every token.
        noise: scale of the logistic noise on logit(P), > 0.
    """
    depth = (logits.float() - logits.amax(dim=-1, keepdim=True)).clamp(min=_FLOOR)
    heat = temperature.clamp(min=_COLDEST).unsqueeze(-1)
    p, tokens = (depth / heat).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    mass = p.cumsum(dim=-1).clamp(_EDGE, 1 - _EDGE)
    middle = torch.logit(top_p.clamp(_EDGE, 1 - _EDGE)).unsqueeze(-1)
    # The nucleus is no longer than a prefix if P is at most the prefix's mass; it is never longer than all of them.
    at_most = torch.sigmoid((torch.logit(mass) - middle) / noise)
    whole = torch.ones_like(at_most[..., :1])
    at_most = torch.cat([torch.where(top_p.unsqueeze(-1) >= 1, 0.0, at_most[..., :-1]), whole], dim=-1)
    chance = at_most.diff(dim=-1, prepend=torch.zeros_like(whole)).clamp(min=0)
    # A token of rank r is in every prefix from the r-th on.
    gain = (chance / mass).flip(-1).cumsum(dim=-1).flip(-1)
    return Explored(p * gain, tokens)
