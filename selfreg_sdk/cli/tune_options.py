"""The options by which commands name a task and change what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from selfreg_sdk.errors import ConfigError

if TYPE_CHECKING:
    from selfreg_sdk.tuner.task.file import Task

TaskFile = Annotated[Path, typer.Argument(help="The task file.", show_default=False)]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="In place of the task's models; may be repeated.", show_default=False),
]
BaseUrl = Annotated[
    str | None, typer.Option(help="In place of the task's endpoint, e.g. http://localhost:8000/v1.", show_default=False)
]
PriceFile = Annotated[
    Path | None, typer.Option("--prices", help="In place of the task's file with prices of your own.")
]
Workers = Annotated[int | None, typer.Option(min=1, max=1024, help="Calls in flight at once.", show_default=False)]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the split and the search.", show_default=False)]


def read_task(file: Path, *, models: list[str] | None = None) -> Task:
    """The task in a file, with other models if some are given.

    Raises:
        ConfigError: the file or a model cannot work.
    """
    from selfreg_sdk.tuner.task.file import load_task
    from selfreg_sdk.tuner.task.spec import TaskSpec

    task = load_task(file)
    if not models:
        return task
    written = {name: getattr(task.spec, name) for name in task.spec.model_fields_set}
    try:
        return replace(task, spec=TaskSpec.model_validate({**written, "models": models}))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"--model: {problem}") from None
