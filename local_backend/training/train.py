"""Trains heads on a frozen base. Read `train` from top to bottom: it is the whole run.

From Python:

    from local_backend.training import LossConfig, TrainConfig, train
    result = train(TrainConfig(model="tiny", data=Path("answers.jsonl"), out=Path("my-heads")))
    print(*result.held_out.sentences(), sep="\\n")     # result.heads, result.held_out.likelihood.heads, ...

On several GPUs or machines, with the same curve but for rounding: `torchrun --nproc-per-node 8 -m local_backend heads train ...`
(or `accelerate launch`). A base that needs more than one GPU is loaded by the caller with a `device_map` and handed in as `base`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from local_backend.config import SetupError
from local_backend.heads import Heads, HeadsConfig
from local_backend.loading import load
from local_backend.training.config import TrainConfig, recipe
from local_backend.training.corpus import load_corpus
from local_backend.training.data import Batch, Example, collate, micro_batches
from local_backend.training.gradients import add_gradients, chunk_positions, loss_names
from local_backend.training.held_out import HeldOut, compare, held_out_loss
from local_backend.training.hidden import HiddenStates
from local_backend.training.metrics import MetricsLog
from local_backend.training.readout import Readout
from local_backend.training.run import RunFolder, interruptible
from local_backend.training.together import Together

_HELD_OUT_EPOCH = -1
"""The masks of held-out records are those of no epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A run that ended.

    Attributes:
        heads: in eval mode, on the base's device.
        out: the heads' folder.
        metrics: the curve, JSON lines.
        step: steps taken.
        steps: steps of the whole run; with fewer taken it was interrupted, and resume goes on.
        held_out: what the heads buy; None if interrupted or if nothing was held out.
    """

    heads: Heads
    out: Path
    metrics: Path
    step: int
    steps: int
    held_out: HeldOut | None

    @property
    def finished(self) -> bool:
        """Whether all steps were taken."""
        return self.step == self.steps


def train(
    config: TrainConfig,
    *,
    base: Any = None,
    tokenizer: Any = None,
    tell: Callable[[str], None] = lambda _: None,
    report: Callable[[int, int, Mapping[str, float]], None] = lambda *_: None,
) -> TrainResult:
    """Train heads and write them to `config.out`, which loads as a heads checkpoint from the first moment on.

    Ctrl-C ends after the step in progress and leaves a state that `resume` goes on from; so does a kill, from its last state.

    Args:
        config: the run.
        base: the model of `config.model`, if it is loaded already; needs its tokenizer beside it.
        tokenizer: see base.
        tell: called with sentences about the data.
        report: called after every step with its number, the number of all steps, and what is logged of it.

    Raises:
        SetupError: the model, the data, the settings or the folder do not allow it; the message says what to change.
    """
    # 1. The frozen base, on this process's device.
    together = Together(cpu=config.device == "cpu")
    if base is None:
        device = str(together.device) if config.device == "auto" else config.device
        base, tokenizer = load(config.model, dtype=config.dtype, device=device, chat=False)
    readout = Readout(base, autocast=torch.bfloat16 if config.autocast else None)

    # 2. The records, and how many steps they make.
    corpus = load_corpus(config, base, tokenizer)
    tell("\n".join(corpus.notes))
    steps = corpus.steps(config)
    validate_every = config.validate_every or max(1, steps // 10)
    peak = config.rate(readout.hidden_size)

    # 3. Heads, the same on every process; or those of an earlier run, with its optimiser and its step.
    heads = _fresh_heads(config, readout)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=peak, weight_decay=config.weight_decay)
    made_by = recipe(config, learning_rate=peak, steps=steps, **corpus.facts)
    run = RunFolder(out=config.out, base=base, base_name=config.model, recipe=made_by, heads=heads, optimiser=optimiser)
    step = run.begin(resume=config.resume, overwrite=config.overwrite)
    log = None
    if together.main:
        if step == 0:
            run.save(0, tokenizer=tokenizer)
        log = MetricsLog(run.inner, after=step, tensorboard=config.tensorboard)

    # 4. The loop. What a step does follows from the weights, the optimiser and the step's number alone.
    seen = _Seen(config, readout, together)
    if step < steps:
        seen.prepare([*corpus.training, *corpus.held_out])
    saved = time.monotonic()
    with interruptible() as interrupted:
        for epoch, examples in corpus.examples_from(step, config):
            rate = peak * _schedule(config, step, steps)
            optimiser.param_groups[0]["lr"] = rate
            sums = seen.add_gradients(heads, examples, epoch)
            sums = together.add_up(heads, {**sums, "interrupted": float(interrupted.is_set())})
            norm = float(torch.nn.utils.clip_grad_norm_(heads.parameters(), config.clip))
            if not math.isfinite(norm):
                raise SetupError(f"the gradient of step {step + 1} is {norm}: start anew with a lower learning_rate")
            optimiser.step()
            optimiser.zero_grad()
            step += 1

            record = {**_record(sums), "gradient_norm": norm, "learning_rate": rate, "epoch": epoch}
            if corpus.held_out and (step % validate_every == 0 or step == steps):
                mine = seen.batches(corpus.held_out, _HELD_OUT_EPOCH)
                record["validation_loss"] = held_out_loss(heads, readout, mine, config.loss, chunk=seen.chunk)
                if config.keep_best:
                    run.offer(step, record["validation_loss"])
            stop = sums["interrupted"] > 0 or step == steps
            if log is not None:
                log.write(step, record)
                if stop or time.monotonic() - saved >= config.checkpoint_seconds:
                    run.save(step)
                    saved = time.monotonic()
            report(step, steps, record)
            if stop:
                break

    # 5. The best heads of the run, and what they buy on records they were not trained on.
    if step == steps:
        run.end(step, write=together.main)
    verdict = None
    if step == steps and corpus.held_out:
        mine = seen.batches(corpus.held_out, _HELD_OUT_EPOCH)
        verdict = compare(heads, readout, mine, config.loss, chunk=seen.chunk, seed=config.seed)
    if log is not None:
        log.close()
        told = "null" if verdict is None else json.dumps(asdict(verdict), indent=2)
        (run.inner / "held_out.json").write_text(told + "\n", encoding="utf-8")
    together.wait()
    metrics = run.inner / "metrics.jsonl"
    return TrainResult(heads=heads.eval(), out=config.out, metrics=metrics, step=step, steps=steps, held_out=verdict)


class _Seen:
    """Examples as the heads see them: padded batches of this process's share, with their hidden states, on the device."""

    def __init__(self, config: TrainConfig, readout: Readout, together: Together) -> None:
        self.chunk = chunk_positions(readout.vocabulary, config.chunk_mib)
        self._config, self._readout, self._together = config, readout, together
        self._states = HiddenStates(readout, micro_batch_tokens=config.micro_batch_tokens)

    def prepare(self, examples: Sequence[Example]) -> None:
        """Run the base over all of them once, if what comes out may be kept."""
        self._states.keep(examples, mib=self._config.keep_mib)

    def batches(self, examples: Sequence[Example], epoch: int) -> Iterator[tuple[Tensor, Batch]]:
        for group in micro_batches(self._together.share(examples), tokens=self._config.micro_batch_tokens):
            batch = collate(group, seed=self._config.seed, epoch=epoch)
            yield self._states.of(group), batch.to(self._readout.device)

    def add_gradients(self, heads: Heads, examples: Sequence[Example], epoch: int) -> dict[str, float]:
        """One step's gradient, of the mean over its examples; returns this process's sums."""
        names = (
            "positions",
            "temperature_sum",
            "top_p_sum",
            *(f"loss_{name}" for name in loss_names(self._config.loss, heads)),
        )
        sums = dict.fromkeys(names, 0.0)
        share, loss = 1 / len(examples), self._config.loss
        for hidden, batch in self.batches(examples, epoch):
            found = add_gradients(heads, self._readout, hidden, batch, loss, chunk=self.chunk, share=share)
            for name, value in found.items():
                sums[name] += value
        return sums


def _fresh_heads(config: TrainConfig, readout: Readout) -> Heads:
    shape = HeadsConfig(
        hidden_size=readout.hidden_size,
        statistics=config.statistics,
        temperature=config.which != "top_p",
        top_p=config.which != "temperature",
        temperature_width=config.width,
        top_p_width=config.width,
    )
    # On the CPU, from a generator of their own: the same numbers on every machine, and no trace in the caller's.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Heads(shape).to(readout.device)


def _schedule(config: TrainConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate for the step after `step` steps."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    spent = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return {"linear": 1 - spent, "cosine": 0.5 * (1 + math.cos(math.pi * spent)), "constant": 1.0}[config.schedule]


def _record(sums: Mapping[str, float]) -> dict[str, float]:
    """What is logged of a step."""
    losses = {name: value for name, value in sums.items() if name.startswith("loss_")}
    return {
        "loss": sum(losses.values()),
        **losses,
        "temperature": sums["temperature_sum"] / sums["positions"],
        "top_p": sums["top_p_sum"] / sums["positions"],
        "tokens": int(sums["positions"]),
    }
