"""``selfreg tune``: the best configuration of a task that a budget can find."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selfreg_sdk.cli.interrupting import run_watched
from selfreg_sdk.cli.output import JsonOption, StoreOption, print_json
from selfreg_sdk.cli.quoted import quote_json, show_quote
from selfreg_sdk.cli.tune_options import BaseUrl, Models, PriceFile, Seed, Workers, read_task
from selfreg_sdk.cli.tuned import show_tuned, tuned_json

if TYPE_CHECKING:
    from selfreg_sdk.tuner.task.file import Task

Usd = Annotated[
    str | None, typer.Option("--budget", help="Most USD that the tuning may cost in all, never a cent over.")
]
PerRequest = Annotated[str | None, typer.Option("--inference-budget", help="Most USD a request may cost on average.")]


def _print_schema(wanted: bool) -> None:
    if wanted:
        from selfreg_sdk.tuner.task.file import task_schema

        typer.echo(json.dumps(task_schema(), indent=2, ensure_ascii=False))
        raise typer.Exit


def _print_example(wanted: bool) -> None:
    if wanted:
        typer.echo(starter(), nl=False)
        raise typer.Exit


def starter() -> str:
    """A commented task file to begin with."""
    return files("selfreg_sdk.cli").joinpath("starter.yaml").read_text(encoding="utf-8")


def tune(
    task: Annotated[
        Path, typer.Argument(help="The task file; --example prints one to begin with.", show_default=False)
    ],
    inference_budget: PerRequest = None,
    budget: Usd = None,
    method: Annotated[
        Literal["pool", "ecooptigen"] | None,
        typer.Option(help="pool shares samples between configurations; ecooptigen is the paper's.", show_default=False),
    ] = None,
    seed: Seed = None,
    workers: Workers = None,
    model: Models = None,
    base_url: BaseUrl = None,
    prices: PriceFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would do and cost; send nothing.")] = False,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--fresh",
            help="Insist on a study that was begun, or on one that was not. Default: go on where there is one.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Name of the study. Default: the task's.", show_default=False)
    ] = None,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Store the result for ChatSelfReg to use.", show_default=False)
    ] = True,
    store: StoreOption = None,
    as_json: JsonOption = False,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON schema of task files.", is_eager=True, callback=_print_schema),
    ] = False,
    example: Annotated[
        bool,
        typer.Option("--example", help="Print a commented task file.", is_eager=True, callback=_print_example),
    ] = False,
) -> None:
    """Find the best configuration of a task within a mean cost per request, for at most a total.

    Begin with a task file:  selfreg tune --example > task.yaml

    Look before you pay:  selfreg tune task.yaml --dry-run

    Then:  selfreg tune task.yaml --inference-budget 0.0005 --budget 0.30

    Everything paid for is kept: after Ctrl-C or a crash the same command goes on, and the same command on another machine
    with the same store helps. Without a key: selfreg demo tune.
    """
    read = read_task(task, models=model)
    given = {
        "store": store,
        "base_url": base_url,
        "prices": prices,
        "budget": budget,
        "inference_budget": inference_budget,
        "method": method,
        "seed": seed,
        "workers": workers,
        "name": name,
    }
    if dry_run:
        quote_it(read, given, as_json=as_json)
        return
    tune_it(read, {**given, "resume": resume, "save": save}, as_json=as_json)


def quote_it(task: Task, given: dict[str, Any], *, as_json: bool) -> None:
    """Print what a tuning would do and cost."""
    from selfreg_sdk.tuner.tune import dry_run

    quote = dry_run(task, **given)
    if as_json:
        print_json(quote_json(quote))
    else:
        show_quote(quote)


def tune_it(task: Task, given: dict[str, Any], *, as_json: bool) -> None:
    """Tune, showing how far it is, and print the end."""
    from selfreg_sdk.tuner.tune import atune

    tuned = run_watched(lambda show: atune(task, on_progress=show, **given), quiet=as_json)
    if as_json:
        print_json(tuned_json(tuned))
    else:
        prompt = None if tuned.winner is None else task.prompt(str(tuned.winner.config["prompt"]))
        show_tuned(tuned, fields=prompt.fields if prompt else (), store=given.get("store"))
