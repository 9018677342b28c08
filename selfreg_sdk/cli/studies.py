"""``selfreg studies``: the tunings in the store."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from selfreg_sdk.cli.figures import usd_text
from selfreg_sdk.cli.output import JsonOption, StoreOption, out, print_json, table

if TYPE_CHECKING:
    from selfreg_sdk.runtime import Runtime


def studies(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the studies: what was tuned, in which state, and what it has cost so far."""
    from selfreg_sdk.config import load_settings
    from selfreg_sdk.runtime import runtime
    from selfreg_sdk.store.studies import Studies

    shared = runtime(load_settings(store=store).store)
    records = Studies(shared.store).list()
    spent = {record.name: study_spent(shared, record.name) for record in records}
    if as_json:
        print_json(
            [
                {
                    "name": record.name,
                    "task": record.task_key,
                    "method": record.spec.get("method"),
                    "state": record.state,
                    "spent_usd": str(spent[record.name]),
                    "budget_usd": record.spec.get("budget"),
                    "verdict": (record.outcome or {}).get("verdict"),
                    "created_at": record.created_at.isoformat(),
                    "updated_at": record.updated_at.isoformat(),
                }
                for record in records
            ]
        )
        return
    if not records:
        out.print("no studies yet: `selfreg tune TASK.yaml` begins one")
        return
    table(
        "Studies",
        ["name", "task", "method", "state", "spent", "of USD", "verdict", "last change (UTC)"],
        [
            [
                record.name,
                record.task_key,
                record.spec.get("method"),
                record.state,
                usd_text(spent[record.name]),
                record.spec.get("budget"),
                (record.outcome or {}).get("verdict"),
                f"{record.updated_at:%Y-%m-%d %H:%M}",
            ]
            for record in records
        ],
    )


def study_spent(shared: Runtime, name: str) -> Decimal:
    """USD that a study has paid."""
    scope = f"study:{name}"
    return next((status.spent for status in shared.meter.status() if status.scope == scope), Decimal(0))
