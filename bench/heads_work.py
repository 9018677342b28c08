"""The work behind `heads_quality`, one piece at a time: heads are trained and ways to decode are measured, each once, and kept on disk.

A piece is a frozen object that says all that decides it, and its outcome is kept under that and a digest of the code. What is missing
is made by as many processes as asked; a stop loses the measurements under way, training goes on from its state in the next call.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers.utils import logging

from bench.rows import versions
from local_backend.checkpoint.load import load_heads
from local_backend.heads import Heads
from local_backend.loading import load
from local_backend.tiny import weights_path
from local_backend.training.config import TrainConfig
from local_backend.training.evaluation.evaluate import Exam, Method, Result, TaskResult
from local_backend.training.evaluation.tasks import embedded_tasks
from local_backend.training.reinforce.reward import reward
from local_backend.training.reinforce.reward_config import RewardConfig
from local_backend.training.train import train
from local_backend.training.trajectories import SampleConfig, embedded_prompts, sample

_BACKEND = Path(__file__).parents[1] / "local_backend"
_CODE = ("heads.py", "sampling.py", "samplers.py", "training/**/*.py", "blocks.py", "tiny/families/*.py")
_TRAINING_PROMPTS = 400
"""Prompts a family that training on the reward draws from."""
_CORPUS_SEED, _LONGEST, _ROWS = 100, 128, 192


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The right ones of the base's answers at T = 1, as AutoDeco is trained on them.

    Attributes:
        prompts: how many a family, each answered four times.
    """

    prompts: int

    def path(self, cache: Path) -> Path:
        """Where it is kept."""
        return cache / f"right-answers-{self.prompts}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Heads to be trained: on a corpus with the published losses, or without one on the families' scores.

    Attributes:
        corpus: made before.
        seed: of everything.
        steps: of training.
    """

    corpus: Corpus | None = None
    seed: int
    steps: int

    def folder(self, cache: Path) -> Path:
        """Where they are kept."""
        kind = "reward" if self.corpus is None else f"cross-entropy-{self.corpus.prompts}"
        return cache / f"{kind}-{self.steps}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A way to decode to be measured on all families.

    Attributes:
        split: whose prompts.
        prompts: how many a family.
        samples: samples a prompt; None is what a family's aggregation takes.
        how: a rule as `Sampler.parse` reads it, or heads.
    """

    split: Literal["validation", "test"]
    prompts: int
    samples: int | None
    how: str | Trained


Piece = Corpus | Trained | Measured


class Kept:
    """Outcomes by piece: a JSON line each in the folder of this state of the code.

    Args:
        cache: folder for all states of the code.
    """

    def __init__(self, cache: Path) -> None:
        self.folder = cache / f"heads-{_digest()}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.folder / "outcomes.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._outcomes: dict[str, dict[str, Any]] = {key: outcome for key, outcome in map(json.loads, lines)}

    def make(self, what: str, pieces: Iterable[Piece], jobs: int) -> None:
        """Make what is missing of some pieces, none of which needs another of them."""
        missing = [piece for piece in dict.fromkeys(pieces) if _key(piece) not in self._outcomes]
        if not missing:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task(what, total=len(missing))
            for piece, outcome in _all_made(missing, self.folder, jobs):
                self._add(piece, outcome)
                progress.advance(bar)

    def result(self, piece: Measured, name: str) -> Result:
        """What was measured."""
        tasks = self._outcomes[_key(piece)]["tasks"]
        return Result(
            name=name,
            tasks={task: TaskResult(**{key: tuple(of) for key, of in each.items()}) for task, each in tasks.items()},
        )

    def outcome(self, piece: Piece) -> Mapping[str, Any]:
        """Everything that is known of a piece."""
        return self._outcomes[_key(piece)]

    def heads(self, of: Trained) -> Heads:
        """Trained heads."""
        return load_heads(of.folder(self.folder))[0].eval()

    def _add(self, piece: Piece, outcome: dict[str, Any]) -> None:
        self._outcomes[_key(piece)] = outcome
        with self._file.open("a") as file:
            file.write(json.dumps([_key(piece), outcome]) + "\n")


def _all_made(pieces: Sequence[Piece], folder: Path, jobs: int) -> Iterator[tuple[Piece, dict[str, Any]]]:
    """Outcomes as they come; with one job they are made in this process."""
    if jobs == 1:
        yield from ((piece, _made(piece, folder)) for piece in pieces)
        return
    spawn = multiprocessing.get_context("spawn")
    with (
        _single_threaded(),
        ProcessPoolExecutor(jobs, mp_context=spawn, initializer=logging.disable_progress_bar) as workers,
    ):
        waiting = {workers.submit(_made, piece, folder): piece for piece in pieces}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes that start within it have one thread each: the model is so small that threads wait for one another."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _key(piece: Piece) -> str:
    return json.dumps(asdict(piece))


def _digest() -> str:
    """Of everything that outcomes follow from beside the piece."""
    found = hashlib.sha256(repr(sorted(versions("torch", "transformers").items())).encode())
    code = [path for pattern in _CODE for path in sorted(_BACKEND.glob(pattern))]
    for path in (*code, Path(__file__), weights_path() / "model.safetensors"):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _made(piece: Piece, folder: Path) -> dict[str, Any]:
    base, tokenizer = load("tiny", device="cpu")
    started = time.process_time()
    if isinstance(piece, Corpus):
        found = _right_answers(piece, folder, base, tokenizer)
    elif isinstance(piece, Trained):
        found = _train(piece, folder, base, tokenizer)
    else:
        found = _measure(piece, folder, base, tokenizer)
    return {**found, "seconds": time.process_time() - started}


def _right_answers(piece: Corpus, folder: Path, base: Any, tokenizer: Any) -> dict[str, Any]:
    prompts, check = embedded_prompts(tokenizer, count=piece.prompts, seed=_CORPUS_SEED)
    config = SampleConfig(
        model="tiny", checker="tiny", out=piece.path(folder), max_tokens=_LONGEST, rows=_ROWS, resume=True
    )
    found = sample(base, tokenizer, prompts, check, config)
    return {"kept": found.fates["kept"]}


def _train(piece: Trained, folder: Path, base: Any, tokenizer: Any) -> dict[str, Any]:
    out = piece.folder(folder)
    if piece.corpus is None:
        tasks = embedded_tasks(tokenizer, "train", count=_TRAINING_PROMPTS, seed=piece.seed)
        config = RewardConfig(model="tiny", out=out, steps=piece.steps, seed=piece.seed, resume=True)
        reward(tasks, base, tokenizer, config)
        return {"samples": config.steps * config.prompts * config.samples}
    published = TrainConfig(
        model="tiny",
        data=piece.corpus.path(folder),
        out=out,
        steps=piece.steps,
        seed=piece.seed,
        resume=True,
        validation_fraction=0,
        device="cpu",
    )
    train(published, base=base, tokenizer=tokenizer)
    return {}


def _measure(piece: Measured, folder: Path, base: Any, tokenizer: Any) -> dict[str, Any]:
    tasks = embedded_tasks(tokenizer, piece.split, count=piece.prompts)
    exam = Exam(base=base, tokenizer=tokenizer, tasks=tasks, samples=piece.samples)
    if isinstance(piece.how, str):
        return {"tasks": _plain(exam.measure(Method.sampler(piece.how)))}
    heads = load_heads(piece.how.folder(folder))[0].eval()
    heat, mass = exam.decisions(heads)
    return {"tasks": _plain(exam.measure(Method.heads(heads, ""))), "temperature": heat, "top_p": mass}


def _plain(result: Result) -> dict[str, Any]:
    return {name: asdict(task) for name, task in result.tasks.items()}
