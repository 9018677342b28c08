"""The root of the command line, and what happens to errors."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from selfreg_sdk import __version__
from selfreg_sdk.cli import ask, budget, configs, demo, evaluate, explain, frontier, heads, serve, studies, tune
from selfreg_sdk.errors import BudgetExceeded, ConfigError, ProviderError, SelfregError

app = typer.Typer(
    name="selfreg",
    help=(
        "LLM calls that regulate themselves: decoding settings are planned, tuned under a hard budget, or learned, and you "
        "write none of them.\n\nStart with `selfreg demo`: it needs no key, no GPU and no download. Then put the same in "
        "front of your own model:\n\n    from selfreg_sdk import ChatSelfReg\n\n"
        '    llm = ChatSelfReg(model="gpt-4.1-mini", budget="2.00 USD")\n\n'
        "To tune a task under a budget: `selfreg demo tune`, then `selfreg tune --example > task.yaml`."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(demo.app, name="demo")
app.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve.serve)
app.command("heads", context_settings=heads.CONTEXT, add_help_option=False)(heads.heads)
app.command("ask")(ask.ask)
app.command("explain")(explain.explain)
app.command("tune")(tune.tune)
app.command("eval")(evaluate.evaluate)
app.command("frontier")(frontier.frontier)
app.command("studies")(studies.studies)
app.add_typer(configs.app, name="configs")
app.add_typer(budget.app, name="budget")

EXIT_CODES = ((ConfigError, 2), (BudgetExceeded, 3), (ProviderError, 4), (SelfregError, 1))


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"selfreg {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. Errors are one line on stderr.

    Exit codes: 0 done; 2 something given cannot work; 3 over budget; 4 the provider failed; 130 interrupted.
    """
    try:
        app()
    except SelfregError as exc:
        typer.echo(f"error: {exc}", err=True)
        sys.exit(next(code for kind, code in EXIT_CODES if isinstance(exc, kind)))
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
