"""Whether a cascade is used instead of the best single configuration: both are tried on the examples held out.

On the examples of the search the best of very many cascades was picked, so nothing that was seen there counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from selfreg_sdk.tuner.cascade.config import CascadeCandidate
from selfreg_sdk.tuner.cascade.evaluate import aevaluate_cascade
from selfreg_sdk.tuner.measuring.compare import Comparison, compare
from selfreg_sdk.tuner.measuring.evaluate import Measurable
from selfreg_sdk.tuner.measuring.measured import Measured
from selfreg_sdk.tuner.measuring.verdict import LEAST
from selfreg_sdk.tuner.study.plan import Plan
from selfreg_sdk.tuner.study.task_scoring import span_of


@dataclass(frozen=True, kw_only=True)
class CheckedCascade:
    """A cascade, tried on held-out examples.

    Attributes:
        candidate: it, and what the search expects of it.
        measured: it on the held-out examples.
        beside: it against the best single configuration there.
        used: it is ahead there, within the budget of a request; so it takes the single one's place.
    """

    candidate: CascadeCandidate
    measured: Measured
    beside: Comparison
    used: bool

    def __str__(self) -> str:
        return str(self.candidate.config)


async def acheck_cascade(
    candidate: CascadeCandidate,
    plan: Plan,
    single: Measured,
    journal: Measurable,
    *,
    limit: Decimal | None = None,
    on_progress: Callable[[Measured], None] | None = None,
) -> CheckedCascade:
    """Try a cascade on the held-out examples.

    Args:
        single: the best single configuration on these examples.
        limit: USD that it may cost; None leaves it to the budgets of the study.

    Raises:
        SelfregError: an endpoint is out of reach, or refuses a setting; what was bought is in the journal.
    """
    measured = await aevaluate_cascade(
        candidate.config,
        plan.held_out,
        plan.task.prompt(candidate.prompt),
        journal,
        plan.metric,
        span=span_of(plan.task, plan.scorer),
        parallel=plan.workers,
        limit=limit,
        on_progress=on_progress,
    )
    beside = compare(measured, single, seed=plan.spec.seed)
    dear = plan.inference_budget is not None and not measured.cost <= plan.inference_budget
    used = beside.examples >= LEAST and beside.difference > 0 and not dear
    return CheckedCascade(candidate=candidate, measured=measured, beside=beside, used=used)
