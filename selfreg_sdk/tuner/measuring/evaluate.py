"""Measures configurations on examples, just as they would run: n samples by one prompt, made one answer by the metric.

All draws go through a study's journal, so what was drawn before is found there and the same measurement goes on where an
earlier one was broken off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.tuner.journal.journal import Bought
from selfreg_sdk.tuner.measuring.measured import Measured, Outcome, Range
from selfreg_sdk.tuner.pool.samples import Purchases
from selfreg_sdk.tuner.scoring.metrics import Metric
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.drawing import Drawn, DrawRequest


class Measurable(Purchases, Protocol):
    """The part of `selfreg_sdk.tuner.journal.journal.Journal` that is needed here."""

    def cost_of(self, config: Point, drawn: Drawn) -> Decimal:
        """USD that samples of a configuration cost when they are asked for alone, whoever paid for which of these."""
        ...


OnMeasured = Callable[[tuple[Measured, ...]], None]
"""Is told what was measured so far, one for each configuration."""

AHEAD = 4
"""Requests handed over at once, for each that may be in flight: a slow one then keeps few others waiting."""


async def aevaluate(
    config: Point,
    examples: Sequence[Example],
    prompts: Iterable[Prompt],
    journal: Measurable,
    metric: Metric,
    *,
    span: Range | None = None,
    start: int = 0,
    parallel: int = 8,
    limit: Decimal | None = None,
    on_progress: OnMeasured | None = None,
) -> Measured:
    """Measure one configuration; arguments and errors as of `aevaluate_each`."""
    (measured,) = await aevaluate_each(
        [config],
        examples,
        prompts,
        journal,
        metric,
        span=span,
        start=start,
        parallel=parallel,
        limit=limit,
        on_progress=on_progress,
    )
    return measured


async def aevaluate_each(
    configs: Sequence[Point],
    examples: Sequence[Example],
    prompts: Iterable[Prompt],
    journal: Measurable,
    metric: Metric,
    *,
    span: Range | None = None,
    start: int = 0,
    parallel: int = 8,
    limit: Decimal | None = None,
    on_progress: OnMeasured | None = None,
) -> tuple[Measured, ...]:
    """Measure configurations side by side, so that however far the money goes, all are tried on the same examples.

    Examples are tried in the order given. Where the next one does not fit what may be spent, with any of the
    configurations, the measurement ends before it: which examples are tried does not depend on what came out.

    Args:
        configs: with "model", "n" (1 if missing), what else is to be sent, and "prompt" if there are several.
        examples: tried in this order.
        prompts: by which to ask.
        journal: of a study.
        metric: what n samples are worth.
        span: range of its values, if known.
        start: number of the first sample: those before it were seen by a search, say.
        parallel: requests in flight at once.
        limit: USD that all of it may cost; None leaves it to the budgets of the study.
        on_progress: called as results come in.

    Raises:
        ConfigError: a configuration names no model, no known prompt or an n that does not fit the metric.
        SelfregError: the endpoint is out of reach or refuses a setting; what was bought is in the journal.
    """
    by_name = {prompt.name: prompt for prompt in prompts}
    plans = [Requests(config, by_name, metric, start) for config in configs]
    if parallel < 1:
        raise ConfigError(f"parallel={parallel!r} must be at least 1")
    outcomes: list[list[Outcome]] = [[] for _ in plans]
    spent, ended = [Decimal(0)] * len(plans), False

    def so_far() -> tuple[Measured, ...]:
        return tuple(
            Measured(
                config=plan.config,
                metric=metric,
                span=span,
                outcomes=tuple(mine),
                wanted=len(examples),
                spent=paid,
                ending="money" if ended else "done",
            )
            for plan, mine, paid in zip(plans, outcomes, spent, strict=True)
        )

    tried = 0
    while tried < len(examples) and plans and not ended:
        left = None if limit is None else limit - sum(spent)
        batch = affordable(plans, examples[tried:], journal, max(1, AHEAD * parallel // len(plans)), left)
        requests = [plan.request(example) for example in batch for plan in plans]
        bought = await journal.purchase(requests, mark=True, parallel=parallel) if requests else []
        ended = not batch
        for index, one in enumerate(bought):
            spent[index % len(plans)] += one.cost
            ended = ended or one.fate == "refused"
        whole = next((i for i, one in enumerate(bought) if one.fate == "refused"), len(bought)) // len(plans)
        for at, example in enumerate(batch[:whole]):
            for number, mine in enumerate(outcomes):
                mine.append(plans[number].outcome(example, bought[at * len(plans) + number], metric, journal))
        tried += len(batch)
        if on_progress is not None:
            on_progress(so_far())
    return so_far()


class Requests:
    """A configuration and the requests it makes."""

    def __init__(self, config: Point, prompts: Mapping[str, Prompt], metric: Metric, start: int) -> None:
        name = str(config.get("prompt") or (next(iter(prompts)) if len(prompts) == 1 else None))
        if name not in prompts:
            raise ConfigError(f"configuration {dict(config)!r}: its prompt must be one of {', '.join(prompts)}")
        if not config.get("model"):
            raise ConfigError(f"configuration {dict(config)!r} names no model")
        n = config.get("n") or 1
        if not isinstance(n, int) or n < 1 or (n > 1 and metric.aggregation == "first"):
            raise ConfigError(f"configuration {dict(config)!r}: n={n!r} does not fit the metric {metric.name!r}")
        self.config: Point = {**config, "prompt": name, "n": n}
        self.count = n
        self._sent = {key: value for key, value in self.config.items() if key != "n"}
        self._prompt, self._start = prompts[name], start
        self._made: dict[str, DrawRequest] = {}

    def request(self, example: Example) -> DrawRequest:
        """For its samples on an example; the same object each time, as its price is asked for before it is made."""
        made = self._made.get(example.id)
        if made is None:
            messages = self._prompt.render(example)
            made = self._made[example.id] = DrawRequest(
                config=self._sent, messages=messages, example=example, start=self._start, count=self.count
            )
        return made

    def outcome(self, example: Example, bought: Bought, metric: Metric, journal: Measurable) -> Outcome:
        """What came of it."""
        drawn, marks, reason = bought.drawn, bought.marks, bought.reason
        value, scores = None, tuple(mark.score for mark in marks or ())
        if bought.fate == "bought" and marks:
            try:
                value = metric.of(scores, [mark.ballot for mark in marks])
            except Exception as error:  # a metric of the user's
                reason = f"metric {metric.name!r} raised {type(error).__name__}: {error}"[:300]
            if value is not None and not math.isfinite(value):
                value, reason = None, f"metric {metric.name!r} returned {value!r}; return a finite float"
        return Outcome(
            example=example.id,
            value=value,
            cost=bought.cost - bought.marking if drawn is None else journal.cost_of(self._sent, drawn),
            prompt_tokens=0 if drawn is None else drawn.prompt_tokens,
            output_tokens=0 if drawn is None else drawn.output_tokens,
            seconds=bought.seconds,
            scores=scores,
            reason=reason if value is None else "",
        )


def affordable(
    plans: Sequence[Requests], examples: Sequence[Example], journal: Measurable, most: int, left: Decimal | None
) -> Sequence[Example]:
    """The first of these examples, as many as fit what is left even at their worst."""
    if left is None:
        return examples[:most]
    worst = Decimal(0)
    for index, example in enumerate(examples[:most]):
        for plan in plans:
            request = plan.request(example)
            worst += journal.worst(request.config, request.messages, request.count, example)
        if worst > left:
            return examples[:index]
    return examples[:most]
