"""The recorded answers of jhu_temperature as compact arrays, one exam at a time, and what a seed makes of them.

Source: github.com/matthewrenze/jhu-llm-temperature (BSD-2). Of each cell (model, prompt, temperature) and problem there are up
to ten samples. Slots without one count as wrong, silent and billed at their prompt. Needs pyarrow.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.replay_scores import answer_line, ballot

FOLDER = Path("replay") / "jhu_temperature"
"""Where the data set lies in a data folder."""
EXAM = "comprehensive-100"
NO_ANSWER = -1
NEVER = 10**9
"""Completion tokens after which a sample without an answer gives one."""
PICO = 10**12

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Cell = tuple[str, str, float]
"""Model, prompt, temperature."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """All samples of an exam, padded to K slots.

    Shapes: C cells, P problems, K slots.

    Attributes:
        cells, problems, letters: what the axes and the codes of ``answer`` stand for.
        answer: code of the answer, NO_ANSWER where there is none.
        tokens: completion tokens, 0 where there is no sample.
        need: completion tokens until the answer is out.
        prompt: (C, P) prompt tokens that one request is billed.
        estimate: (C, P) prompt tokens as the caller counts them before any call, with one model's tokenizer for all.
        price: (C, 2) pico-USD per prompt and per completion token.
        key: (P,) code of the right answer.
        text: the answers' text, None where it was not read.
    """

    cells: tuple[Cell, ...]
    problems: tuple[int, ...]
    letters: tuple[str, ...]
    answer: Ints
    tokens: Ints
    need: Ints
    prompt: Ints
    estimate: Floats
    price: Ints
    key: Ints
    text: npt.NDArray[np.object_] | None

    @property
    def samples(self) -> int:
        """K: samples of a cell on a problem, and with that the largest n."""
        return int(self.tokens.shape[2])

    @property
    def longest(self) -> int:
        """A max_tokens that cuts nothing."""
        return int(self.tokens.max())

    def content(self, cell: int, problem: int, slot: int, max_tokens: int) -> str:
        """What a sample says within ``max_tokens``; its ballot is the recorded answer, or none if that comes later.

        That is the text up to there. Where the study's authors read something else from the text than its last
        ``Answer(...)``, it is the line that gives what they read: their label is what counts.
        """
        said = ""
        if self.need[cell, problem, slot] <= max_tokens:
            said = self.letters[int(self.answer[cell, problem, slot])]
        if self.text is None:
            return answer_line(said)
        text, tokens = str(self.text[cell, problem, slot] or ""), int(self.tokens[cell, problem, slot])
        if tokens > max_tokens:
            text = text[: max_tokens * len(text) // tokens]
        return text if ballot(text) == said else answer_line(said)


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a seed decides: (tuning, held_out) indices of problems, and ``order`` (C, P, K), the slots in the order in which
    a cell's samples of a problem are drawn."""

    tuning: Ints
    held_out: Ints
    order: Ints


def missing(data: Path | None) -> str | None:
    """Why the recorded answers cannot be replayed, None if they can."""
    if data is None:
        return "no data folder given: pass --data DIR, which holds replay/jhu_temperature"
    absent = [name for name in ("samples.parquet", "pricing.json") if not (data / FOLDER / name).is_file()]
    if absent:
        return f"{data / FOLDER} lacks {' and '.join(absent)}: pass --data DIR, which holds {FOLDER}"
    if find_spec("pyarrow") is None:
        return "pyarrow is not installed: pip install 'selfreg[bench]'"
    return None


def load(data: Path, *, exam: str = EXAM, texts: bool = False) -> Recorded:
    """Read an exam from a data folder.

    Args:
        data: the folder that holds replay/jhu_temperature.
        texts: read the answers' text too, if text.parquet is there.

    Raises:
        FileNotFoundError: something is missing; the message says what (see `missing`).
    """
    if reason := missing(data):
        raise FileNotFoundError(reason)
    rows = _read(data / FOLDER / "samples.parquet", exam)
    cells = sorted({(row["model"], row["prompt"], row["temperature"]) for row in rows})
    problems = sorted({row["problem_id"] for row in rows})
    at, of = {cell: i for i, cell in enumerate(cells)}, {problem: i for i, problem in enumerate(problems)}
    slots = Counter((row["model"], row["prompt"], row["temperature"], row["problem_id"]) for row in rows)
    shape = (len(cells), len(problems), max(slots.values()))
    answer, tokens = np.full(shape, NO_ANSWER), np.zeros(shape, np.int64)
    need, prompt = np.full(shape, NEVER), np.zeros(shape[:2], np.int64)
    used, codes = np.zeros(shape[:2], np.int64), dict[str, int]()
    right = [Counter[int]() for _ in problems]
    where: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    for row in rows:
        c, p = at[row["model"], row["prompt"], row["temperature"]], of[row["problem_id"]]
        k = int(used[c, p])
        used[c, p] += 1
        where[_key(row)] = (c, p, k)
        length, end = row["completion_tokens_est"], row["answer_end_char"]
        tokens[c, p, k], prompt[c, p] = math.ceil(length), row["prompt_tokens"]
        if row["answer"] and end >= 0:
            answer[c, p, k] = codes.setdefault(row["answer"], len(codes))
            need[c, p, k] = min(math.ceil(end * length / max(row["n_chars"], 1)), tokens[c, p, k])
            right[p][answer[c, p, k]] += row["correct"]
    text: npt.NDArray[np.object_] | None = None
    if texts and (path := data / FOLDER / "text.parquet").is_file():
        text = np.full(shape, "", object)
        for row in _read(path, exam):
            if _key(row) in where:
                text[where[_key(row)]] = row["text"]
    _fill(prompt, cells)
    rates = json.loads((data / FOLDER / "pricing.json").read_text(), parse_float=Decimal)["price"]
    return Recorded(
        cells=tuple(cells),
        problems=tuple(problems),
        letters=tuple(codes),
        answer=answer,
        tokens=tokens,
        need=need,
        prompt=prompt,
        estimate=_estimate(prompt, cells),
        price=np.array([[int(Decimal(rate) * PICO / 1000) for rate in rates[model]] for model, _, _ in cells]),
        key=np.array([seen.most_common(1)[0][0] if seen else NO_ANSWER for seen in right]),
        text=text,
    )


def split(recorded: Recorded, seed: int) -> Split:
    """Half of the problems to tune on, half to test on, and the order of draws."""
    dice = np.random.default_rng([77, seed])
    problems = dice.permutation(len(recorded.problems))
    half = len(problems) // 2
    return Split(
        tuning=problems[:half], held_out=problems[half:], order=np.argsort(dice.random(recorded.tokens.shape), axis=-1)
    )


def _read(path: Path, exam: str) -> list[dict[str, Any]]:
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.read_table(path, filters=[("exam", "=", exam)]).to_pylist()
    return rows


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "prompt", "temperature", "problem_id", "sample_idx"))


def _fill(prompt: Ints, cells: Sequence[Cell]) -> None:
    """Bill a cell that has no sample of a problem like its neighbours in temperature, an arm (model, prompt) that has none
    in proportion to the most complete arm."""
    arms: dict[tuple[str, str], list[int]] = {}
    for at, (model, name, _) in enumerate(cells):
        arms.setdefault((model, name), []).append(at)
    for own in arms.values():
        heard = [[value for value in column if value] or [0] for column in prompt[own].T]
        usual = np.array([np.median(values) for values in heard]).astype(np.int64)
        prompt[own] = np.where(prompt[own] > 0, prompt[own], usual)
    whole = max(arms.values(), key=lambda own: ((prompt[own] > 0).all(axis=0).sum(), -prompt[own].std(axis=0).sum()))
    for own in arms.values():
        both = (prompt[own[0]] > 0) & (prompt[whole[0]] > 0)
        share = prompt[own][:, both].mean() / prompt[whole[0]][both].mean()
        prompt[own] = np.where(prompt[own] > 0, prompt[own], (prompt[whole[0]] * share).astype(np.int64))


def _estimate(prompt: Ints, cells: Sequence[Cell]) -> Floats:
    """Prompt tokens of every cell by the tokenizer of the model that was asked with the most prompts."""
    asked = {model: {cell[1] for cell in cells if cell[0] == model} for model, _, _ in cells}
    counter = max(sorted(asked), key=lambda model: len(asked[model]))
    counted: dict[str, Floats] = {}
    for name in {cell[1] for cell in cells}:
        model = counter if name in asked[counter] else min(m for m in asked if name in asked[m])
        counted[name] = np.median(prompt[[i for i, c in enumerate(cells) if c[:2] == (model, name)]], axis=0)
    return np.array([counted[name] for _, name, _ in cells])
