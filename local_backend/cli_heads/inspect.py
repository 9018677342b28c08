"""`heads inspect`: what is in a folder."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def inspect(
    source: Annotated[str, typer.Argument(help="A folder, a file of weights, or a Hub name (owner/name).")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Say what a checkpoint holds: layout, shapes, precision, base, and how its heads were trained.

    Reads headers alone: as fast for a merged 100 GB as for heads of 4 MB. A Hub name is downloaded first.

      selfreg heads inspect ./my-heads
      selfreg heads inspect ./my-heads --json | jq .recipe
    """
    from rich.console import Console
    from rich.table import Table

    from local_backend.checkpoint.describe import describe

    found = describe(source)
    if as_json:
        typer.echo(json.dumps(found.record(), ensure_ascii=False))
        return
    table = Table("", str(found.info.path), show_header=True, header_style="bold")
    for what, value in found.rows():
        table.add_row(what, value)
    Console().print(table)
