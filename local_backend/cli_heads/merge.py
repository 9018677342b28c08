"""`heads merge`: heads and base in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    heads: Annotated[str, typer.Argument(help="Heads: a folder, a file of weights, or a Hub name (owner/name).")],
    out: Annotated[Path, typer.Option(help="New folder for base and heads together.")],
    base: Annotated[
        str | None, typer.Option(help="Base model: a folder or a Hub name.", show_default="the one the heads name")
    ] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Merge even if the heads were trained on another base, if they fit.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what it takes, write nothing.")
    ] = False,
) -> None:
    """Put heads and their base into one folder, which loads alone and which engines that know AutoDeco can serve.

    Files are copied one by one, so a few megabytes of memory do for any model. `heads split` undoes it bit for bit.

      selfreg heads merge ./my-heads --out ./my-model
      selfreg heads merge Jadeislaw/AutoDeco-R1-Distill-Qwen-7B --base deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --out ./r1

    Then in Python: `import local_backend.model`, and AutoModelForCausalLM.from_pretrained("./my-model").generate(...)
    decodes with the heads.
    """
    from local_backend.checkpoint.pack import merge as run
    from local_backend.checkpoint.pack import plan_merge
    from local_backend.cli_heads.progress import copying

    if dry_run:
        plan = plan_merge(heads, out, base=base, any_base=any_base)
        typer.echo(
            f"would write {plan.size / 2**20:,.1f} MiB to {out}: {len(plan.files)} file(s) of {plan.base_name}, and heads"
        )
        return
    with copying("merge") as progress:
        run(heads, out, base=base, any_base=any_base, progress=progress)
    typer.echo(f"wrote {out}")
