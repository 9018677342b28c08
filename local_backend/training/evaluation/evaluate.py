"""What heads buy on tasks: their score beside those of other ways to decode, on the same held-out prompts, with paired intervals.

Here are the means: ways to decode, an exam of prompts and samples, and differences. What heads are compared with is in `baselines`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from local_backend.heads import Heads
from local_backend.loading import end_tokens
from local_backend.samplers import Sampler, temperature, top_p
from local_backend.training.data import seed_of
from local_backend.training.evaluation.rollout import Decoder, Drawn, draw
from local_backend.training.evaluation.tasks import Task
from local_backend.training.readout import Readout

_RESAMPLES = 2000
_ROWS = 384
"""Samples drawn at once."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to decode.

    Attributes:
        name: for reports.
        decode: the rule.
        greedy: every sample of a prompt is the same, so one is drawn and stands for all.
    """

    name: str
    decode: Decoder
    greedy: bool = False

    @classmethod
    def sampler(cls, text: str, name: str | None = None) -> Method:
        """A rule as `Sampler.parse` reads it."""
        rule = Sampler.parse(text)
        return cls(name=name or text, decode=lambda _, logits: rule(logits), greedy=text == "temperature=0")

    @classmethod
    def heads(cls, heads: Heads, name: str) -> Method:
        """Heads, as an engine decodes them."""

        def decode(hidden: Tensor, logits: Tensor) -> Tensor:
            decision = heads(hidden.to(logits.device), logits)
            return top_p(temperature(logits, decision.temperature), decision.top_p)

        return cls(name=name, decode=decode)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One way to decode on one task, by prompt.

    Attributes:
        scores: mean score over the disjoint sets of n samples.
        right: share of right samples (pass@1); empty where a task has no checker.
        right_once: whether any of the samples is right (pass@k, k the number of samples); likewise.
        different: share of the samples that are different texts.
        tokens: mean length of a sample.
    """

    scores: tuple[float, ...]
    right: tuple[float, ...]
    right_once: tuple[float, ...]
    different: tuple[float, ...]
    tokens: tuple[float, ...]


Measure = Callable[[TaskResult], Sequence[float]]
"""Which of the numbers by prompt is looked at."""
MEASURES: Mapping[str, Measure] = {
    "score": lambda task: task.scores,
    "pass@1": lambda task: task.right,
    "pass@k": lambda task: task.right_once,
    "different answers": lambda task: task.different,
    "tokens": lambda task: task.tokens,
}
"""Everything that is looked at, by name."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One way to decode on all tasks; every task has the same weight."""

    name: str
    tasks: Mapping[str, TaskResult]

    @property
    def score(self) -> float:
        """Mean over tasks of the mean score."""
        return self.mean(lambda task: task.scores)

    def mean(self, measure: Measure) -> float:
        """Mean over tasks of a mean over prompts; tasks that lack the measure are left out."""
        return fmean(fmean(found) for task in self.tasks.values() if (found := measure(task)))


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A base and the tasks it is measured on.

    Attributes:
        base: any Hugging Face causal LM.
        tokenizer: its tokenizer.
        tasks: with held-out prompts.
        samples: samples a prompt, at least any task's n; None draws n.
        seed: of the samples. A sample's random numbers follow from it, the task, the prompt and the sample's place, whatever the method.
    """

    base: Any
    tokenizer: Any
    tasks: Sequence[Task]
    samples: int | None = None
    seed: int = 0

    def measure(self, method: Method) -> Result:
        """Draw, score and count."""
        return Result(name=method.name, tasks={task.name: self._task(task, method) for task in self.tasks})

    def decisions(self, heads: Heads) -> tuple[float, float]:
        """Mean T and mean P of heads over the tokens they draw; every task has the same weight."""
        readout = Readout(self.base)
        means = []
        for task in self.tasks:
            drawn = self._draw(
                task, Method.heads(heads, ""), [(place, 0) for place in range(len(task.prompts))], keep_hidden=True
            )
            assert drawn.hidden is not None
            hidden = drawn.hidden[drawn.live]
            with torch.no_grad():
                means.append(torch.stack(heads(hidden, readout.logits(hidden))).mean(dim=1))
        heat, mass = torch.stack(means).mean(dim=0).tolist()
        return heat, mass

    def _task(self, task: Task, method: Method) -> TaskResult:
        many = max(task.n, self.samples or task.n)
        places = [
            (place, sample) for place in range(len(task.prompts)) for sample in range(1 if method.greedy else many)
        ]
        texts: list[str] = []
        lengths: list[int] = []
        for start in range(0, len(places), _ROWS):
            drawn = self._draw(task, method, places[start : start + _ROWS])
            texts += drawn.texts(self.tokenizer)
            lengths += drawn.live.sum(dim=1).tolist()
        rows = []
        each = 1 if method.greedy else many
        for place, prompt in enumerate(task.prompts):
            own = slice(place * each, (place + 1) * each)
            rows.append(_judged(task, prompt.record, texts[own] * (many if method.greedy else 1), lengths[own]))
        scores, right, once, different, tokens = zip(*rows, strict=True)
        checked = task.check is not None
        return TaskResult(
            scores=scores,
            right=right if checked else (),
            right_once=once if checked else (),
            different=different,
            tokens=tokens,
        )

    def _draw(
        self, task: Task, method: Method, places: Sequence[tuple[int, int]], *, keep_hidden: bool = False
    ) -> Drawn:
        return draw(
            self.base,
            [task.prompts[place].ids for place, _ in places],
            [seed_of(self.seed, task.name, place, sample) for place, sample in places],
            method.decode,
            max_tokens=task.max_tokens,
            end_ids=end_tokens(self.base, self.tokenizer),
            keep_hidden=keep_hidden,
        )


def _judged(
    task: Task, record: Any, samples: Sequence[str], lengths: Sequence[int]
) -> tuple[float, float, float, float, float]:
    """One prompt's numbers in the order of `TaskResult`."""
    sets = [samples[start : start + task.n] for start in range(0, len(samples) - task.n + 1, task.n)]
    right = [] if task.check is None else [float(task.check(record, sample)) for sample in samples]
    return (
        fmean(task.score(record, each) for each in sets),
        fmean(right or [0.0]),
        max(right, default=0.0),
        len(set(samples)) / len(samples),
        fmean(lengths),
    )


def best_of_each(results: Sequence[Result]) -> dict[str, Result]:
    """For each task the result with the best mean score; the first of equals."""
    return {task: max(results, key=lambda result: fmean(result.tasks[task].scores)) for task in results[0].tasks}


def oracle(results: Sequence[Result], name: str = "per-task oracle") -> Result:
    """For each task the best of some results on the very prompts it is judged on: a ceiling for one setting a task."""
    return Result(name=name, tasks={task: best.tasks[task] for task, best in best_of_each(results).items()})


def difference(
    ours: Sequence[Result],
    theirs: Sequence[Result],
    measure: Measure = lambda task: task.scores,
    *,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Ours minus theirs, mean over tasks, with a 95 % bootstrap interval over each task's prompts: (mean, low, high).

    Args:
        ours: one result, or one for each training seed; a prompt's number is the mean over them.
        theirs: likewise, on the same prompts.
        measure: what is compared; tasks that lack it are left out.
        seed: of the bootstrap.
    """
    generator = torch.Generator().manual_seed(seed)
    means, resampled = [], torch.zeros(_RESAMPLES, dtype=torch.float64)
    for name, task in theirs[0].tasks.items():
        if not measure(task):
            continue
        mine, other = (
            torch.tensor([measure(each.tasks[name]) for each in those], dtype=torch.float64).mean(dim=0)
            for those in (ours, theirs)
        )
        gaps = mine - other
        means.append(float(gaps.mean()))
        resampled += gaps[torch.randint(len(gaps), (_RESAMPLES, len(gaps)), generator=generator)].mean(dim=1)
    low, high = (resampled / len(means)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return fmean(means), low, high
