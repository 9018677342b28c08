"""`heads reward`: heads from what the user wants of the answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_backend.cli_heads.asked import (
    TINY,
    AimOption,
    Checker,
    MaxTokens,
    N,
    Prompts,
    Score,
    read,
    tasks_asked,
)
from local_backend.config import Dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_backend.training.evaluation.tasks import Task
    from local_backend.training.reinforce.reward_config import RewardConfig


def reward(
    model: Annotated[str, typer.Option(help="Base: tiny, a Hugging Face folder, or a Hub name (owner/name).")],
    prompts: Prompts,
    out: Annotated[Path, typer.Option(help="Folder for the heads, the curve, and the state while the run lasts.")],
    checker: Checker = None,
    score: Score = None,
    aim: AimOption = "right",
    n: N = 1,
    max_tokens: MaxTokens = 512,
    start: Annotated[
        str | None, typer.Option(help="Heads to go on from, those of `heads train`, say.", show_default="fresh ones")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Rounds of drawing.")] = 30,
    prompts_a_step: Annotated[int, typer.Option(min=1, help="Prompts a round.")] = 24,
    samples: Annotated[int, typer.Option(min=2, help="Answers a prompt and round, at least n.")] = 8,
    updates: Annotated[int, typer.Option(min=1, help="Gradient steps on each round's answers.")] = 4,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Adam's.", show_default="3e-3 up to a hidden size of 192, less above")
    ] = None,
    noise: Annotated[float, typer.Option(min=0, help="Of the logit of top_p while drawing.")] = 0.5,
    start_top_p: Annotated[float, typer.Option(min=0, max=1, help="Of fresh heads; their temperature is 1.")] = 0.95,
    count: Annotated[int, typer.Option(min=1, help="Prompts a family, for tiny.")] = 400,
    seed: Annotated[int, typer.Option(help="Of first weights, prompts and answers.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the base's weights.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch decides")] = None,
    chunk_mib: Annotated[int, typer.Option(min=1, help="Largest piece of logits in memory, in MiB.")] = 128,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="How often the state is written.")] = 60.0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write event files (pip install tensorboard).")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after Ctrl-C or a crash.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew in a folder that holds a run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, say what it takes; draw nothing.")
    ] = False,
) -> None:
    """Train heads on what you want of the answers, by drawing, judging and reinforcing; the model itself stays as it is.

      selfreg heads reward --model ./my-model --prompts questions.jsonl --checker judge:right --out ./my-heads

    with a judge.py beside you that says what right means, given the prompt's whole line and an answer:

      def right(record, answer): return answer.strip().endswith(record["answer"])

    One answer is to be right by default; --aim right_once --n 8 wants one of eight, --aim right_and_different --n 8 eight that
    differ. Or score n answers yourself: --score judge:worth --n 4, def worth(record, answers): ... Lines with the same "task" are
    one kind of prompt, and every kind has the same weight. To try it without a download, in some minutes:

      selfreg heads reward --model tiny --prompts tiny --out ./tiny-heads
      selfreg heads eval ./tiny-heads --prompts tiny
    """
    import torch
    from transformers.utils import logging

    from local_backend.checkpoint.load import load_heads
    from local_backend.loading import load
    from local_backend.training.evaluation.tasks import embedded_tasks
    from local_backend.training.reinforce.reward_config import RewardConfig

    if threads is not None:
        torch.set_num_threads(threads)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    config = RewardConfig(
        model=model,
        out=out,
        steps=steps,
        prompts=prompts_a_step,
        samples=samples,
        updates=updates,
        learning_rate=learning_rate,
        noise=noise,
        start_top_p=start_top_p,
        seed=seed,
        chunk_mib=chunk_mib,
        checkpoint_seconds=checkpoint_seconds,
        tensorboard=tensorboard,
        resume=resume,
        overwrite=overwrite,
    )
    base, tokenizer = load(model, dtype=dtype, device=device, chat=False)
    if prompts == TINY:
        tasks = embedded_tasks(tokenizer, "train", count=count, seed=seed)
    else:
        found = read(prompts, tokenizer)
        tasks = tasks_asked(found, checker=checker, score=score, aim=aim, n=n, max_tokens=max_tokens)
    if dry_run:
        told = ", ".join(f"{task.name} ({len(task.prompts)} prompts, scored by {task.n})" for task in tasks)
        answers = config.steps * config.prompts * config.samples
        typer.echo(f"{told}: {answers} answers of up to {max(task.max_tokens for task in tasks)} tokens each")
        return
    _run(tasks, base, tokenizer, config, None if start is None else load_heads(start)[0])


def _run(tasks: Sequence[Task], base: Any, tokenizer: Any, config: RewardConfig, start: Any) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from local_backend.training.reinforce.reward import RewardStep
    from local_backend.training.reinforce.reward import reward as run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("drawing", total=config.steps)

        def report(at: RewardStep) -> None:
            each = " · ".join(f"{name} {score:.2f}" for name, score in at.scores.items())
            bar.update(task, completed=at.step, description=f"score {at.score:.3f} ({each})")

        result = run(tasks, base, tokenizer, config, start=start, report=report)
    if not result.finished:
        typer.echo(
            f"stopped after step {result.step} of {config.steps}; the same command with --resume goes on", err=True
        )
        raise typer.Exit(130)
    typer.echo(f"wrote {result.out}; the curve is in {result.metrics}")
