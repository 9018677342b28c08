"""The seam between HTTP and the model: one thread turns requests into text, one at a time, in the order they came.

The server knows `submit`, `cancel` and the pieces that come back; how they are made may change behind it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from local_backend.generate import Row, Token, generate, has_heads
from local_backend.textstream import FinishReason, TextStream

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "stopped"]


class QueueFull(Exception):
    """As many requests are waiting as the server allows."""


class WorkerStopped(Exception):
    """The worker takes no requests: it is shutting down, or it died."""


class GenerationFailed(Exception):
    """The model raised while it worked on this request; others are not affected."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What to generate: one row per sample, all with the same prompt, and the strings that end a text."""

    rows: tuple[Row, ...]
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """New text of one row, certain not to change, and the tokens the row has taken since its last piece."""

    row: int
    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None


@dataclass(kw_only=True)
class Totals:
    """What the worker has done since it started; the numbers every bill is compared with.

    Attributes:
        requests: the model started on.
        prompt_tokens: once per request.
        completion_tokens: of all samples.
        temperature: sum over the completion tokens of what each was drawn with.
        top_p: likewise.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 0.0


class Job:
    """A submitted generation: iterate it for the pieces of each step, until every row has finished.

    Raises from the iteration: GenerationFailed, WorkerStopped.
    """

    def __init__(self, generation: Generation, worker: Worker) -> None:
        self.generation = generation
        self.cancelled = False
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[list[Piece] | Exception | None] = asyncio.Queue()

    def __aiter__(self) -> Job:
        return self

    async def __anext__(self) -> list[Piece]:
        step = await self._steps.get()
        if step is None:
            raise StopAsyncIteration
        if isinstance(step, Exception):
            raise step
        return step

    def cancel(self) -> None:
        """Give the request up: it leaves the queue now, or the model at its next token, and the iteration ends.

        Call it from the event loop; harmless when the job has finished.
        """
        self.cancelled = True
        self._worker.forget(self)
        self._steps.put_nowait(None)

    def deliver(self, step: list[Piece] | Exception | None) -> None:
        """Hand a step (None = the end) to the event loop; called by the worker's thread."""
        # A loop that is gone has nobody left to read.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._steps.put_nowait, step)


class Worker:
    """Runs a model in its own thread.

    Args:
        model: a Hugging Face causal LM in eval mode.
        tokenizer: its tokenizer.
        eos_ids: tokens that end an answer.
        max_queue: requests that may wait behind the running one.
    """

    def __init__(self, model: Any, tokenizer: Any, *, eos_ids: frozenset[int], max_queue: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._max_queue = max_queue
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="selfreg-worker", daemon=True)
        self.started = threading.Event()
        self.state: State = "loading"
        self.totals = Totals()

    @property
    def heads(self) -> bool:
        """Whether the model decides temperature and top-p for itself."""
        return has_heads(self._model)

    @property
    def contained_decisions(self) -> int:
        """Decisions of the heads that were no numbers and became T = 1, P = 1."""
        return int(self._model.contained) if self.heads else 0

    @property
    def running(self) -> int:
        """Requests the model works on that somebody still waits for: 0 or 1."""
        job = self._running
        return int(job is not None and not job.cancelled)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread; `started` is set when its warm-up succeeded or failed."""
        self._thread.start()

    def close(self) -> None:
        """Give up the running request at its next token and all waiting ones; returns when the thread has ended."""
        with self._changed:
            self._closing = True
            if self._running is not None:
                self._running.cancelled = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, generation: Generation) -> Job:
        """Queue a generation; call it from a running event loop.

        Raises:
            QueueFull: try again later.
            WorkerStopped: this server will not answer any more.
        """
        job = Job(generation, self)
        with self._changed:
            if self._closing or self.state == "stopped":
                raise WorkerStopped("the worker has stopped")
            if len(self._waiting) >= self._max_queue:
                raise QueueFull(f"{len(self._waiting)} requests are waiting")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def forget(self, job: Job) -> None:
        """Take a job out of the queue, if it is still there."""
        with self._changed, suppress(ValueError):
            self._waiting.remove(job)

    def _run(self) -> None:
        try:
            self._warm_up()
            self.state = "ready"
            self.started.set()
            while (job := self._next()) is not None:
                self._serve(job)
        except BaseException:  # The thread ends either way; it must never end with requests left hanging.
            logger.critical("the generation thread died", exc_info=True)
        finally:
            with self._changed:
                self.state = "stopped"
                left = [*([self._running] if self._running else []), *self._waiting]
                self._waiting.clear()
                self._running = None
            for job in left:
                job.deliver(WorkerStopped("the worker stopped before the answer was complete"))
            self.started.set()

    def _warm_up(self) -> None:
        # The first forward pass allocates and compiles; better before "ready" than inside a request.
        row = Row(prompt_ids=(0,), max_tokens=1, temperature=0.0, seed=0)
        for _ in generate(self._model, [row], eos_ids=self._eos_ids):
            pass

    def _next(self) -> Job | None:
        with self._changed:
            self._running = None
            while not self._waiting and not self._closing:
                self._changed.wait()
            if self._closing:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _serve(self, job: Job) -> None:
        try:
            self._generate(job)
        except Exception as error:
            logger.exception("generation failed")
            job.deliver(GenerationFailed(f"{type(error).__name__} in the model"))
        else:
            job.deliver(WorkerStopped("the worker is shutting down") if self._closing and job.cancelled else None)

    def _generate(self, job: Job) -> None:
        rows, stop = job.generation.rows, job.generation.stop
        texts = [TextStream(self._decode, stop) for _ in rows]
        counts = [0] * len(rows)
        pending: list[list[Token]] = [[] for _ in rows]  # taken since the last piece
        open_rows = set(range(len(rows)))
        self.totals.requests += 1
        self.totals.prompt_tokens += len(rows[0].prompt_ids)

        def should_stop(row: int) -> bool:
            return job.cancelled or row not in open_rows

        for step in generate(self._model, rows, eos_ids=self._eos_ids, should_stop=should_stop):
            pieces = []
            for token in step:
                row = token.row
                counts[row] += 1
                pending[row].append(token)
                ended = token.id in self._eos_ids
                text = "" if ended else texts[row].push(token.id)
                reason: FinishReason | None = None
                if ended or texts[row].stopped or counts[row] == rows[row].max_tokens:
                    text += texts[row].finish()
                    reason = "stop" if ended or texts[row].stopped else "length"
                    open_rows.discard(row)
                if text or reason is not None:
                    pieces.append(Piece(row=row, text=text, tokens=tuple(pending[row]), finish_reason=reason))
                    pending[row].clear()
            # Counted before the client can see them: a reader of both never finds the bill ahead of the count.
            self.totals.completion_tokens += len(step)
            self.totals.temperature += sum(token.temperature for token in step)
            self.totals.top_p += sum(token.top_p for token in step)
            if pieces:
                job.deliver(pieces)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
