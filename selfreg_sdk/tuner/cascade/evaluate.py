"""Measures a cascade on examples, just as it would run: the second stage is bought only where the filter lets nothing pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.cascade.config import CascadeConfig
from selfreg_sdk.tuner.cascade.stages import chosen
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.tuner.journal.journal import Bought
from selfreg_sdk.tuner.measuring.evaluate import AHEAD, Measurable, Requests, affordable
from selfreg_sdk.tuner.measuring.measured import Measured, Outcome, Range
from selfreg_sdk.tuner.scoring.metrics import Metric
from selfreg_sdk.tuner.task.filters import Answers


async def aevaluate_cascade(
    cascade: CascadeConfig,
    examples: Sequence[Example],
    prompt: Prompt,
    journal: Measurable,
    metric: Metric,
    *,
    span: Range | None = None,
    start: int = 0,
    parallel: int = 8,
    limit: Decimal | None = None,
    on_progress: Callable[[Measured], None] | None = None,
) -> Measured:
    """Measure a cascade; arguments and errors as of `evaluate.aevaluate`.

    As where it runs, a second stage that failed leaves the first one's answer, and a first stage that failed is no answer.
    Where a second stage is refused for money, its example does not count as tried, nor any after it.
    """
    if parallel < 1:
        raise ConfigError(f"parallel={parallel!r} must be at least 1")
    prompts = {prompt.name: prompt}
    first = Requests(cascade.first.config, prompts, metric, start)
    again = first.count if _alike(cascade) else 0  # fresh samples, not those that the filter saw
    second = Requests(cascade.second.config, prompts, metric, start + again)
    outcomes: list[Outcome] = []
    spent, ended, tried = Decimal(0), False, 0

    def so_far() -> Measured:
        return Measured(
            config={**cascade.written(), "prompt": prompt.name},
            metric=metric,
            span=span,
            outcomes=tuple(outcomes),
            wanted=len(examples),
            spent=spent,
            ending="money" if ended else "done",
        )

    async def buy(stage: Requests, batch: Sequence[Example]) -> list[Bought]:
        requests = [stage.request(example) for example in batch]
        return await journal.purchase(requests, mark=True, parallel=parallel) if requests else []

    while tried < len(examples) and not ended:
        left = None if limit is None else limit - spent
        batch = affordable([first, second], examples[tried:], journal, AHEAD * parallel, left)
        begun = await buy(first, batch)
        failing = [
            at for at, one in enumerate(begun) if one.fate == "bought" and not await _passes(cascade, one, metric)
        ]
        ending = dict(zip(failing, await buy(second, [batch[at] for at in failing]), strict=True))
        both = [*begun, *ending.values()]
        spent += sum((one.cost for one in both), Decimal(0))
        ended = not batch or any(one.fate == "refused" for one in both)
        for at, example in enumerate(batch):
            last = ending.get(at)
            if "refused" in (begun[at].fate, last and last.fate):
                break
            outcome = first.outcome(example, begun[at], metric, journal)
            if last is not None:
                outcome = _joined(outcome, second.outcome(example, last, metric, journal), failed=last.fate == "failed")
            outcomes.append(outcome)
        tried += len(batch)
        if on_progress is not None:
            on_progress(so_far())
    return so_far()


def _alike(cascade: CascadeConfig) -> bool:
    """Whether both stages send the same but for the number of samples, so that their samples are of one kind."""
    first, second = ({**stage.config, "n": None} for stage in (cascade.first, cascade.second))
    return first == second


async def _passes(cascade: CascadeConfig, bought: Bought, metric: Metric) -> bool:
    """Whether the filter lets an answer pass. One that could not be scored is not measured further, as it has no ballot."""
    if bought.drawn is None or bought.marks is None:
        return True
    texts = tuple(sample.text or None for sample in bought.drawn.samples)
    ballots = tuple(None if text is None else mark.ballot for text, mark in zip(texts, bought.marks, strict=True))
    at = chosen(metric, ballots, [mark.score for mark in bought.marks])
    return (await cascade.gate.apasses(Answers(texts=texts, ballots=ballots, chosen=at))).passed


def _joined(begun: Outcome, ended: Outcome, *, failed: bool) -> Outcome:
    """What came of both stages."""
    known = [seconds for seconds in (begun.seconds, ended.seconds) if seconds is not None]
    return replace(
        begun if failed else ended,
        cost=begun.cost + ended.cost,
        prompt_tokens=begun.prompt_tokens + ended.prompt_tokens,
        output_tokens=begun.output_tokens + ended.output_tokens,
        seconds=sum(known) if known else None,
    )
