"""``selfreg demo``: the whole product once, on this machine, with the model that comes along."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from selfreg_sdk.cli.demo_tune import demo_tune
from selfreg_sdk.cli.families import Judge, Prompt, held_out_prompts, judge
from selfreg_sdk.cli.local_server import LocalServer, local_server
from selfreg_sdk.cli.output import JsonOption, err, out, print_json, settings_text, table

app = typer.Typer(invoke_without_command=True)
app.command("tune")(demo_tune)

ACCEPTED_FROM = 0.5
"""A prompt counts as accepted from this score on. Five families score 0 or 1; the creative one scores a set in between."""

PRICE = {"input_usd_per_mtok": Decimal("0.10"), "output_usd_per_mtok": Decimal("0.40")}
"""What the demo pretends the local model costs, so that there is something to see in the ledger."""


@dataclass
class FamilyRun:
    """What happened to the prompts of one family in one pass."""

    prompts: int = 0
    accepted: int = 0
    cost: Decimal = Decimal(0)
    record: dict[str, Any] = field(default_factory=dict)
    example: tuple[str, str] = ("", "")


@app.callback()
def demo(
    context: typer.Context,
    prompts: Annotated[int, typer.Option(min=1, max=200, help="Held-out prompts per task family.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    store: Annotated[
        str | None, typer.Option(help="Keep the plans and the ledger here. Default: a store that is thrown away.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the embedded model, let it plan, answer and be checked; then once more from the cached plans.

    Six task families, each with held-out prompts and a checker in code. The first pass makes one planning call per
    family, the second none. The ledger is compared with what the server itself has counted.
    """
    if context.invoked_subcommand is not None:
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_scratch()))
        questions = held_out_prompts(prompts, seed=seed)
        with _progress() as progress:
            waiting = progress.add_task("starting the local server", total=len(questions) * 2)
            server = stack.enter_context(local_server("tiny"))
            judging = stack.enter_context(judge())
            llm = _regulated(server, store or str(folder / "demo.db"))
            meter = llm.books.meter
            before = meter.totals()
            passes = []
            for number in (1, 2):
                progress.update(waiting, description=f"pass {number}")
                planned = meter.totals(purpose="plan").settled
                families = _run(llm, questions, judging, lambda: progress.advance(waiting))
                passes.append((families, meter.totals(purpose="plan").settled - planned))
        totals, server_tokens = meter.totals(), server.tokens()
    ledger = {
        "calls": totals.settled - before.settled,
        "ledger_tokens": (totals.prompt_tokens + totals.completion_tokens)
        - (before.prompt_tokens + before.completion_tokens),
        "server_tokens": server_tokens,
        "ledger_usd": str(totals.usd - before.usd),
    }
    if as_json:
        (first, _), (second, _) = passes
        print_json(
            {
                "families": {name: _as_dict(run, second[name]) for name, run in first.items()},
                "planner_calls": [calls for _, calls in passes],
                **ledger,
            }
        )
    else:
        for number, (families, calls) in enumerate(passes, start=1):
            _show(number, families, calls)
        out.print(
            f"{ledger['calls']} calls, {ledger['ledger_tokens']} tokens in the ledger, {server_tokens} counted by the "
            f"server, {ledger['ledger_usd']} USD at a made-up price"
        )
    if ledger["ledger_tokens"] != server_tokens:
        err.print("the ledger and the server disagree on tokens: this is a defect, please report it")
        raise typer.Exit(1)


def _regulated(server: LocalServer, store: str) -> Any:
    from selfreg_sdk.chat_model import ChatSelfReg
    from selfreg_sdk.prices import PriceOverride, Prices

    return ChatSelfReg(
        model=server.model,
        base_url=server.base_url,
        server="selfreg",
        store=store,
        budget="1.00 USD",
        budget_name="demo",
        prices=Prices({server.model: PriceOverride(**PRICE)}),
    )


def _run(llm: Any, questions: Sequence[Prompt], judging: Judge, tick: Any) -> dict[str, FamilyRun]:
    """Ask every question once."""
    from langchain_core.messages import HumanMessage

    families: dict[str, FamilyRun] = {}
    for question in questions:
        metadata = {"selfreg_task": question.family, "selfreg_aggregation": question.aggregation}
        samples = llm.generate([[HumanMessage(question.text)]], metadata=metadata).generations[0]
        record = samples[0].message.response_metadata["selfreg"]
        run = families.setdefault(question.family, FamilyRun(record=record, example=(question.text, samples[0].text)))
        run.prompts += 1
        run.accepted += judging.score(question, [sample.text for sample in samples]) >= ACCEPTED_FROM
        run.cost += Decimal(record["cost_usd"])
        tick()
    return families


def _as_dict(run: FamilyRun, again: FamilyRun) -> dict[str, Any]:
    prompt, answer = run.example
    return {
        "prompts": run.prompts,
        "accepted": run.accepted,
        "source": run.record["source"],
        "sent": run.record["sent"],
        "plan": run.record["plan"],
        "ignored": run.record["ignored"],
        "cost_usd": str(run.cost),
        "example": {"prompt": prompt, "answer": answer},
        "second_pass": {"accepted": again.accepted, "source": again.record["source"], "cost_usd": str(again.cost)},
    }


def _show(number: int, families: dict[str, FamilyRun], planner_calls: int) -> None:
    columns = ["family", "source", "planned", "sent", "not sent", "accepted", "USD"]
    rows = [
        [
            name,
            run.record["source"],
            " ".join(run.record["plan"].values()) if run.record["plan"] else None,
            settings_text(run.record["sent"]),
            ", ".join(change["field"] for change in run.record["ignored"] if change["sent"] is None) or None,
            f"{run.accepted} of {run.prompts}",
            run.cost,
        ]
        for name, run in families.items()
    ]
    table(f"Pass {number}: {planner_calls} planning calls", columns, rows)
    if number == 1:
        examples = [[name, *run.example] for name, run in families.items()]
        table("One prompt of each family", ["family", "prompt", "answer"], examples)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder that is gone afterwards, whatever a closing store may still write there."""
    folder = tempfile.mkdtemp(prefix="selfreg-demo-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _progress() -> Progress:
    """On stderr, so that stdout holds the result alone."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err
    )
