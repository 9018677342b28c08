"""``python -m bench NAME``: side-by-side measurements, each one command."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.rows import Row

BENCHES = ("import_time", "client")


def main(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHES)}, all.")] = "all",
    quick: Annotated[bool, typer.Option(help="End within two minutes on two cores.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Measure selfreg beside a peer in the same run: ratios of medians with 95 % intervals, never a single absolute time."""
    if name != "all" and name not in BENCHES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(BENCHES)}, all")
    rows = [
        row for each in (BENCHES if name == "all" else (name,)) for row in import_module(f"bench.{each}").run(quick)
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
    return f"{'>=' if row.better == 'higher' else '<='} {row.target:g}: {'met' if row.met else 'missed'}"


if __name__ == "__main__":
    typer.run(main)
