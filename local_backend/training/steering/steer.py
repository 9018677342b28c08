"""Teaches heads to follow a sentence in the prompt ("answer with low randomness"); the base stays frozen. Read `steer` from top to bottom.

Each prompt is given three times, with a low, a normal and a high command, and the same answer. A ranking loss with a margin orders the
means of T and of P over the answer's tokens, low < normal < high, and an anchor holds normal prompts where the heads were before.
AutoDeco (arXiv 2510.26697) reports such a training without its loss, its margins and its data: this form is ours.

The base never changes, so heads can follow only what its hidden states carry of a command. What they reach is measured on prompts
that were held out, with wordings of the training and with wordings that were held out too.

From Python:

    result = steer(SteerConfig(heads="my-heads", data=Path("answers.jsonl"), out=Path("my-steered-heads")))
    print(result.known.sentence("held-out prompts"))
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from local_backend.checkpoint.identity import BaseIdentity
from local_backend.checkpoint.load import HeadsInfo, load_heads, named_base, require_same_base
from local_backend.config import SetupError
from local_backend.heads import MAX_TEMPERATURE, Heads
from local_backend.loading import load
from local_backend.training.data import seed_of
from local_backend.training.metrics import MetricsLog
from local_backend.training.readout import Readout
from local_backend.training.run import RunFolder, interruptible
from local_backend.training.steering.commands import ENGLISH, read_commands
from local_backend.training.steering.ordering import Decider, Ordering, measure
from local_backend.training.steering.steer_config import SteerConfig
from local_backend.training.steering.triples import Triple, Triples, load_triples


@dataclass(frozen=True, kw_only=True)
class SteerResult:
    """A run that ended.

    Attributes:
        heads: in eval mode, on the base's device.
        step: steps taken.
        finished: whether these are all; if not, resume goes on.
        known: held-out prompts with wordings of the training; None if interrupted.
        new: the same prompts with held-out wordings; None also where there are none.
    """

    heads: Heads
    step: int
    finished: bool
    known: Ordering | None
    new: Ordering | None


def steer(
    config: SteerConfig,
    *,
    base: Any = None,
    tokenizer: Any = None,
    tell: Callable[[str], None] = lambda _: None,
    report: Callable[[int, int, float], None] = lambda *_: None,
) -> SteerResult:
    """Train heads to follow commands and write them to `config.out`, where they load as they are.

    Ctrl-C ends after the step in progress and leaves a state that `resume` goes on from; so does a kill, from its last state.

    Args:
        config: the run.
        base: the heads' base, if it is loaded already; needs its tokenizer beside it.
        tokenizer: see base.
        tell: called with sentences about the data.
        report: called after every step with its number, the number of all steps, and the loss.

    Raises:
        SetupError: the heads, the data, the settings or the folder do not allow it; the message says what to change.
    """
    # 1. The heads to start from, on their frozen base, and every prompt at three levels.
    heads, known, name, base, tokenizer = _load(config, base, tokenizer)
    readout = Readout(base)
    heads.to(readout.device)
    triples = _triples(config, base, tokenizer)
    tell(
        f"{len(triples.training)} prompts at three levels to train on, {len(triples.known)} held out"
        + (f"; {triples.dropped} were too long and dropped" if triples.dropped else "")
    )
    made_by = {
        "method": "steer",
        **config.deciding("heads", "data", "model", "commands", "device", "micro_batch_tokens", "keep_mib"),
        "data": triples.digest,
        "start": {"weights": _digest(heads), "recipe": dict(known.recipe)},
    }

    # 2. Go on from an earlier run, if there is one; and see what unsteered heads decide for normal prompts.
    unsteered = copy.deepcopy(heads)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    folder = RunFolder(out=config.out, base=base, base_name=name, recipe=made_by, heads=heads, optimiser=optimiser)
    step = folder.begin(resume=config.resume, overwrite=config.overwrite)
    folder.save(step, tokenizer=tokenizer)
    log = MetricsLog(folder.inner, after=step, tensorboard=config.tensorboard)
    saved = time.monotonic()
    decide = Decider(readout, chunk_mib=config.chunk_mib, micro_batch_tokens=config.micro_batch_tokens)
    decide.states.keep([each for triple in triples.all for each in triple], mib=config.keep_mib)
    normal = [triple.normal for triple in triples.all]
    with torch.no_grad():
        before = dict(zip(normal, decide(unsteered, normal), strict=True))

    # 3. The loop. What a step does follows from the weights, the optimiser and the step's number alone.
    with interruptible() as interrupted:
        while step < config.steps and not interrupted.is_set():
            rate = config.learning_rate * (1 - step / config.steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            chosen = _batch(triples.training, step, config)
            loss = steering_loss(
                decide(heads, [each for triple in chosen for each in triple]),
                [before[triple.normal] for triple in chosen],
                margins=(config.temperature_margin, config.top_p_margin),
                anchor=config.anchor,
            )
            loss.total.backward()  # type: ignore[no-untyped-call]  # torch's backward is untyped
            norm = float(torch.nn.utils.clip_grad_norm_(heads.parameters(), config.clip))
            if not math.isfinite(norm):
                raise SetupError(f"the gradient is {norm} at step {step + 1}: lower learning_rate, and start anew")
            optimiser.step()
            optimiser.zero_grad()
            step += 1
            log.write(step, loss.record() | {"gradient_norm": norm, "learning_rate": rate})
            report(step, config.steps, loss.total.item())
            if time.monotonic() - saved >= config.checkpoint_seconds:
                folder.save(step)
                saved = time.monotonic()
    folder.save(step)
    log.close()

    # 4. What they reach on prompts, and on wordings, that they have not seen.
    found: dict[str, Ordering | None] = {"known": None, "new": None}
    if step == config.steps:
        for side, held_out in (("known", triples.known), ("new", triples.new)):
            found[side] = measure(decide, heads, held_out, before) if held_out else None
        told = {side: ordering and asdict(ordering) for side, ordering in found.items()}
        (folder.inner / "ordering.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return SteerResult(heads=heads.eval(), step=step, finished=step == config.steps, **found)


def preview(config: SteerConfig) -> dict[str, str]:
    """Check all that a run needs but its folder, and return the first prompt of the training at each level, as the base sees it.

    Raises:
        SetupError: as for `steer`.
    """
    _, _, _, base, tokenizer = _load(config, None, None)
    triple = _triples(config, base, tokenizer).training[0]
    return {level: tokenizer.decode(each.ids[: each.start]) for level, each in triple._asdict().items()}


def _load(config: SteerConfig, base: Any, tokenizer: Any) -> tuple[Heads, HeadsInfo, str, Any, Any]:
    """Heads, what is known of them, and their base with its name and its tokenizer."""
    heads, known = load_heads(config.heads)
    name = config.model or named_base(known)
    if base is None:
        base, tokenizer = load(name, dtype=config.dtype, device=config.device, chat=False)
    require_same_base(known, BaseIdentity.of(base), name, any_base=False)
    return heads, known, name, base, tokenizer


def _triples(config: SteerConfig, base: Any, tokenizer: Any) -> Triples:
    commands = ENGLISH if config.commands is None else read_commands(config.commands)
    return load_triples(config, commands, base, tokenizer)


@dataclass(frozen=True, kw_only=True)
class SteeringLoss:
    """The loss of a batch of R prompts and its parts, mean over the prompts; of each pair the first is of T, the second of P.

    Attributes:
        total: what is minimised.
        ranking: [2], by how much the order misses its margins.
        anchor: [2], mean square distance of normal prompts' tokens from where they were.
        means: [3, 2], means of the low, the normal and the high prompts.
    """

    total: Tensor
    ranking: Tensor
    anchor: Tensor
    means: Tensor

    def record(self) -> dict[str, float]:
        """What is logged of a step."""
        named = {"loss": self.total.item()}
        for at, kind in enumerate(("temperature", "top_p")):
            named |= {f"ranking_{kind}": self.ranking[at].item(), f"anchor_{kind}": self.anchor[at].item()}
            named |= {
                f"{kind}_{level}": self.means[row, at].item() for row, level in enumerate(("low", "normal", "high"))
            }
        return named


def steering_loss(
    decided: Sequence[Tensor], before: Sequence[Tensor], *, margins: tuple[float, float], anchor: float
) -> SteeringLoss:
    """The ranking loss and the anchor; gradients reach `decided`.

    For each prompt relu(m - (normal - low)) + relu(m - (high - normal)) of the means over the answer, plus `anchor` times the mean
    square of the normal prompt's change. A margin is never more than half of what the unsteered mean leaves below or above it.

    Args:
        decided: T and P of each answer's tokens, [n, 2]; 3R of them: low, normal and high of the first prompt, and so on.
        before: R, of the normal prompts before they were steered, [n, 2].
        margins: of T and of P.
        anchor: weight.
    """
    low, normal, high = torch.stack([each.mean(dim=0) for each in decided]).view(-1, 3, 2).unbind(dim=1)
    was = torch.stack([each.mean(dim=0) for each in before])
    wanted = was.new_tensor(margins)
    below = wanted.minimum(was / 2)
    above = wanted.minimum((was.new_tensor((MAX_TEMPERATURE, 1.0)) - was) / 2)
    ranking = ((below - (normal - low)).relu() + (above - (high - normal)).relu()).mean(dim=0)
    moved = [(now - then).square().mean(dim=0) for now, then in zip(decided[1::3], before, strict=True)]
    held = torch.stack(moved).mean(dim=0)
    means = torch.stack([low, normal, high]).mean(dim=1)
    return SteeringLoss(
        total=(ranking + anchor * held).sum(), ranking=ranking.detach(), anchor=held.detach(), means=means.detach()
    )


def _batch(triples: Sequence[Triple], step: int, config: SteerConfig) -> list[Triple]:
    """The prompts of a step, epoch after epoch in an order of its own."""
    per_epoch = math.ceil(len(triples) / config.batch_size)
    epoch, place = divmod(step, per_epoch)
    order = sorted(triples, key=lambda triple: seed_of(config.seed, epoch, triple.low.line))
    return order[place * config.batch_size : (place + 1) * config.batch_size]


def _digest(heads: Heads) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(heads.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
