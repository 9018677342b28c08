"""``selfreg configs``: the stored configurations of tasks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from selfreg_sdk.cli.figures import score_text
from selfreg_sdk.cli.output import JsonOption, StoreOption, out, print_json, settings_text, table
from selfreg_sdk.errors import ConfigError

app = typer.Typer(
    help="Stored configurations of tasks: planned or tuned, versioned, never overwritten.", no_args_is_help=True
)


@app.command("list")
def list_(
    task: Annotated[str | None, typer.Option(help="Only the task with this name.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the versions of every task, newest first; a star marks the one that answers."""
    configs = _configs(store)
    records = [record for record in configs.list() if task is None or record.task_key.split("|")[0] == task]
    live = {record.task_key: current.id for record in records if (current := configs.current(record.task_key))}
    if as_json:
        print_json([{**_as_dict(record), "production": live.get(record.task_key) == record.id} for record in records])
        return
    if not records:
        out.print("no configurations stored yet: they appear with the first planned request or tuning")
        return
    table(
        "Configurations",
        ["id", "task", "model", "samples", "kind", "settings", "score", "made (UTC)"],
        [
            [
                f"{record.id}{'*' if live.get(record.task_key) == record.id else ''}",
                record.task_key.split("|")[0],
                f"{record.model} (of all models)" if record.task_key.split("|")[1:2] == ["*"] else record.model,
                record.aggregation,
                record.provenance.get("kind"),
                settings_text(dict(record.params)),
                None if record.score is None else score_text(record.score, record.score_low, record.score_high),
                f"{record.created_at:%Y-%m-%d %H:%M}",
            ]
            for record in records
        ],
    )


@app.command("show")
def show(
    version: Annotated[int, typer.Argument(help="Id from `selfreg configs list`.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one version whole: settings, plan, where it comes from, what it scored and cost."""
    record = _configs(store).get(version)
    if record is None:
        raise ConfigError(f"no configuration has the id {version}; `selfreg configs list` shows those there are")
    document = _as_dict(record)
    if as_json:
        print_json(document)
        return
    table(f"Configuration {version}", ["field", "value"], [[name, value] for name, value in document.items()])


def _configs(store: str | None) -> Any:
    from selfreg_sdk.config import load_settings
    from selfreg_sdk.runtime import runtime

    return runtime(load_settings(store=store).store).configs


def _as_dict(record: Any) -> dict[str, Any]:
    return {
        "id": record.id,
        "task_key": record.task_key,
        "model": record.model,
        "aggregation": record.aggregation,
        "params": dict(record.params),
        "plan": None if record.plan is None else dict(record.plan),
        "provenance": dict(record.provenance),
        "score": record.score,
        "score_low": record.score_low,
        "score_high": record.score_high,
        "cost_usd": None if record.cost_usd is None else str(record.cost_usd),
        "parent_id": record.parent_id,
        "created_at": record.created_at.isoformat(),
    }
