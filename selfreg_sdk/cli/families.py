"""The embedded model's task families, asked of in their own process: the SDK and the backend meet over text only."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from selfreg_sdk.cli.serve import backend_command
from selfreg_sdk.errors import ConfigError

_MODULE = "local_backend.tiny"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A held-out prompt and how its samples are used.

    Attributes:
        aggregation: as ChatSelfReg takes it. A family that judges the whole set asks for "any": all samples count there.
    """

    family: str
    text: str
    aggregation: str


def held_out_prompts(count: int, *, seed: int, family: str | None = None) -> list[Prompt]:
    """``count`` prompts of each family, or of one, none of which the model was trained on."""
    one = [] if family is None else ["--family", family]
    draw = ["--split", "test", "--count", str(count), "--seed", str(seed), *one]
    command = backend_command("tasks", *draw, module=_MODULE)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"the prompts could not be drawn: {done.stderr.strip()[-500:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        Prompt(
            family=row["family"],
            text=row["prompt"],
            aggregation="first"
            if row["n"] == 1
            else f"{'any' if row['aggregation'] == 'best' else row['aggregation']} of {row['n']}",
        )
        for row in rows
    ]


class Judge:
    """Checks answers in code, under the family's aggregation."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def score(self, prompt: Prompt, samples: Sequence[str]) -> float:
        """The score of all samples of one prompt, in [0, 1]."""
        question = {"family": prompt.family, "prompt": prompt.text, "samples": list(samples)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError("the checker ended early")
        return float(json.loads(line)["score"])


@contextmanager
def judge() -> Iterator[Judge]:
    """A running checker."""
    command = backend_command("check", module=_MODULE)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Judge(process)
