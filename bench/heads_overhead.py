"""What heads cost: the time of a decoding step (forward pass and sampling, as our engine does it) with them and without, in one run.

Both sides are the same weights and take their steps in turns, so caches grow alike and neighbours on the machine disturb them
alike. On a CPU the time of a step is the CPU time of its one thread, on a GPU it is wall time. Without heads the engine samples
with a static temperature and top_p, as most people do, or plainly at 1 and 1, where it has no nucleus to find.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from bench.rows import Row, ratio_of_medians, versions
from local_backend import generate
from local_backend.heads import MAX_TEMPERATURE, Heads, HeadsConfig
from local_backend.loading import load
from local_backend.model import AutoDecoModelForCausalLM, output_width

TARGET = 1.02
"""Of the larger model; the paper's figure is 1.017 (arXiv 2510.26697)."""
STATIC = ((0.8, 0.95), (1.0, 1.0))
"""Temperature and top_p where there are no heads; the heads decide about the first."""
EMBEDDED = "embedded model"
_SPREAD = 0.02
_PEAKED = 8
"""The larger model's output embedding is drawn so many times as wide: its distributions are then about as peaked as a trained model's."""


def llama(**changes: Any) -> LlamaConfig:
    """A Llama of 134 million parameters with a vocabulary of 32,000, or another."""
    shape = {"vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    return LlamaConfig(**{**shape, "num_attention_heads": 12, "initializer_range": _SPREAD, **changes})


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        steps: timed steps of each side, by rows in the batch; the embedded model takes four times as many.
        warm_up: steps before them.
        prompt: tokens in the cache before the first.
        larger: shape of the larger model.
    """

    steps: Mapping[int, int]
    warm_up: int = 4
    prompt: int = 64
    larger: LlamaConfig = field(default_factory=llama)


QUICK = Sizes(steps={1: 50, 32: 16})
FULL = Sizes(steps={1: 300, 32: 100})


def run(quick: bool) -> list[Row]:
    """All rows: on a CPU, and on a GPU where there is one."""
    return measure(QUICK if quick else FULL)


def measure(sizes: Sizes, *, seed: int = 7) -> list[Row]:
    """All rows, of any size."""
    return [
        _row(name, base, device, batch, steps, static, sizes, seed)
        for device in (("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))
        for name, base in (
            (EMBEDDED, load("tiny", dtype="float32", device=device)[0]),
            _larger(sizes.larger, device, seed),
        )
        for batch, steps in sizes.steps.items()
        for static in STATIC
    ]


def _row(
    name: str, base: Any, device: str, batch: int, steps: int, static: tuple[float, float], sizes: Sizes, seed: int
) -> Row:
    embedded = name == EMBEDDED
    steps *= 4 if embedded else 1
    heads = AutoDecoModelForCausalLM.attach(base, _heads(output_width(base), seed))
    with _one_thread():
        ours, peer = _in_turns(
            (_steps(heads, (1.0, 1.0), batch, steps, sizes), _steps(base, static, batch, steps, sizes)),
            steps=steps,
            warm_up=sizes.warm_up,
            clock=_wall_of_gpu if device == "cuda" else time.thread_time,
        )
    ratio, low, high = ratio_of_medians(ours, peer, seed=seed)
    return Row(
        bench="heads_overhead",
        case=f"{name}, batch {batch}, {device}",
        metric=f"{'wall' if device == 'cuda' else 'CPU'} time of a decoding step",
        unit="ms",
        ours=median(ours) * 1e3,
        peer=median(peer) * 1e3,
        peer_name=f"no heads, T={static[0]:g}, top_p={static[1]:g}",
        ratio=ratio,
        low=low,
        high=high,
        n=steps,
        seeds=(seed,),
        versions=versions("torch", "transformers"),
        target=None if embedded else TARGET,
    )


def _larger(config: LlamaConfig, device: str, seed: int) -> tuple[str, LlamaForCausalLM]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        nn.init.normal_(model.lm_head.weight, std=_PEAKED * _SPREAD)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"random Llama of {size:.0f} M, vocabulary {config.vocab_size}", model.to(device)


def _heads(width: int, seed: int) -> Heads:
    """Fresh heads whose decisions are about those of trained ones: the first of STATIC."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads(HeadsConfig(hidden_size=width))
    temperature, top_p = STATIC[0]
    for head, share in ((heads.temp_head, temperature / MAX_TEMPERATURE), (heads.top_p_head, top_p)):
        assert head is not None
        last = head.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, math.log(share / (1 - share)))
    return heads.eval()


def _steps(
    model: Any, setting: tuple[float, float], batch: int, steps: int, sizes: Sizes
) -> Iterator[list[tuple[int, int]]]:
    """A generation of so many steps behind its prefill, not begun."""
    temperature, top_p = setting
    # One prompt for all rows, so that the prefill is done once; their seeds lead them apart.
    prompt = tuple(torch.randint(10, 100, (sizes.prompt,), generator=torch.Generator().manual_seed(0)).tolist())
    rows = [
        generate.Row(
            prompt_ids=prompt,
            max_tokens=1 + sizes.warm_up + steps,
            temperature=temperature,
            top_p=top_p,
            seed=number,
        )
        for number in range(batch)
    ]
    return generate.generate(model, rows, eos_ids=frozenset())


def _in_turns(
    sides: tuple[Iterator[Any], Iterator[Any]], *, steps: int, warm_up: int, clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of each step of both, who is first alternating."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(1 + warm_up + steps):
        for side in (0, 1) if turn % 2 else (1, 0):
            began = clock()
            next(sides[side])
            taken[side].append(clock() - began)
    return taken[0][1 + warm_up :], taken[1][1 + warm_up :]


def _wall_of_gpu() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
