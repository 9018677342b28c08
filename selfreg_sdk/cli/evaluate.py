"""``selfreg eval``: what a configuration of a task scores and costs on examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from selfreg_sdk.cli.figures import usd_text
from selfreg_sdk.cli.interrupting import run_watched
from selfreg_sdk.cli.output import JsonOption, StoreOption, print_json, table
from selfreg_sdk.cli.tune_options import BaseUrl, Models, PriceFile, TaskFile, Workers, read_task
from selfreg_sdk.cli.tuned import MEASURED_COLUMNS, comparison_json, measured_json, measured_row, say
from selfreg_sdk.errors import ConfigError

if TYPE_CHECKING:
    from selfreg_sdk.tuner.eval_task import Evaluation
    from selfreg_sdk.tuner.study.configurations import AnyConfig
    from selfreg_sdk.tuner.study.plan import Plan

_NOTHING_BOUGHT = 3
"""Exit code where the budget lets no request through."""


def evaluate(
    task: TaskFile,
    config: Annotated[
        str,
        typer.Option(help="Id of a stored version, 'baseline', or settings like 'temperature=0.2 n=5 prompt=short'."),
    ] = "baseline",
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Another configuration to compare with, example by example; may be repeated.", show_default=False
        ),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="A file with other examples than the task's.", show_default=False)
    ] = None,
    part: Annotated[
        Literal["unseen", "test", "holdout", "search", "all"] | None,
        typer.Option(
            help="Part of the task's examples. Default: unseen, those that no search sees: holdout and test.",
            show_default=False,
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(min=0, max=999, help="Another number draws other samples.")] = 0,
    budget: Annotated[
        str | None, typer.Option(help="Most USD that this may cost in all. Default: the task's.", show_default=False)
    ] = None,
    workers: Workers = None,
    model: Models = None,
    base_url: BaseUrl = None,
    prices: PriceFile = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a configuration of a task on examples: score and cost with intervals, and against others.

    Example:  selfreg eval task.yaml --config 7 --against baseline --budget 0.05

    Settings that are left out are those of the baseline for model, prompt and max_tokens, else the provider's. The same
    command again costs nothing, and goes on where the first one was broken off.
    """
    from selfreg_sdk.tuner.eval_task import aeval_task
    from selfreg_sdk.tuner.study.plan import plan
    from selfreg_sdk.tuner.study.watch import Watch

    if examples is not None and part is not None:
        raise ConfigError(f"--part {part} is of the task's own examples; leave it out with --examples")
    read = read_task(task, models=model)
    planned = plan(read, budget=budget, workers=workers)
    done = run_watched(
        lambda show: aeval_task(
            read,
            _named(config, planned),
            against=[_named(each, planned) for each in against or []],
            on=examples or part or "unseen",
            store=store,
            budget=budget,
            workers=workers,
            repeat=repeat,
            on_progress=Watch(planned.total, show).checking,
            base_url=base_url,
            prices=prices,
        ),
        quiet=as_json,
        checking="measuring",
    )
    names = [config, *(against or [])]
    if as_json:
        print_json(_as_json(done, names))
    else:
        _show(done, names, part=done.part if examples is None else examples.name)
    if not done.measured.examples:
        raise typer.Exit(_NOTHING_BOUGHT)


def _named(text: str, planned: Plan) -> AnyConfig:
    """The configuration that an option means."""
    from policies.params import parse_params

    if "=" not in text:
        return text
    given = dict(_pair(pair) for pair in text.replace(",", " ").split())
    names: dict[str, Any] = {name: given.pop(name) for name in ("model", "prompt") if name in given}
    usual = {name: planned.baseline[name] for name in ("model", "prompt", "max_tokens")}
    try:
        return {**usual, **parse_params(given).as_dict(), **names}
    except ValueError as error:
        raise ConfigError(f"configuration {text!r}: {error}") from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ConfigError(f"{text!r} is not NAME=VALUE; write settings like 'temperature=0.2 n=5'")
    return name, value


def _show(done: Evaluation, names: list[str], *, part: str) -> None:
    from selfreg_sdk.tuner.measuring.verdict import difference_text

    every, tried, wanted = (done.measured, *done.others), done.measured.examples, done.measured.wanted
    rows = [[name, *measured_row(each)] for name, each in zip(names, every, strict=True)]
    table(f"{tried} examples ({part})", ["", *MEASURED_COLUMNS], rows)
    for name, each in zip(names, every, strict=True):
        if each.failed:
            say(f"{name}: {each.failed} of {each.examples} examples failed and count as the worst score")
    if tried < wanted:
        say(f"the budget ended after {tried} of {wanted} examples; raise it and run this again to go on")
    for name, comparison in zip(names[1:], done.comparisons, strict=True):
        say(f"{names[0]} against {name}: {comparison.verdict}, {difference_text(comparison)}")
    say(f"{usd_text(done.spent)} of {usd_text(done.total)} USD spent")
    for note in done.notes:
        say(f"note: {note}")


def _as_json(done: Evaluation, names: list[str]) -> dict[str, Any]:
    every = (done.measured, *done.others)
    return {
        "study": done.study,
        "part": done.part,
        "measured": [{"name": name, **measured_json(each)} for name, each in zip(names, every, strict=True)],
        "compared": [
            {"name": names[0], "against": name, **comparison_json(each)}
            for name, each in zip(names[1:], done.comparisons, strict=True)
        ],
        "spent_usd": str(done.spent),
        "budget_usd": str(done.total),
        "notes": list(done.notes),
    }
