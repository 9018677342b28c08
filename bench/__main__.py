"""``python -m bench NAME``: side-by-side measurements, each one command."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.rows import Row

BENCHES: dict[str, tuple[str, ...]] = {
    "import_time": (),
    "client": (),
    "tune_replay": ("data", "jobs", "keep"),
    "tune_speed": ("data",),
    "heads_overhead": (),
    "heads_quality": ("jobs",),
}
"""Each bench, and which of the options below it takes."""


def main(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHES)}, all.")] = "all",
    quick: Annotated[bool, typer.Option(help="End within two minutes on two cores.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder of recorded answers, for tune_replay and tune_speed.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes of tune_replay and heads_quality; default: one per core.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="File in which tune_replay keeps our runs and goes on from; for one state of the code."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--table", help="The summary of tune_replay in Markdown.")] = False,
) -> None:
    """Measure selfreg beside a peer in the same run: ratios of medians with 95 % intervals, never a single absolute time."""
    if name != "all" and name not in BENCHES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(BENCHES)}, all")
    options: dict[str, Any] = {"data": data, "jobs": jobs, "keep": keep}
    if markdown:
        if name != "tune_replay":
            raise typer.BadParameter("--table is for tune_replay")
        from bench import tune_replay, tune_rows

        if runs := tune_replay.runs(quick, **options):
            typer.echo(tune_rows.table(runs))
        return
    rows = [
        row
        for each in (BENCHES if name == "all" else (name,))
        for row in import_module(f"bench.{each}").run(quick, **{option: options[option] for option in BENCHES[each]})
    ]
    if as_json:
        for row in rows:
            typer.echo(row.to_json())
        return
    table = Table("bench", "case", "metric", "ours", "peer", "ratio", "95 %", "target")
    for row in rows:
        table.add_row(
            row.bench,
            row.case,
            f"{row.metric} ({row.unit})",
            f"{row.ours:.3g}",
            f"{row.peer:.3g} ({row.peer_name})",
            f"{row.ratio:.2f}",
            f"{row.low:.2f} to {row.high:.2f}",
            _target(row),
        )
    Console().print(table)


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    above = "" if row.above is None else f", interval > {row.above:g}"
    return f"{'>=' if row.better == 'higher' else '<='} {row.target:g}{above}: {'met' if row.met else 'missed'}"


if __name__ == "__main__":
    typer.run(main)
