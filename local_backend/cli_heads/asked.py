"""What `heads reward` and `heads eval` are asked for in the same words: prompts, a judge, an aim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from local_backend.config import SetupError

if TYPE_CHECKING:
    from local_backend.training.evaluation.tasks import Prompt, Task
    from local_backend.training.evaluation.tasks import Score as SetScore

Aim = Literal["right", "right_once", "right_and_different"]
TINY = "tiny"

Prompts = Annotated[str, typer.Option(help='JSON lines with "messages" or a templated "prompt"; or tiny.')]
Checker = Annotated[
    str | None, typer.Option(help="module:function of a record and an answer that says if it is right.")
]
Score = Annotated[
    str | None, typer.Option(help="Instead: module:function of a record and a list of n answers; a number.")
]
AimOption = Annotated[Aim, typer.Option(help="With --checker: right in one try, once in n, or n right and different.")]
N = Annotated[int, typer.Option(min=1, help="Answers that are scored together.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer.")]


def tasks_asked(
    prompts: Sequence[Prompt], *, checker: str | None, score: str | None, aim: Aim, n: int, max_tokens: int
) -> list[Task]:
    """A file's prompts with the aim that was asked for.

    Raises:
        SetupError: neither or both of checker and score, or an n that does not go with the aim.
    """
    from local_backend.training.evaluation.tasks import AIMS, tasks_of
    from local_backend.training.trajectories import load_checker

    if (checker is None) == (score is None):
        raise SetupError("say what is wanted: --checker module:function, or --score module:function, and not both")
    if score is not None:
        return tasks_of(prompts, cast("SetScore", load_checker(score)), n=n, max_tokens=max_tokens)
    assert checker is not None
    if (aim == "right") != (n == 1):
        raise SetupError(f"--aim {aim} with --n {n}: right is of one answer, the other aims are of several")
    check = load_checker(checker)
    return tasks_of(prompts, AIMS[aim](check), n=n, max_tokens=max_tokens, check=check)


def read(prompts: str, tokenizer: Any) -> list[Prompt]:
    """The prompts of a file."""
    from local_backend.training.trajectories import read_prompts

    return read_prompts(Path(prompts), tokenizer)
