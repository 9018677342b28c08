"""The group `heads`: what its commands are, and what becomes of errors and of Ctrl-C in all of them.

A command is one function in a file of its own. Files import torch inside the function: --help does not wait for it.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from local_backend.cli_heads import eval as evaluation
from local_backend.cli_heads import inspect, merge, reward, sample, split, steer, train
from local_backend.config import SetupError


class _Group(TyperGroup):
    """Ends a command that cannot work with one line on stderr and exit code 2, an interrupted one with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SetupError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="AutoDeco heads: two small networks that choose temperature and top_p for every token of a frozen model.\n\n"
    "A heads folder weighs megabytes and names its base model; a merged folder holds both and loads alone. From a model to "
    "a server that decodes for itself:\n\n"
    "  selfreg heads train --model ./base --data answers.jsonl --out ./my-heads\n"
    "  selfreg heads inspect ./my-heads\n"
    "  selfreg heads merge ./my-heads --out ./my-model\n"
    "  selfreg serve ./my-model",
)
app.command("sample")(sample.sample)
app.command("train")(train.train)
app.command("reward")(reward.reward)
app.command("eval")(evaluation.evaluate)
app.command("inspect")(inspect.inspect)
app.command("merge")(merge.merge)
app.command("split")(split.split)
app.command("steer")(steer.steer)
