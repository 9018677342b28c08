"""`heads eval`: what heads buy, beside other ways to decode."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_backend.cli_heads.asked import (
    TINY,
    AimOption,
    Checker,
    MaxTokens,
    N,
    Score,
    read,
    tasks_asked,
)
from local_backend.config import Dtype, SetupError

if TYPE_CHECKING:
    from local_backend.training.evaluation.baselines import Where
    from local_backend.training.evaluation.evaluate import Exam, Result


def evaluate(
    heads: Annotated[str, typer.Argument(help="Heads: a folder or a Hub name (owner/name).")],
    prompts: Annotated[str, typer.Option(help='Test prompts: JSON lines with "messages" or "prompt"; or tiny.')],
    validation: Annotated[
        str | None, typer.Option(help="Prompts that the other ways to decode are tuned on. Not for tiny.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base.", show_default="what the heads say")] = None,
    checker: Checker = None,
    score: Score = None,
    aim: AimOption = "right",
    n: N = 1,
    max_tokens: MaxTokens = 512,
    samples: Annotated[int, typer.Option(min=1, help="Answers a test prompt: the k of pass@k.")] = 16,
    count: Annotated[int, typer.Option(min=2, help="Prompts a family, for tiny.")] = 20,
    quick: Annotated[bool, typer.Option("--quick", help="Beside greedy, T=1 and a few fixed settings alone.")] = False,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the base's weights.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch decides")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Say what heads buy on held-out prompts, beside greedy, T=1, the best fixed setting, and rules that need no training.

      selfreg heads eval ./my-heads --prompts test.jsonl --validation validation.jsonl --checker judge:right

    Everything with a number is tuned on the validation prompts; an oracle picks the best fixed setting of each task on the test
    prompts themselves. Intervals are of 95 % over prompts, and one that holds 0 is no proof of anything. Without a download:

      selfreg heads eval ./tiny-heads --prompts tiny
    """
    import torch
    from transformers.utils import logging

    from local_backend.checkpoint.load import load_heads
    from local_backend.loading import load
    from local_backend.training.evaluation.evaluate import Exam, Method
    from local_backend.training.evaluation.tasks import embedded_tasks

    if threads is not None:
        torch.set_num_threads(threads)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    trained, info = load_heads(heads)
    name = model or info.base_name
    if name is None:
        raise SetupError(f"{heads!r} does not say what base it belongs to: name it with --model")
    base, tokenizer = load(name, dtype=dtype, device=device, chat=False)
    if prompts == TINY:
        testing, tuning = (embedded_tasks(tokenizer, split, count=count) for split in ("test", "validation"))
    else:
        if validation is None:
            raise SetupError("--validation is missing: tuned on the test prompts, every rule would look too good")
        testing, tuning = (
            tasks_asked(read(each, tokenizer), checker=checker, score=score, aim=aim, n=n, max_tokens=max_tokens)
            for each in (prompts, validation)
        )
    exam = Exam(base=base, tokenizer=tokenizer, tasks=testing, samples=samples, seed=seed)
    exams: dict[Where, Exam] = {
        "validation": Exam(base=base, tokenizer=tokenizer, tasks=tuning, seed=seed),
        "test": Exam(base=base, tokenizer=tokenizer, tasks=testing, seed=seed),
        "full test": exam,
    }
    trained = trained.to(base.device).eval()
    ours = exam.measure(Method.heads(trained, "these heads"))
    others = _others(exams, exam.decisions(trained), quick=quick)
    _tell(ours, others, samples=max(samples, *(task.n for task in testing)), as_json=as_json)


def _others(exams: dict[Where, Exam], mean: tuple[float, float], *, quick: bool) -> list[Result]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from local_backend.training.evaluation.baselines import RULES, STATIC, baselines
    from local_backend.training.evaluation.evaluate import Method

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def measure(where: Where, settings: Sequence[str]) -> list[Result]:
            return [
                exams[where].measure(Method.sampler(setting))
                for setting in bar.track(settings, description=f"{where} prompts")
            ]

        static = STATIC[::4] if quick else STATIC
        return baselines(measure, mean=mean, static=static, rules={} if quick else RULES)


def _tell(ours: Result, others: Sequence[Result], *, samples: int, as_json: bool) -> None:
    """The table: how everybody did, and how much better these heads did."""
    import json

    from rich.console import Console
    from rich.table import Table

    from local_backend.training.evaluation.evaluate import MEASURES, difference

    checked = all(task.right for task in ours.tasks.values())
    measures = {
        name.replace("@k", f"@{samples}"): measure
        for name, measure in MEASURES.items()
        if checked or not name.startswith("pass")
    }
    table = Table("", *measures, "heads minus it", "95 %")
    for each in (ours, *others):
        values: dict[str, Any] = {name: each.mean(measure) for name, measure in measures.items()}
        if each is not ours:
            mean, low, high = difference([ours], [each])
            values |= {"difference": mean, "low": low, "high": high}
        if as_json:
            typer.echo(json.dumps({"name": each.name, **values}))
            continue
        gap = ("", "") if each is ours else (f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}")
        table.add_row(each.name, *(f"{values[name]:.3f}" for name in measures), *gap)
    if not as_json:
        Console().print(table)
        for task in ours.tasks:
            best = max(others[:-1], key=lambda other: sum(other.tasks[task].scores))
            mine = sum(ours.tasks[task].scores) / len(ours.tasks[task].scores)
            theirs = sum(best.tasks[task].scores) / len(best.tasks[task].scores)
            typer.echo(f"{task}: {mine:.3f}; the best of the others: {best.name}, {theirs:.3f}")
