"""`heads split`: a merged folder taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def split(
    merged: Annotated[str, typer.Argument(help="A merged folder, or a Hub name (owner/name).")],
    heads: Annotated[Path | None, typer.Option(help="New folder for the heads.", show_default="leave them out")] = None,
    base: Annotated[Path | None, typer.Option(help="New folder for the base.", show_default="leave it out")] = None,
) -> None:
    """Take a merged folder apart into heads and base; the merged one stays as it is.

    Files are copied one by one, so a few megabytes of memory do for any model.

      selfreg heads split ./my-model --heads ./my-heads
      selfreg heads split ./my-model --heads ./my-heads --base ./my-base
    """
    if heads is None and base is None:
        raise typer.BadParameter("say what to write: --heads FOLDER, --base FOLDER, or both")

    from local_backend.checkpoint.pack import split as run
    from local_backend.cli_heads.progress import copying

    with copying("split") as progress:
        run(merged, heads=heads, base=base, progress=progress)
    for folder in (heads, base):
        if folder is not None:
            typer.echo(f"wrote {folder}")
