"""How commands speak: tables for people, JSON for programs, one line for errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

err = Console(stderr=True)
out = Console()

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="SQLite file or database URL. Default: SELFREG_STORE, else the user's data folder.",
        show_default=False,
    ),
]


def print_json(document: Any) -> None:
    """One JSON document on stdout, nothing else."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; None shows as a dash."""
    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*("-" if cell is None else str(cell) for cell in row))
    out.print(shown)


def settings_text(values: dict[str, Any]) -> str:
    """Settings in one line: ``temperature=0.7 n=8``."""
    return " ".join(f"{name}={value}" for name, value in values.items()) or "-"
