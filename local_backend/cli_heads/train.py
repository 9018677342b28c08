"""`heads train`: heads from a model's own answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from local_backend.config import Dtype

if TYPE_CHECKING:
    from local_backend.training.config import TrainConfig


def train(
    model: Annotated[str, typer.Option(help="Base: tiny, a Hugging Face folder, or a Hub name (owner/name).")],
    data: Annotated[Path, typer.Option(help="JSON lines: prompt and completion, messages, or token ids.")],
    out: Annotated[Path, typer.Option(help="Folder for the heads, the curve, and the state while the run lasts.")],
    validation: Annotated[
        Path | None, typer.Option(help="Held-out records.", show_default="a tenth of the data, by prompt")
    ] = None,
    form: Annotated[
        Literal["two_losses", "joint", "megatron"],
        typer.Option(help="two_losses: as released; joint: as in the paper; megatron: as released for the largest."),
    ] = "two_losses",
    soft_top_p: Annotated[
        Literal["exclusive", "safe", "published"],
        typer.Option(help="exclusive counts mass as the sampler does; published has places without a gradient."),
    ] = "exclusive",
    easy_token_drop: Annotated[
        float, typer.Option(min=0, max=0.999, help="Share of easy tokens left out; less gives colder heads.")
    ] = 0.6,
    dft_exponent: Annotated[
        float, typer.Option(min=0, help="Weight by the token's probability to this power; 0 trains plain likelihood.")
    ] = 1.0,
    alpha: Annotated[float, typer.Option(min=0.001, help="Steepness of the soft nucleus.")] = 30.0,
    only: Annotated[Literal["both", "temperature", "top_p"], typer.Option(help="Train both heads, or one.")] = "both",
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0, help="AdamW's.", show_default="5e-6 from a hidden size of 2048 on, more below"),
    ] = None,
    schedule: Annotated[Literal["linear", "cosine", "constant"], typer.Option(help="Of the learning rate.")] = "linear",
    warmup_steps: Annotated[int, typer.Option(min=0, help="Linear rise before.")] = 0,
    clip: Annotated[float, typer.Option(min=0, help="Largest gradient norm.")] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Records a step, over all processes.")] = 32,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data.", show_default="1, or as many as 400 steps take")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Exact number of steps instead.")] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Longest record in tokens.", show_default="the model's context, up to 16384"),
    ] = None,
    too_long: Annotated[Literal["drop", "cut"], typer.Option(help="What becomes of longer ones.")] = "drop",
    data_temperature: Annotated[
        float | None, typer.Option(help="What the answers were sampled at.", show_default="what the records say")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of first weights, order and masks.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the base's weights.")] = "auto",
    autocast: Annotated[
        bool, typer.Option("--autocast", help="Compute the base in bfloat16 whatever it is stored in.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="torch decides")] = None,
    chunk_mib: Annotated[int, typer.Option(min=1, help="Largest piece of logits in memory, in MiB.")] = 128,
    micro_batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens the base sees at once.")] = 16_384,
    keep_mib: Annotated[int, typer.Option(min=0, help="Hidden states up to this size are computed once.")] = 2048,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="How often the state is written.")] = 60.0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write event files (pip install tensorboard).")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after Ctrl-C or a crash, on the same curve.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew in a folder that holds a run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say steps, tokens and memory; train nothing.")] = False,
) -> None:
    """Train heads that choose temperature and top_p for every token; the model itself stays as it is.

      selfreg heads train --model ./my-model --data answers.jsonl --out ./my-heads

    The best data are the model's own right answers, which `heads sample` makes. To try everything without a download:

      selfreg heads sample --model tiny --prompts tiny --checker tiny --max-tokens 200 --out answers.jsonl
      selfreg heads train --model tiny --data answers.jsonl --out ./tiny-heads

    At the end it says what the heads buy on held-out records, beside T=1 and beside the best constant temperature. With
    --easy-token-drop 0 --dft-exponent 0 the temperature is trained for likelihood; the defaults prefer colder, surer tokens.
    On several GPUs: torchrun --nproc-per-node 8 -m local_backend heads train ... with the same options.
    """
    import torch

    from local_backend.training.config import TrainConfig
    from local_backend.training.losses import LossConfig
    from local_backend.training.outline import outline

    if threads is not None:
        torch.set_num_threads(threads)
    loss = LossConfig(
        form=form, soft_top_p=soft_top_p, easy_token_drop=easy_token_drop, dft_exponent=dft_exponent, alpha=alpha
    )
    config = TrainConfig(
        model=model,
        data=data,
        out=out,
        validation=validation,
        loss=loss,
        which=only,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        clip=clip,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        max_length=max_length,
        too_long=too_long,
        data_temperature=data_temperature,
        seed=seed,
        dtype=dtype,
        autocast=autocast,
        device=device,
        chunk_mib=chunk_mib,
        micro_batch_tokens=micro_batch_tokens,
        keep_mib=keep_mib,
        checkpoint_seconds=checkpoint_seconds,
        tensorboard=tensorboard,
        resume=resume,
        overwrite=overwrite,
    )
    if dry_run:
        typer.echo("\n".join(outline(config).sentences()))
        return
    _run(config)


def _run(config: TrainConfig) -> None:
    from accelerate import PartialState
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from transformers.utils import logging

    from local_backend.training.train import train as run

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    main = PartialState(cpu=config.device == "cpu").is_main_process
    with Progress(*columns, console=Console(stderr=True), disable=not main) as bar:
        task = bar.add_task("reading", total=None)

        def tell(line: str) -> None:
            bar.console.print(line, highlight=False)

        def report(step: int, steps: int, values: Mapping[str, float]) -> None:
            text = f"loss {values['loss']:.4f} · T {values['temperature']:.3f} · P {values['top_p']:.3f}"
            bar.update(task, completed=step, total=steps, description=text)

        result = run(config, tell=tell if main else lambda _: None, report=report)
    if not main:
        return
    if not result.finished:
        typer.echo(
            f"stopped after step {result.step} of {result.steps}; the same command with --resume goes on", err=True
        )
        raise typer.Exit(130)
    for line in result.held_out.sentences() if result.held_out is not None else []:
        typer.echo(line)
    typer.echo(f"wrote {result.out}; the curve is in {result.metrics}")
