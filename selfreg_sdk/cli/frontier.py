"""``selfreg frontier``: what quality is to be had for which cost, read off a finished study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from selfreg_sdk.cli.figures import usd_text
from selfreg_sdk.cli.output import JsonOption, StoreOption, print_json
from selfreg_sdk.cli.tuned import candidate_json, say, show_frontier
from selfreg_sdk.errors import ConfigError

if TYPE_CHECKING:
    from selfreg_sdk.tuner.study.results import Candidate


def frontier(
    study: Annotated[str, typer.Argument(help="Name of the study: the task's, unless it was given one.")],
    budget: Annotated[
        str | None,
        typer.Option(help="Only the best one for this many USD a request, on average.", show_default=False),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the configurations of a study of which none is better and cheaper than another. Sends nothing.

    With --budget: the one to use where a request may cost so much, whatever budget the study was run with.
    """
    from selfreg_sdk.config import load_settings
    from selfreg_sdk.money import usd
    from selfreg_sdk.runtime import runtime
    from selfreg_sdk.store.studies import Studies
    from selfreg_sdk.tuner.study.saving import frontier_in

    record = Studies(runtime(load_settings(store=store).store).store).get(study)
    if record.state != "finished":
        raise ConfigError(f"study {study!r} is not at its end; `selfreg tune` with its task goes on with it")
    points = frontier_in(record.outcome)
    if budget is not None:
        best = affordable(points, usd(budget))
        if best is None:
            cheapest = f"; the cheapest costs {usd_text(points[0].cost)} USD" if points else ""
            raise ConfigError(f"study {study!r} knows no configuration that keeps {budget} a request{cheapest}")
        points = (best,)
    if as_json:
        print_json({"study": study, "frontier": [candidate_json(each) for each in points]})
        return
    show_frontier(points)
    if budget is None:
        say("selfreg frontier STUDY --budget USD picks the one for a budget")


def affordable(frontier: Sequence[Candidate], budget: Decimal) -> Candidate | None:
    """The best of a frontier whose mean cost over new requests keeps a budget, with the caution of the search.

    Args:
        frontier: the cheapest first, each better than those before it.
    """
    from selfreg_sdk.tuner.pool.choose import Caution

    caution, most = Caution(), float(budget)
    sure = [(each, _keeps(each, most * (1 + caution.slack))) for each in frontier if each.cost <= most]
    fitting = [
        replace(each, keep=keep)
        for each, keep in sure
        # What the search itself would have returned for so much, or less.
        if keep >= caution.least or (each.budget is not None and each.budget <= most)
    ]
    return fitting[-1] if fitting else None


def _keeps(candidate: Candidate, limit: float) -> float:
    """Probability that the mean cost stays below a limit; its interval is one of 95 %."""
    if candidate.cost_low is None or candidate.cost_high is None:
        return float(candidate.cost <= limit)
    error = max(candidate.cost_high - candidate.cost, candidate.cost - candidate.cost_low) / 1.96
    if error <= 0:
        return float(candidate.cost <= limit)
    return 0.5 * (1 + math.erf((limit - candidate.cost) / (error * math.sqrt(2))))
