"""What would be sent, why, and at most at what cost: without any network."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from selfreg_sdk.answering import Answering, describe
from selfreg_sdk.facts import Request
from selfreg_sdk.prices import worst_case
from selfreg_sdk.sampling import most_waves


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The decision for one request, before anything is sent.

    Attributes:
        payload: the request body as it would be sent.
        decision: planned, sent and ignored, as in ``response_metadata["selfreg"]``.
        would_plan: a planning call would come first, because no plan is stored for the task; what is shown then is what a
            failed plan leads to.
        plan_rests: it would, had planning this task not failed a short while ago.
        worst_case_usd: at most, over all samples and waves, without retries; None if price or token cap is unknown.
        most_requests: at most so many, for all samples, without retries.
        plan_worst_case_usd: at most, for the planning call.
        price_source: where the price comes from.
        capability_sources: where the facts about the model come from.
    """

    payload: dict[str, Any]
    decision: dict[str, Any]
    would_plan: bool
    plan_rests: bool
    worst_case_usd: Decimal | None
    most_requests: int
    plan_worst_case_usd: Decimal | None
    price_source: str | None
    capability_sources: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "payload": self.payload,
            **self.decision,
            "would_plan": self.would_plan,
            "plan_rests": self.plan_rests,
            "worst_case_usd": None if self.worst_case_usd is None else str(self.worst_case_usd),
            "most_requests": self.most_requests,
            "plan_worst_case_usd": None if self.plan_worst_case_usd is None else str(self.plan_worst_case_usd),
            "price_source": self.price_source,
            "capability_sources": list(self.capability_sources),
        }


def explain(answering: Answering, request: Request) -> Explanation:
    """Explain a request; reads the store, sends nothing.

    Raises:
        ConfigError: the request could not be sent either.
    """
    decision = answering.regulator.foresee(request)
    books = answering.calls.books
    spec = answering.spec(decision)
    quote, waves = books.quote(spec), most_waves(decision)
    worst = quote.worst
    if worst is not None and decision.one_by_one:
        worst *= waves
    elif worst is not None and quote.price is not None and spec.prompt_tokens is not None:
        worst += (waves - 1) * worst_case(quote.price, prompt_tokens=spec.prompt_tokens, max_tokens=0, n=1)
    plan_worst = Decimal(0) if decision.would_plan is None else books.quote(decision.would_plan).worst
    return Explanation(
        payload=dict(decision.payload),
        decision=describe(decision),
        would_plan=decision.would_plan is not None,
        plan_rests=decision.plan_rests,
        worst_case_usd=worst,
        most_requests=waves,
        plan_worst_case_usd=plan_worst,
        price_source=None if quote.price is None else quote.price.source,
        capability_sources=decision.capabilities.sources,
    )
