"""`heads steer`: heads that follow a sentence in the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def steer(
    heads: Annotated[
        str, typer.Argument(help="Trained heads: a folder, a file of weights, or a Hub name (owner/name).")
    ],
    data: Annotated[Path, typer.Option(help="JSONL with messages, or with prompt and completion.")],
    out: Annotated[Path, typer.Option(help="Folder for the steered heads.")],
    base: Annotated[
        str | None, typer.Option(help="Base model: a folder or a Hub name.", show_default="the one the heads name")
    ] = None,
    commands: Annotated[
        Path | None,
        typer.Option(
            help='Wordings: {"training": {"low": [...], "normal": [...], "high": [...]}, "held_out": {...}}.',
            show_default="English ones",
        ),
    ] = None,
    place: Annotated[
        Literal["before", "after", "system"],
        typer.Option(help="Where a command stands: before or after the user's words, or in the system message."),
    ] = "before",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1000,
    learning_rate: Annotated[float, typer.Option(help="AdamW's peak; falls to 0.")] = 3e-3,
    temperature_margin: Annotated[
        float, typer.Option(help="By how much a command should move the mean temperature.")
    ] = 0.15,
    top_p_margin: Annotated[float, typer.Option(help="By how much a command should move the mean top_p.")] = 0.05,
    anchor: Annotated[
        float, typer.Option(min=0, help="Weight of what keeps prompts without a command as they were.")
    ] = 1.0,
    held_out: Annotated[int, typer.Option(min=1, help="Prompts to judge on; at most a fifth of all.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the wordings, the split and the order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU when there is one.")] = "auto",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard's event files.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew though --out holds a run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show one prompt at three levels, train nothing.")
    ] = False,
) -> None:
    """Teach HEADS that "answer with low randomness" lowers temperature and top_p, and "be creative" raises them.

    The base stays frozen. Each prompt of the data is trained on with a low, a normal and a high command; prompts and wordings
    that were held out show what came of it. Ctrl-C leaves a state: the same command with --resume goes on.

      selfreg heads steer ./my-heads --data answers.jsonl --out ./my-steered-heads
      selfreg heads steer ./my-heads --data answers.jsonl --out ./my-steered-heads --commands german.json --place system
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from local_backend.training.steering.steer import preview
    from local_backend.training.steering.steer import steer as run
    from local_backend.training.steering.steer_config import SteerConfig

    config = SteerConfig(
        heads=heads,
        data=data,
        out=out,
        model=base,
        commands=commands,
        place=place,
        steps=steps,
        learning_rate=learning_rate,
        temperature_margin=temperature_margin,
        top_p_margin=top_p_margin,
        anchor=anchor,
        held_out=held_out,
        seed=seed,
        device=device,
        tensorboard=tensorboard,
        resume=resume,
        overwrite=overwrite,
    )
    if dry_run:
        for level, prompt in preview(config).items():
            typer.echo(f"{level}: {prompt!r}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("steer", total=steps)
        result = run(
            config,
            tell=lambda line: bar.console.print(line, highlight=False),
            report=lambda step, total, loss: bar.update(
                task, completed=step, total=total, description=f"steer, loss {loss:.4f}"
            ),
        )
    if not result.finished:
        typer.echo(f"stopped after {result.step} of {steps} steps; the same command with --resume goes on")
        raise typer.Exit(130)
    assert result.known is not None
    typer.echo(result.known.sentence("known wordings"))
    if result.new is not None:
        typer.echo(result.new.sentence("new wordings"))
    typer.echo(f"wrote {out}")
