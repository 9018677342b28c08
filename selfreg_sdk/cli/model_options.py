"""The options by which a command names a model, a task and a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfreg_sdk.errors import ConfigError

if TYPE_CHECKING:
    from selfreg_sdk.chat_model import ChatSelfReg

Prompt = Annotated[str, typer.Argument(help="The prompt, or - to read it from stdin.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Model id as the endpoint knows it.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible endpoint, e.g. http://localhost:8000/v1. Default: OpenAI.")
]
Server = Annotated[str | None, typer.Option(help="What serves base_url: vllm, ollama, selfreg.")]
Task = Annotated[str | None, typer.Option(help="Name of the task: its stored configuration applies.")]
How = Annotated[
    str | None, typer.Option("--aggregation", help="first | 'vote of N' | 'any of N'. Default: as the task was tuned.")
]
Cap = Annotated[str | None, typer.Option("--budget", help="Hard cap, e.g. '2.00 USD' or '0.50 USD/day'.")]
PriceFile = Annotated[Path | None, typer.Option("--prices", help="YAML file with prices of your own.")]
Params = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", help="An explicit decoding parameter, e.g. -p temperature=0.2; may be repeated."),
]


def chat_model(
    *,
    model: str | None,
    base_url: str | None,
    server: str | None,
    budget: str | None,
    prices: Path | None,
    store: str | None,
    params: list[str] | None,
) -> ChatSelfReg:
    """The model the options describe.

    Raises:
        ConfigError: an option cannot work.
    """
    from selfreg_sdk.chat_model import ChatSelfReg

    return ChatSelfReg(
        model=model, base_url=base_url, server=server, budget=budget, prices=prices, store=store, **_explicit(params)
    )


def prompt_text(prompt: str) -> str:
    """The prompt itself, or stdin for "-"."""
    return typer.get_text_stream("stdin").read() if prompt == "-" else prompt


def _explicit(pairs: list[str] | None) -> dict[str, Any]:
    """``name=value`` pairs; what the values must be, the model's own validation says."""
    given: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--param {pair!r} is not NAME=VALUE; write for example -p temperature=0.2")
        given[name.strip()] = value.strip()
    return given
