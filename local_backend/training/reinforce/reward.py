"""Trains heads on what the user wants of the answers, by policy gradient; the base stays frozen. Read `reward` from top to bottom.

A step draws groups of samples under the heads (with a noisy P, see `exploration`), scores them in sets (see `credit`) and raises the
probability of the decisions behind samples that did more for their sets than others: REINFORCE with leave-one-out baselines, several
clipped updates on the same samples (Schulman et al. 2017), every task scaled to the same weight (GRPO, Shao et al. 2024, does so by
prompt). Drawing is all the cost: the base runs once for a token, and the updates read the hidden states that it left behind.

From Python, in one process on one device:

    task = Task(name="sums", prompts=prompts, score=right(check), max_tokens=200)
    result = reward([task], base, tokenizer, RewardConfig(model="my/model", out=Path("my-heads")))
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from local_backend.config import SetupError
from local_backend.heads import Heads, HeadsConfig
from local_backend.loading import end_tokens
from local_backend.training.data import seed_of
from local_backend.training.evaluation.rollout import Drawn, draw
from local_backend.training.evaluation.tasks import Prompt, Task
from local_backend.training.gradients import chunk_positions
from local_backend.training.metrics import MetricsLog
from local_backend.training.readout import Readout
from local_backend.training.reinforce.credit import credits
from local_backend.training.reinforce.exploration import explore
from local_backend.training.reinforce.reward_config import RewardConfig
from local_backend.training.run import RunFolder, interruptible

_CERTAIN = 1e-4
"""Where all but this much of the probability is one token's, no decision changes anything: such positions teach nothing."""
_FADE = 0.9
"""A task's scale forgets its largest credits at this rate, so that a task nearly solved is not blown up at once."""
_SCALE_FLOOR = 1e-8


@dataclass(frozen=True, kw_only=True)
class RewardStep:
    """One step, for a progress bar: the mean score over the tasks while exploring, and each task's."""

    step: int
    steps: int
    score: float
    scores: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RewardResult:
    """A run that ended; with fewer than all steps taken it was interrupted, and resume goes on."""

    heads: Heads
    out: Path
    metrics: Path
    step: int
    finished: bool


def reward(
    tasks: Sequence[Task],
    base: Any,
    tokenizer: Any,
    config: RewardConfig,
    *,
    start: Heads | None = None,
    report: Callable[[RewardStep], None] = lambda _: None,
) -> RewardResult:
    """Train heads and write them to `config.out`, where they load as they are.

    Ctrl-C ends after the step in progress and leaves a state that `resume` goes on from; so does a kill, from its last state.

    Args:
        tasks: what to be good at, all of the same weight.
        base: any Hugging Face causal LM.
        tokenizer: its tokenizer.
        config: the run.
        start: heads to go on from, of one that was trained otherwise, say; default is fresh ones.
        report: called after every step.

    Raises:
        SetupError: the tasks, the settings or the folder do not allow it; the message says what to change.
    """
    # 1. The frozen base, and heads: fresh ones, given ones, or those of an earlier run.
    _check(tasks, config)
    readout = Readout(base)
    end_ids = end_tokens(base, tokenizer)
    heads = (_fresh(config, readout.hidden_size) if start is None else start).to(readout.device)
    peak = config.rate(readout.hidden_size)
    optimiser = torch.optim.Adam(heads.parameters(), lr=peak)
    # A task's scale is part of its step size: kept with the optimiser, it outlives a stop.
    optimiser.param_groups[0]["scales"] = {}
    made_by = {
        "method": "reward",
        **config.deciding(),
        "learning_rate": peak,
        "tasks": [_outline(task) for task in tasks],
    }
    folder = RunFolder(
        out=config.out, base=base, base_name=config.model, recipe=made_by, heads=heads, optimiser=optimiser
    )
    step = folder.begin(resume=config.resume, overwrite=config.overwrite)
    scales: dict[str, float] = optimiser.param_groups[0]["scales"]
    folder.save(step, tokenizer=tokenizer)
    saved = time.monotonic()

    with (
        interruptible() as interrupted,
        closing(MetricsLog(folder.inner, after=step, tensorboard=config.tensorboard)) as log,
    ):
        while step < config.steps and not interrupted.is_set():
            # 2. Draw a group of samples for each of a few prompts of every task.
            chosen = list(_chosen(tasks, config, step))
            drawn = _draw(base, chosen, heads, end_ids, config, step)
            texts = drawn.texts(tokenizer)

            # 3. Score them in sets, and credit each sample with what it did for its sets.
            groups = [texts[start : start + config.samples] for start in range(0, len(texts), config.samples)]
            scores: dict[str, float] = {}
            credit_of: list[float] = []
            for task, places in _by_task(chosen):
                judged = [_scored(task, chosen[place][1], groups[place], seed=step) for place in places]
                scores[task.name] = fmean(score for score, _ in judged)
                found = [value for _, credit in judged for value in credit]
                size = math.sqrt(fmean(value * value for value in found))
                scales[task.name] = max(size, _FADE * scales.get(task.name, 0.0))
                credit_of += [value / (scales[task.name] + _SCALE_FLOOR) for value in found]

            # 4. A few clipped updates on the hidden states that were left behind.
            rate = peak * (1 - 0.9 * step / config.steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = _positions(heads, readout, drawn, torch.tensor(credit_of, device=readout.device), config)
            for _ in range(config.updates):
                objective = _add_gradients(heads, readout, batch, config, samples=len(texts))
                norm = float(torch.nn.utils.clip_grad_norm_(heads.parameters(), config.max_norm))
                if not math.isfinite(norm):
                    raise SetupError(f"the gradient is {norm} at step {step + 1}: lower learning_rate, and start anew")
                optimiser.step()
                optimiser.zero_grad()
            step += 1

            # 5. Tell of it, and keep it.
            overall = fmean(scores.values())
            record = {"score": overall, **{f"score_{name}": value for name, value in scores.items()}}
            record |= {
                "temperature": batch.temperature,
                "top_p": batch.top_p,
                "objective": objective,
                "gradient_norm": norm,
            }
            log.write(step, record | {"learning_rate": rate, "tokens": int(drawn.live.sum())})
            report(RewardStep(step=step, steps=config.steps, score=overall, scores=scores))
            if time.monotonic() - saved >= config.checkpoint_seconds:
                folder.save(step)
                saved = time.monotonic()
    folder.save(step)
    return RewardResult(heads=heads.eval(), out=config.out, metrics=log.path, step=step, finished=step == config.steps)


def _check(tasks: Sequence[Task], config: RewardConfig) -> None:
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) < len(names):
        raise SetupError(f"tasks are named {names!r}: give at least one, and each a name of its own")
    if (largest := max(tasks, key=lambda task: task.n)).n > config.samples:
        raise SetupError(
            f"task {largest.name!r} scores sets of {largest.n}, but samples={config.samples!r}: draw at least as many"
        )
    if config.prompts < len(tasks):
        raise SetupError(
            f"prompts={config.prompts!r} a step cannot serve {len(tasks)} tasks: give at least one for each"
        )


def _outline(task: Task) -> dict[str, Any]:
    """What a checkpoint says of a task, and what a resumed run must have in common with the stopped one."""
    prompts = seed_of(*(prompt.ids for prompt in task.prompts))
    return {"name": task.name, "n": task.n, "prompts": len(task.prompts), "digest": f"{prompts % 2**64:016x}"}


def _fresh(config: RewardConfig, hidden_size: int) -> Heads:
    """Heads that decide T = 1 and P = start_top_p everywhere, from a generator of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = Heads.neutral(
            HeadsConfig(
                hidden_size=hidden_size,
                statistics=config.statistics,
                temperature_width=config.width,
                top_p_width=config.width,
            )
        )
    assert heads.top_p_head is not None
    last = heads.top_p_head.mlp[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, math.log(config.start_top_p / (1 - config.start_top_p)))
    return heads


def _chosen(tasks: Sequence[Task], config: RewardConfig, step: int) -> Iterator[tuple[Task, Prompt]]:
    """A step's prompts: a function of the seed and the step alone."""
    for place, task in enumerate(tasks):
        count = config.prompts // len(tasks) + (place < config.prompts % len(tasks))
        random = Random(f"{config.seed}:{task.name}:{step}")
        for index in random.sample(range(len(task.prompts)), min(count, len(task.prompts))):
            yield task, task.prompts[index]


def _by_task(chosen: Sequence[tuple[Task, Prompt]]) -> Iterator[tuple[Task, list[int]]]:
    """Each task with the places of its prompts, which stand together."""
    places = itertools.groupby(range(len(chosen)), key=lambda place: chosen[place][0].name)
    for _, group in places:
        those = list(group)
        yield chosen[those[0]][0], those


def _draw(
    base: Any,
    chosen: Sequence[tuple[Task, Prompt]],
    heads: Heads,
    end_ids: frozenset[int],
    config: RewardConfig,
    step: int,
) -> Drawn:
    """`samples` samples for each prompt under the heads and their noise."""

    def decode(hidden: Tensor, logits: Tensor) -> Tensor:
        return explore(logits, *heads(hidden.to(logits.device), logits), noise=config.noise).logits()

    places = [(place, sample) for place in range(len(chosen)) for sample in range(config.samples)]
    return draw(
        base,
        [chosen[place][1].ids for place, _ in places],
        [seed_of(config.seed, "reward", step, place, sample) for place, sample in places],
        decode,
        max_tokens=max(task.max_tokens for task, _ in chosen),
        end_ids=end_ids,
        keep_hidden=True,
    )


def _scored(task: Task, prompt: Prompt, samples: Sequence[str], *, seed: int) -> tuple[float, list[float]]:
    def score(those: Sequence[str]) -> float:
        value = float(task.score(prompt.record, those))
        if not math.isfinite(value):
            raise SetupError(
                f"the score of task {task.name!r} is {value!r} for {list(those)!r}: return a finite number"
            )
        return value

    return credits(score, samples, task.n, seed=seed)


@dataclass(frozen=True, kw_only=True)
class _Positions:
    """The N positions of a step that can teach something.

    Attributes:
        hidden: [N, H].
        token: int64 [N], drawn there.
        credit: [N], of its sample.
        before: [N], its log probability when it was drawn.
        temperature, top_p: means over all positions of the step, for the record.
    """

    hidden: Tensor
    token: Tensor
    credit: Tensor
    before: Tensor
    temperature: float
    top_p: float


@torch.no_grad()
def _positions(heads: Heads, readout: Readout, drawn: Drawn, credit: Tensor, config: RewardConfig) -> _Positions:
    """Leave out what gets no credit, and where one token is all but certain."""
    assert drawn.hidden is not None
    row, column = drawn.live.nonzero(as_tuple=True)
    hidden, token, credit = drawn.hidden[row, column], drawn.tokens[row, column], credit[row]
    before, open_, decisions = [], [], []
    for piece in _pieces(len(hidden), readout, config):
        logits = readout.logits(hidden[piece])
        decision = heads(hidden[piece], logits)
        explored = explore(logits, *decision, noise=config.noise)
        before.append(explored.log_probability(token[piece]))
        open_.append(explored.probability[:, 0] < 1 - _CERTAIN)
        decisions.append(torch.stack(decision))
    keep = torch.cat(open_) & (credit != 0)
    temperature, top_p = torch.cat(decisions, dim=1).mean(dim=1).tolist()
    return _Positions(
        hidden=hidden[keep],
        token=token[keep],
        credit=credit[keep],
        before=torch.cat(before)[keep],
        temperature=temperature,
        top_p=top_p,
    )


def _add_gradients(heads: Heads, readout: Readout, batch: _Positions, config: RewardConfig, *, samples: int) -> float:
    """Add the gradient of minus the clipped objective, mean over samples, and return the objective; logits exist in pieces."""
    objective = 0.0
    for piece in _pieces(len(batch.token), readout, config):
        hidden = batch.hidden[piece]
        logits = readout.logits(hidden)
        now = explore(logits, *heads(hidden, logits), noise=config.noise).log_probability(batch.token[piece])
        ratio = (now - batch.before[piece]).exp()
        credit = batch.credit[piece]
        gain = torch.minimum(ratio * credit, ratio.clamp(1 - config.clip, 1 + config.clip) * credit).sum() / samples
        (-gain).backward()  # type: ignore[no-untyped-call]  # torch's backward is untyped
        objective += float(gain.detach())
    return objective


def _pieces(length: int, readout: Readout, config: RewardConfig) -> Iterator[slice]:
    size = chunk_positions(readout.vocabulary, config.chunk_mib)
    yield from (slice(start, start + size) for start in range(0, length, size))
