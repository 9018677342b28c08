"""``selfreg budget``: what was spent, and what is held."""

from __future__ import annotations

from typing import Annotated

import typer

from selfreg_sdk.cli.output import JsonOption, StoreOption, out, print_json, table

app = typer.Typer(help="Budgets and the ledger behind them.", no_args_is_help=True)


@app.command("show")
def show(
    name: Annotated[str | None, typer.Option(help="Only the budget with this name.")] = None,
    last: Annotated[int, typer.Option(min=0, help="Also list this many newest attempts.")] = 0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every budget: cap, spent, held by calls in flight; and the totals of the ledger."""
    from selfreg_sdk.config import load_settings
    from selfreg_sdk.runtime import runtime

    meter = runtime(load_settings(store=store).store).meter
    budgets = [status for status in meter.status() if name is None or status.scope.split("@")[0] == name]
    totals = meter.totals()
    entries = meter.ledger(limit=last) if last else ()
    if as_json:
        print_json(
            {
                "budgets": [
                    {
                        "name": status.scope,
                        "cap_usd": None if status.cap is None else str(status.cap),
                        "spent_usd": str(status.spent),
                        "held_usd": str(status.held),
                    }
                    for status in budgets
                ],
                "totals": {
                    "settled": totals.settled,
                    "unknown": totals.unknown,
                    "prompt_tokens": totals.prompt_tokens,
                    "completion_tokens": totals.completion_tokens,
                    "usd": str(totals.usd),
                    "unknown_usd": str(totals.unknown_usd),
                },
                "attempts": [
                    {
                        "id": entry.id,
                        "state": entry.state,
                        "purpose": entry.purpose,
                        "model": entry.model,
                        "task_key": entry.task_key,
                        "cost_usd": None if entry.cost is None else str(entry.cost),
                        "created_at": entry.created_at.isoformat(),
                    }
                    for entry in entries
                ],
            }
        )
        return
    if budgets:
        table(
            "Budgets (USD)",
            ["name", "cap", "spent", "held", "left"],
            [[b.scope, b.cap, b.spent, b.held, None if b.cap is None else b.cap - b.spent - b.held] for b in budgets],
        )
    else:
        out.print("no budget was used yet: pass budget='2.00 USD' to ChatSelfReg")
    out.print(
        f"{totals.settled} calls settled, {totals.prompt_tokens} + {totals.completion_tokens} tokens, {totals.usd} USD; "
        f"{totals.unknown} of unknown outcome, charged {totals.unknown_usd} USD at their worst case"
    )
    if entries:
        columns = ["id", "state", "for", "model", "task", "USD", "when (UTC)"]
        rows = [
            [e.id, e.state, e.purpose, e.model, e.task_key, e.cost, f"{e.created_at:%Y-%m-%d %H:%M:%S}"]
            for e in entries
        ]
        table("Newest attempts", columns, rows)
