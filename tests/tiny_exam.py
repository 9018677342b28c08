"""An exam of four problems with recorded answers, small enough to replay in tests."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from bench import replay_data

ARMS = (("cheap", "plain"), ("cheap", "steps"), ("dear", "steps"))
TEMPERATURES = (0.0, 0.5, 1.0)
PROBLEMS = (3, 5, 8, 13)
SAMPLES = 5
PRICES = {"cheap": [0.0015, 0.002], "dear": [0.03, 0.06]}
LATE, MISSING = ("cheap", "steps", 0.5, 5, 1), ("dear", "steps", 1.0, 8, 4)
"""A sample whose answer comes late in a long text; a slot without sample."""


def rows() -> list[dict[str, Any]]:
    dice, rows = random.Random(1), []
    for (model, prompt), temperature, problem, sample in itertools.product(
        ARMS, TEMPERATURES, PROBLEMS, range(SAMPLES)
    ):
        key = (model, prompt, temperature, problem, sample)
        if key == MISSING:
            continue
        said = "AB"[dice.random() > 0.6] if dice.random() < 0.9 else ""
        lead = "because " * dice.randrange(2, 9)
        text = f'{lead}Action: Answer("{said}")' if said else lead
        if key == LATE:
            said, text = "A", "because " * 50 + 'Action: Answer("A")'
        rows.append(
            {
                "model": model,
                "prompt": prompt,
                "exam": replay_data.EXAM,
                "temperature": temperature,
                "problem_id": problem,
                "sample_idx": sample,
                "answer": said,
                "correct": int(said == "A"),
                "n_chars": len(text),
                "answer_end_char": text.index(said + '")') + 3 if said else -1,
                "completion_tokens_est": len(text) / 4,
                "prompt_tokens": {"cheap": 20, "dear": 90}[model] + problem + 10 * (prompt == "steps"),
                "n_returned": SAMPLES,
                "text": text,
            }
        )
    return rows


def write(home: Path) -> Path:
    """The exam as a data folder."""
    folder = home / replay_data.FOLDER
    folder.mkdir(parents=True)
    made = rows()
    for name, left_out in (("samples", {"text"}), ("text", {"answer", "correct", "n_chars"})):
        parquet.write_table(
            pa.Table.from_pylist([{k: v for k, v in row.items() if k not in left_out} for row in made]),
            folder / f"{name}.parquet",
        )
    (folder / "pricing.json").write_text(json.dumps({"unit": "USD per 1000 tokens", "price": PRICES}))
    return home
