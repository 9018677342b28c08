"""What a tuning would do and cost, before any call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfreg_sdk.cli.figures import config_text, usd_text
from selfreg_sdk.cli.output import table
from selfreg_sdk.cli.tuned import say

if TYPE_CHECKING:
    from selfreg_sdk.tuner.study.results import Quote


def show_quote(quote: Quote) -> None:
    """For people."""
    many = "infinitely many" if quote.configurations is None else str(quote.configurations)
    per_request = quote.inference_budget
    say(f"study           {quote.study} (task {quote.task}, method {quote.method})")
    say(f"examples        {quote.examples} to search on, {quote.holdout} held out for the check")
    say(f"configurations  {many}")
    say(f"baseline        {config_text(quote.baseline)}")
    say(f"a request       {'any cost' if per_request is None else f'at most {usd_text(per_request)} USD on average'}")
    say(f"everything      at most {usd_text(quote.worst)} USD, {usd_text(quote.aside)} of it set aside for the check")
    table(
        "One request at most, with the most samples on the longest prompt",
        ["model", "USD"],
        [[model, usd_text(worst)] for model, worst in quote.first.items()],
    )
    for note in quote.notes:
        say(f"note: {note}")
    say("nothing was sent")


def quote_json(quote: Quote) -> dict[str, Any]:
    """For programs."""
    per_request = quote.inference_budget
    return {
        "study": quote.study,
        "task": quote.task,
        "method": quote.method,
        "examples": {"search": quote.examples, "holdout": quote.holdout},
        "configurations": quote.configurations,
        "baseline": dict(quote.baseline),
        "inference_budget_usd": None if per_request is None else str(per_request),
        "worst_case_usd": str(quote.worst),
        "set_aside_usd": str(quote.aside),
        "first_request_usd": {model: str(worst) for model, worst in quote.first.items()},
        "notes": list(quote.notes),
    }
