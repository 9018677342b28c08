"""The task that ``selfreg demo tune`` tunes: a folder of four small files, as a user would write them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from selfreg_sdk.cli.families import held_out_prompts


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a family is tuned.

    Attributes:
        metric: what n samples are worth.
        samples: the space of n.
        max_tokens: more than any right answer takes.
        inference_budget: USD that a request may cost on average, at the demo's made-up price.
        ballot: whether the answers vote by their verdict.
    """

    metric: str
    samples: str
    max_tokens: int
    inference_budget: str
    ballot: bool = False


KINDS = {
    "code": Kind(metric="success", samples="[1, 2, 4, 8]", max_tokens=40, inference_budget="0.0001"),
    "maths": Kind(metric="vote", samples="[1, 3]", max_tokens=64, inference_budget="0.0001", ballot=True),
    "reasoning": Kind(metric="first", samples="1", max_tokens=80, inference_budget="0.00005"),
    "translation": Kind(metric="first", samples="1", max_tokens=64, inference_budget="0.00005"),
    "extraction": Kind(metric="first", samples="1", max_tokens=96, inference_budget="0.00006"),
}
"""The families whose answers are right or wrong one by one."""

PRICES = """\
# A made-up price: with it there is something to see in the ledger.
prices:
  {model}: {{input_usd_per_mtok: "0.10", output_usd_per_mtok: "0.40"}}
"""

SCORES = """\
\"\"\"How answers are scored: by the checker of the family, in code.\"\"\"

from local_backend.tiny.families import FAMILIES

FAMILY = FAMILIES["{family}"]


def right(answer, example):
    return FAMILY.check(example.fields["prompt"], answer)
"""

BALLOT = """\


def ballot(answer):
    return FAMILY.verdict(answer) or ""
"""

TASK = """\
# What `selfreg demo tune` tunes. With --folder DIR it is kept: serve the model, change what you like, and tune again:
#
#   selfreg serve {model} &
#   selfreg tune DIR/task.yaml --name again --base-url http://127.0.0.1:8000/v1

name: demo-{family}
examples: examples.jsonl
prompts: "{{prompt}}"
models: [{model}]
prices: prices.yaml

space:
  temperature: [0, 0.4, 0.8, 1.2]
  n: {samples}
  max_tokens: {max_tokens}

metric:
  name: {metric}
  scorer: "scores:right"{vote}

# The server's default settings: nothing but a cap on the length is sent.
baseline: {{max_tokens: {max_tokens}}}

inference_budget: {inference_budget} USD
budget: {budget} USD
holdout: 0.5
seed: {seed}
workers: 4
"""


def write_demo_task(folder: Path, family: str, *, model: str, examples: int, budget: str, seed: int) -> Path:
    """Write the folder's files; the task file among them.

    Args:
        examples: prompts that the model was not trained on, with no two alike.
    """
    kind = KINDS[family]
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [prompt.text for prompt in held_out_prompts(examples, seed=seed, family=family)]
    file = folder / "task.yaml"
    written = {
        "examples.jsonl": "".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in prompts),
        "prices.yaml": PRICES.format(model=model),
        "scores.py": SCORES.format(family=family) + (BALLOT if kind.ballot else ""),
        file.name: TASK.format(
            model=model,
            family=family,
            samples=kind.samples,
            max_tokens=kind.max_tokens,
            metric=kind.metric,
            vote='\n  vote_key: "scores:ballot"' if kind.ballot else "",
            inference_budget=kind.inference_budget,
            budget=budget,
            seed=seed,
        ),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    return file
