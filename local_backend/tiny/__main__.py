"""Command line of the embedded model: `python -m local_backend.tiny --help`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from local_backend.tiny import weights_path
from local_backend.tiny.families import FAMILIES, SPLITS, Family

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The embedded model: train it, measure it, draw its tasks and check answers.\n\n"
    "build makes weights in minutes on a processor; sweep proves that its six families want different decoding; "
    "tasks and check give any program prompts and a judge:\n\n"
    "  python -m local_backend.tiny tasks --family code --count 2",
)
_HERE = Path(__file__).resolve().parent


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(FAMILIES)}")
    return FAMILIES[name]


@app.command()
def build(
    minutes: Annotated[float, typer.Option(min=0.01, help="Training time; the schedule stretches to fit.")] = 32.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Exact steps instead of minutes: reproducible.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: the shipped weights.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first weights and of the corpus.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads. Default: PyTorch's.")] = None,
    bfloat16: Annotated[bool, typer.Option(help="Autocast; only for processors with bfloat16 units.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on from the folder's checkpoint after a stop.")] = False,
) -> None:
    """Train from nothing and write a Hugging Face folder.

    A checkpoint is written every minute; after a stop, the same command with --resume goes on.
    """
    # Threads that spin while they wait make training many times slower on a shared machine; read once, by libgomp.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from local_backend.tiny.build import BuildSettings, Report
    from local_backend.tiny.build import build as run

    if threads:
        torch.set_num_threads(threads)
    settings = BuildSettings(minutes=minutes, steps=steps, batch=batch, seed=seed, bfloat16=bfloat16)
    text = "step {task.fields[step]} · loss {task.fields[loss]:.3f} · validation {task.fields[validation]:.3f}"
    with Progress(TextColumn(text), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        nan = float("nan")
        task = progress.add_task("", total=1.0, step=0, loss=nan, validation=nan)

        def report(at: Report) -> None:
            progress.update(task, completed=at.spent, step=at.step, loss=at.loss)
            if at.validation is not None:
                progress.update(task, validation=at.validation)

        try:
            folder = run(out or weights_path(), settings, resume=resume, report=report)
        except FileNotFoundError as error:
            raise typer.BadParameter(str(error)) from error
    typer.echo(f"wrote {folder}")


@app.command()
def sweep(
    quick: Annotated[bool, typer.Option(help="A coarse grid and a third of the prompts.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Model folder. Default: the shipped weights.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON to write, with a .md beside it.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads. Default: PyTorch's.")] = None,
) -> None:
    """Measure every family over temperature and top_p and check the five properties.

    Writes the table as JSON and markdown. Exit code 1 if a property fails. A quick sweep writes only where --out says.
    """
    import torch

    from local_backend.tiny.evidence import Table
    from local_backend.tiny.sweep import EmbeddedModel, settings
    from local_backend.tiny.sweep import sweep as run

    if threads:
        torch.set_num_threads(threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("sweep", total=len(FAMILIES) * len(settings(quick=quick)))
        model = EmbeddedModel(weights or weights_path())
        cells = run(model, quick=quick, report=lambda cell: progress.update(task, advance=1, description=cell.family))
    table = Table(cells)
    target = out or (None if quick else _HERE / "sweep.json")
    if target is not None:
        table.save(target)
    typer.echo(table.markdown())
    properties = table.properties()
    for each in properties:
        typer.echo(f"{'PASS' if each.passed else 'FAIL'}  {each.text}: {each.detail}")
    if not all(each.passed for each in properties):
        raise typer.Exit(1)


@app.command()
def tasks(
    family: Annotated[str | None, typer.Option(help=f"One of {', '.join(FAMILIES)}. Default: all.")] = None,
    split: Annotated[str, typer.Option(help=f"One of {', '.join(SPLITS)}.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Prompts per family.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Print prompts as JSON lines: family, prompt, aggregation, n."""
    splits = {name: name for name in SPLITS}
    if split not in splits:
        raise typer.BadParameter(f"{split!r} is none of {', '.join(SPLITS)}")
    for each in [_family(family)] if family else FAMILIES.values():
        for prompt in each.held_out(splits[split], count=count, seed=seed):
            aggregation = each.aggregation
            row = {"family": each.name, "prompt": prompt, "aggregation": aggregation.kind, "n": aggregation.n}
            typer.echo(json.dumps(row, ensure_ascii=False))


@app.command()
def check() -> None:
    """Judge answers: JSON lines on stdin, JSON lines on stdout.

    In: family, prompt, samples (a list of texts). Out: accepted (whether the first sample is right) and score (of all
    samples under the family's aggregation). A line that cannot be read ends the command with exit code 2.
    """
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            family, prompt, samples = row["family"], row["prompt"], list(row["samples"])
        except (ValueError, KeyError, TypeError) as error:
            raise typer.BadParameter(
                f"line {number} must be a JSON object with family, prompt and samples: {error!r}"
            ) from error
        judge = _family(family)
        typer.echo(
            json.dumps({"accepted": judge.check(prompt, samples[0]), "score": judge.score(prompt, samples)})
            if samples
            else json.dumps({"accepted": False, "score": 0.0})
        )
        sys.stdout.flush()


if __name__ == "__main__":
    app()
