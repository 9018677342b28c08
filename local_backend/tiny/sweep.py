"""Measures every family over temperature x top_p under its own aggregation, on held-out test prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from local_backend.generate import Row, generate
from local_backend.tiny.evidence import Cell, Setting
from local_backend.tiny.families import FAMILIES, Family
from local_backend.tiny.tokenizer import render

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
TOP_PS = (0.9, 0.95, 1.0)
PROMPTS = {1: 150, 3: 100, 8: 50}
"""Samples per prompt to prompts per cell."""


def settings(*, quick: bool) -> list[Setting]:
    """The grid. Greedy needs no top_p; a quick sweep skips some temperatures and the middle nucleus."""
    temperatures = (0.0, 0.4, 0.7, 1.0, 1.3) if quick else TEMPERATURES
    grid = product(temperatures, TOP_PS[::2] if quick else TOP_PS)
    return [(temperature, top_p) for temperature, top_p in grid if temperature > 0 or top_p == 1]


class EmbeddedModel:
    """A model folder and the answers it gives."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def answers(
        self,
        prompts: Sequence[str],
        *,
        n: int = 1,
        temperature: float,
        top_p: float = 1.0,
        max_tokens: int,
        planning: bool = False,
    ) -> list[list[str]]:
        """Take n samples for each prompt; the seed depends on the places of prompt and sample alone."""
        rows = [
            Row(
                prompt_ids=tuple(render(self.tokenizer, prompt, planning=planning)),
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=1_000 * place + draw,
            )
            for place, prompt in enumerate(prompts)
            for draw in range(n)
        ]
        ids: list[list[int]] = [[] for _ in rows]
        for step in generate(self.model, rows, eos_ids=frozenset({self.tokenizer.eos_token_id})):
            for token in step:
                ids[token.row].append(token.id)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [texts[start : start + n] for start in range(0, len(texts), n)]


def measure(model: EmbeddedModel, family: Family, prompts: Sequence[str], setting: Setting) -> Cell:
    """One cell: n samples a prompt, scored together and one by one."""
    temperature, top_p = setting
    n = family.aggregation.n
    longest = max(len(family.solve(prompt, Random(0), False)) for prompt in prompts)
    # Greedy samples are all equal: one is drawn and stands for all.
    drawn = model.answers(
        prompts, n=n if temperature else 1, temperature=temperature, top_p=top_p, max_tokens=longest + 16
    )
    by_prompt = [
        (prompt, samples if temperature else samples * n) for prompt, samples in zip(prompts, drawn, strict=True)
    ]
    return Cell(
        family=family.name,
        aggregation=str(family.aggregation),
        temperature=temperature,
        top_p=top_p,
        scores=tuple(family.score(prompt, samples) for prompt, samples in by_prompt),
        accepted=fmean(family.check(prompt, sample) for prompt, samples in by_prompt for sample in samples),
    )


def sweep(model: EmbeddedModel, *, quick: bool = False, report: Callable[[Cell], None] = lambda _: None) -> list[Cell]:
    """Measure every family at every setting; every cell of a family has the same prompts and seeds."""
    cells = []
    for family in FAMILIES.values():
        count = PROMPTS[family.aggregation.n]
        prompts = family.held_out("test", count=count // 3 if quick else count)
        for setting in settings(quick=quick):
            cells.append(measure(model, family, prompts, setting))
            report(cells[-1])
    return cells
