"""``selfreg demo tune``: a family of the embedded model, tuned on this machine."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from selfreg_sdk.cli.demo_task import KINDS, write_demo_task
from selfreg_sdk.cli.local_server import local_server
from selfreg_sdk.cli.output import JsonOption, err
from selfreg_sdk.cli.tune import tune_it
from selfreg_sdk.cli.tune_options import read_task
from selfreg_sdk.errors import ConfigError


def demo_tune(
    family: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")] = "code",
    examples: Annotated[
        int, typer.Option(min=20, max=500, help="Prompts, none of which the model was trained on.")
    ] = 60,
    budget: Annotated[str, typer.Option(help="USD in all, at a made-up price.")] = "0.03",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts, the split and the search.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Write the task and the store here and keep them, to change and tune again.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tune the embedded model on one of its task families: a task file, a local server, a checker in code; no key.

    The baseline is the server's default settings. Winner and baseline are compared on prompts that the search never saw.
    """
    if family not in KINDS:
        raise ConfigError(f"family {family!r} is none of {', '.join(KINDS)}")
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        if not as_json:
            err.print("starting the local server", style="dim")
        server = stack.enter_context(local_server("tiny"))
        file = write_demo_task(place, family, model=server.model, examples=examples, budget=budget, seed=seed)
        if not as_json:
            typer.echo(file.read_text(encoding="utf-8"))
        given = {"store": place / "tune.db", "base_url": server.base_url}
        tune_it(read_task(file), given, as_json=as_json)
        if folder is None and not as_json:
            err.print("all of it is thrown away now; --folder DIR keeps the task, its files and the store", style="dim")
