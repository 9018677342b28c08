"""`heads sample`: the model's own right answers, to train heads on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from local_backend.config import Dtype, SetupError


def sample(
    model: Annotated[str, typer.Option(help="Base: tiny, a Hugging Face folder, or a Hub name (owner/name).")],
    prompts: Annotated[str, typer.Option(help='JSON lines with "messages" or a templated "prompt"; or tiny.')],
    checker: Annotated[str, typer.Option(help="module:function of a record and an answer; or tiny.")],
    out: Annotated[Path, typer.Option(help="JSON lines to write, for `heads train`.")],
    samples: Annotated[int, typer.Option(min=1, help="Answers a prompt.")] = 4,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Most right answers of a prompt to keep.", show_default="all")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts a family, for tiny.")] = 100,
    temperature: Annotated[float, typer.Option(help="Of the draw; it decides much of what heads learn.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of the draw.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer; unfinished ones are refused.")] = 1024,
    rows: Annotated[int, typer.Option(min=1, help="Answers generated together.")] = 32,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the weights.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch decides")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after Ctrl-C or a crash.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew though the file exists.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, say what it takes; draw nothing.")
    ] = False,
) -> None:
    """Draw answers from a model and keep those that a checker accepts.

      selfreg heads sample --model ./my-model --prompts questions.jsonl --checker judge:right --out answers.jsonl

    with a judge.py beside you that says what right means, given the prompt's whole line and an answer:

      def right(record, answer): return answer.strip().endswith(record["answer"])

    Try it without a download: --model tiny --prompts tiny --checker tiny --max-tokens 200.
    """
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from transformers.utils import logging

    from local_backend.loading import load
    from local_backend.training.trajectories import SampleConfig, Sampled, embedded_prompts, load_checker, read_prompts
    from local_backend.training.trajectories import sample as run

    if (prompts == "tiny") != (checker == "tiny"):
        raise SetupError(
            f"prompts={prompts!r} and checker={checker!r}: the embedded tasks come with their checker, both are tiny"
        )
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    config = SampleConfig(
        model=model,
        checker=checker,
        out=out,
        samples=samples,
        keep=keep,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        rows=rows,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
    )
    check = None if checker == "tiny" else load_checker(checker)
    base, tokenizer = load(model, dtype=dtype, device=device, chat=False)
    if check is None:
        found, check = embedded_prompts(tokenizer, count=count, seed=seed)
    else:
        found = read_prompts(Path(prompts), tokenizer)
    if dry_run:
        longest = max(len(each.ids) for each in found)
        typer.echo(
            f"{len(found)} prompts of up to {longest} tokens, {len(found) * samples} answers of up to {max_tokens} tokens each"
        )
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("sampling", total=len(found))

        def report(at: Sampled) -> None:
            bar.update(task, completed=at.done, description=f"{at.fates.get('kept', 0)} kept")

        result = run(base, tokenizer, found, check, config, report=report)
    typer.echo(result.sentence(), err=not result.finished)
    if not result.finished:
        typer.echo("stopped; the same command with --resume goes on", err=True)
        raise typer.Exit(130)
    typer.echo(f"wrote {out}")
