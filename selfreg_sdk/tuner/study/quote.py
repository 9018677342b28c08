"""What a tuning would do and cost at most, before any call."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from selfreg_sdk.runtime import runtime
from selfreg_sdk.store.studies import StudyRecord
from selfreg_sdk.tuner.journal.journal import Journal
from selfreg_sdk.tuner.pool.cells import Cells, accepted_space, cells_of
from selfreg_sdk.tuner.search.dimensions import Point, point_key, space_size
from selfreg_sdk.tuner.study.plan import Plan
from selfreg_sdk.tuner.study.results import Quote
from selfreg_sdk.tuner.study.session import Access
from selfreg_sdk.tuner.study.task_scoring import scoring_of


def quoted(plan: Plan, access: Access) -> Quote:
    """What `atune` would do; reads the store, begins no study, sends nothing.

    Raises:
        ConfigError: something given cannot work.
    """
    settings = access.settings(plan)
    shared = runtime(settings.store)
    with access.doors(plan, settings, shared) as doors:
        scoring = scoring_of(plan.task, doors, scorer=plan.scorer)
        now = datetime.now(UTC)
        nowhere = StudyRecord(
            id=0,
            name=plan.study,
            task_key=plan.spec.name,
            spec={},
            seed=plan.spec.seed,
            state="running",
            outcome=None,
            created_at=now,
            updated_at=now,
        )
        journal = Journal(shared=shared, study=nowhere, doors=doors, scoring=scoring)
        capabilities = {model: doors[model].capabilities for model in plan.spec.models}
        cells = cells_of(plan.task.space, plan.task.prompts, capabilities)
        many: int | None = len(cells.configs) * len(cells.sizes) * len(cells.views)
        if plan.method == "ecooptigen":
            many = space_size(accepted_space(plan.task.space, capabilities))
        return Quote(
            study=plan.study,
            task=plan.spec.name,
            method=plan.method,
            configurations=many,
            first=_first(plan, cells, journal),
            worst=plan.total,
            aside=plan.aside,
            inference_budget=plan.inference_budget,
            examples=len(plan.examples),
            holdout=len(plan.held_out),
            baseline=plan.baseline,
            notes=(*plan.notes, *cells.notes),
        )


def _first(plan: Plan, cells: Cells, journal: Journal) -> Mapping[str, Decimal]:
    """What one request of each model costs at most: with the most samples, on its longest prompt."""
    longest: dict[tuple[str, str], Point] = {}
    for config in cells.configs:  # of one model and prompt, they differ by a few bytes
        key = config["model"], config["prompt"]
        longest[key] = max(config, longest.get(key, config), key=lambda one: len(point_key(one)))
    worst: dict[str, Decimal] = {}
    for (model, prompt), config in longest.items():
        for example, messages in zip(plan.examples, plan.messages[prompt], strict=True):
            one = journal.worst(config, messages, cells.sizes[-1], example)
            worst[model] = max(one, worst.get(model, one))
    return worst
