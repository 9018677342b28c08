"""Decoding rules behind one interface: logits in, regulated logits out, every row with its own parameters.

Whoever samples from regulated logits at temperature 1, top_p 1 decodes by the rule, so rules chain, and a model that carries
one (`put_on`) decodes by it in any engine. They are for users without heads, and what heads are measured against.

    sampler = Sampler.parse("min_p=0.1,temperature=1.2")
    with sampler.put_on(model):
        model.generate(**inputs, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from local_backend.heads import MAX_TEMPERATURE
from local_backend.sampling import entropy, nucleus_mask, top_k_mask

MIN_TEMPERATURE = 0.01
"""Below it the published training clamps T."""
_EDT_BASE = 0.8
_NEWTON_STEPS = 8


def temperature(logits: Tensor, value: Tensor) -> Tensor:
    """Divide logits [..., V] by a temperature [...] >= 0; at 0 the likeliest token alone is left."""
    heat = value.unsqueeze(-1)
    # Shifting before dividing keeps tiny temperatures finite at the top.
    heated = (logits - logits.amax(dim=-1, keepdim=True)) / heat
    best = torch.full_like(logits, -torch.inf).scatter(-1, logits.argmax(dim=-1, keepdim=True), 0.0)
    return torch.where(heat > 0, heated, best)


def top_p(logits: Tensor, value: Tensor) -> Tensor:
    """Keep the nucleus: the fewest likeliest tokens whose mass reaches top_p (Holtzman et al. 2020)."""
    return _only(logits, nucleus_mask(logits, value.expand(logits.shape[:-1])))


def top_k(logits: Tensor, value: Tensor) -> Tensor:
    """Keep the k likeliest tokens, and ties with the last of them; 0 keeps all."""
    return _only(logits, top_k_mask(logits, value.long().expand(logits.shape[:-1])))


def min_p(logits: Tensor, value: Tensor) -> Tensor:
    """Keep tokens with at least that share of the likeliest token's probability (arXiv 2407.01082)."""
    return _only(logits, logits >= logits.amax(dim=-1, keepdim=True) + value.log().unsqueeze(-1))


def top_n_sigma(logits: Tensor, n: Tensor) -> Tensor:
    """Keep logits within n standard deviations of the largest; the same set at any temperature (arXiv 2411.07641).

    The deviation is the population's, over the tokens that nothing banned before.
    """
    live = logits > -torch.inf
    count = live.sum(dim=-1, keepdim=True)
    mean = logits.masked_fill(~live, 0.0).sum(dim=-1, keepdim=True) / count
    sigma = ((logits - mean).masked_fill(~live, 0.0).square().sum(dim=-1, keepdim=True) / count).sqrt()
    return _only(logits, logits >= logits.amax(dim=-1, keepdim=True) - n.unsqueeze(-1) * sigma)


def edt(logits: Tensor, base: Tensor, theta: Tensor) -> Tensor:
    """T = base * 0.8^(theta / entropy in nats): colder where the model is sure (arXiv 2403.14541)."""
    # The floor leaves theta = 0 at the base temperature where the entropy is 0.
    return temperature(logits, base * _EDT_BASE ** (theta / entropy(logits).clamp(min=1e-30)))


def dynatemp(logits: Tensor, low: Tensor, high: Tensor, exponent: Tensor) -> Tensor:
    """T = low + (high - low) * (entropy / largest possible entropy)^exponent: the dynamic temperature of llama.cpp.

    The largest possible entropy is ln of the number of tokens that nothing banned before.
    """
    live = (logits > -torch.inf).sum(dim=-1)
    share = (entropy(logits) / live.clamp(min=2).log()).clamp(0, 1)
    return temperature(logits, low + (high - low) * share**exponent)


def p_less(logits: Tensor) -> Tensor:
    """Keep tokens at least as likely as two draws are to agree, p >= sum of p^2 (arXiv 2509.23234)."""
    p = logits.softmax(dim=-1)
    # The likeliest one always is; rounding must not drop the tokens of a flat distribution.
    return _only(logits, p >= p.square().sum(dim=-1, keepdim=True).minimum(p.amax(dim=-1, keepdim=True)))


def t_star(logits: Tensor, mask_ratio: Tensor, dft_exponent: Tensor, data_temperature: Tensor) -> Tensor:
    """The temperature that AutoDeco's published objective asks for, without training."""
    return temperature(logits, optimal_temperature(logits, mask_ratio, dft_exponent, data_temperature))


def optimal_temperature(logits: Tensor, mask_ratio: Tensor, dft_exponent: Tensor, data_temperature: Tensor) -> Tensor:
    """The optimum of the temperature loss of AutoDeco (arXiv 2510.26697 and its code) on a model's own samples.

    Tokens y come from p^(1 / data_temperature); the loss p(y)^dft_exponent * CE(logits / T, y) drops the likeliest token
    with probability mask_ratio. What is left is the cross-entropy to a distribution q, and its optimum is the T whose mean
    logit is that of q: one monotone equation, solved by Newton's method inside a bracket. With mask_ratio 0 it is exactly
    1 / (1 / data_temperature + dft_exponent).

    Args:
        logits: [..., V]; -inf bans a token.
        mask_ratio: [...] in [0, 1), .6 as published.
        dft_exponent: [...] >= 0, 1 as published; 0 is plain cross-entropy.
        data_temperature: [...] > 0.

    Returns:
        [...], from MIN_TEMPERATURE to the 2 that heads can reach.
    """
    # A banned token weighs nothing at any temperature tried, and 0 * -inf is no number.
    logits = (logits - logits.amax(dim=-1, keepdim=True)).clamp(min=-1e5)
    log_p = logits.log_softmax(dim=-1)
    log_q = log_p * (1 / data_temperature + dft_exponent).unsqueeze(-1)
    likeliest = logits.argmax(dim=-1, keepdim=True)
    log_q = log_q.scatter_add(-1, likeliest, (-mask_ratio).log1p().expand(logits.shape[:-1]).unsqueeze(-1))
    target = (log_q.softmax(dim=-1) * logits).sum(dim=-1)
    low = torch.full_like(target, 1 / MAX_TEMPERATURE)
    high = torch.full_like(target, 1 / MIN_TEMPERATURE)
    too_cold = _moments(logits, low)[0] >= target  # even at 2
    inverse = torch.ones_like(target)
    for _ in range(_NEWTON_STEPS):
        mean, slope = _moments(logits, inverse)
        low, high = torch.where(mean < target, inverse, low), torch.where(mean < target, high, inverse)
        # In ln(-mean), which is close to a line: the mean itself falls off exponentially where one token has nearly all mass.
        step = inverse + (target / mean).log() * mean / slope
        inverse = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return (1 / inverse).masked_fill(too_cold, MAX_TEMPERATURE)


def _moments(logits: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [...] of the logits [..., V] under softmax(logits * inverse)."""
    p = (logits * inverse.unsqueeze(-1)).softmax(dim=-1)
    mean = (p * logits).sum(dim=-1)
    return mean, (p * (logits - mean.unsqueeze(-1)).square()).sum(dim=-1)


def _only(logits: Tensor, keep: Tensor) -> Tensor:
    return logits.masked_fill(~keep, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A number of a rule: its closed range, and what it is when it is left out (None = it may not be)."""

    name: str
    low: float
    high: float = math.inf
    default: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A decoding rule: a function of logits [..., V] and one tensor [...] for each of its parameters."""

    apply: Callable[..., Tensor]
    parameters: tuple[Parameter, ...] = ()


RULES: Mapping[str, Rule] = {
    "temperature": Rule(apply=temperature, parameters=(Parameter(name="temperature", low=0),)),
    "top_p": Rule(apply=top_p, parameters=(Parameter(name="top_p", low=0, high=1),)),
    "top_k": Rule(apply=top_k, parameters=(Parameter(name="top_k", low=0),)),
    "min_p": Rule(apply=min_p, parameters=(Parameter(name="min_p", low=0, high=1),)),
    "top_n_sigma": Rule(apply=top_n_sigma, parameters=(Parameter(name="n", low=0, default=1.0),)),
    "edt": Rule(
        apply=edt, parameters=(Parameter(name="base", low=0, default=1.0), Parameter(name="theta", low=0, default=0.1))
    ),
    "dynatemp": Rule(
        apply=dynatemp,
        parameters=(
            Parameter(name="low", low=0),
            Parameter(name="high", low=0),
            Parameter(name="exponent", low=0, default=1.0),
        ),
    ),
    "p_less": Rule(apply=p_less),
    "t_star": Rule(
        apply=t_star,
        parameters=(
            Parameter(name="mask_ratio", low=0, high=0.999, default=0.6),
            Parameter(name="dft_exponent", low=0, default=1.0),
            Parameter(name="data_temperature", low=MIN_TEMPERATURE, default=1.0),
        ),
    ),
}


class Sampler:
    """Rules one after another, each with its parameters: one number for all rows, or a tensor [B] of one for each.

    Args:
        rules: names of `RULES` and their parameters in order; those left out have their defaults.

    Raises:
        ValueError: an unknown rule, a missing parameter, one too many, or a number out of its range.
    """

    def __init__(self, rules: Sequence[tuple[str, Sequence[float | Tensor]]]) -> None:
        self._steps = [(name, _complete(name, values)) for name, values in rules]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "min_p=0.1,temperature=1.2"; several parameters of one rule are separated by colons: "edt=1.0:0.3".

        Raises:
            ValueError: as above, or not a number.
        """
        rules = []
        for part in text.split(",") if text.strip() else []:
            name, _, numbers = part.strip().partition("=")
            try:
                rules.append((name, [float(number) for number in numbers.split(":")] if numbers else []))
            except ValueError:
                raise ValueError(f"{part.strip()!r} is no rule: write NAME=NUMBER, or NAME=NUMBER:NUMBER") from None
        return cls(rules)

    def __str__(self) -> str:
        """The text `parse` reads."""
        return ",".join(
            name + ("=" + ":".join(str(value.cpu().numpy()) for value in values) if values else "")
            for name, values in self._steps
        )

    def __call__(self, logits: Tensor) -> Tensor:
        """Regulate logits [B, V] or [B, K, V]: float32 of the same shape, -inf where a token may not be drawn."""
        logits = logits.float()
        for name, values in self._steps:
            rows = (value.to(logits.device) for value in values)
            logits = RULES[name].apply(logits, *(v.reshape(v.shape + (1,) * (logits.dim() - 2)) for v in rows))
        return logits

    def put_on(self, model: nn.Module) -> RemovableHandle:
        """Make a Hugging Face causal LM return regulated logits, until the handle is removed or its `with` block ends."""

        def regulate(_: nn.Module, __: Any, output: Any) -> Any:
            output.logits = self(output.logits)
            return output

        return model.register_forward_hook(regulate)


def _complete(name: str, values: Sequence[float | Tensor]) -> tuple[Tensor, ...]:
    """The parameters of a rule as float32 tensors of no or one dimension, checked, with the defaults filled in."""
    if name not in RULES:
        raise ValueError(f"{name!r} is no decoding rule: there are {', '.join(RULES)}")
    parameters = RULES[name].parameters
    if len(values) > len(parameters):
        names = ", ".join(p.name for p in parameters) or "none"
        raise ValueError(f"{name!r} takes {len(parameters)} numbers ({names}), got {len(values)}")
    complete = []
    for place, parameter in enumerate(parameters):
        value = values[place] if place < len(values) else parameter.default
        if value is None:
            raise ValueError(f"{name!r} needs a number for {parameter.name}: write {name}=NUMBER")
        tensor = torch.as_tensor(value, dtype=torch.float32)
        # NaN is in no range.
        if tensor.dim() > 1 or not bool(((tensor >= parameter.low) & (tensor <= parameter.high)).all()):
            raise ValueError(f"{parameter.name}={value!r} of {name!r} must be from {parameter.low} to {parameter.high}")
        complete.append(tensor)
    return tuple(complete)
