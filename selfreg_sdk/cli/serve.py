"""``selfreg serve``: the local backend, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

import typer

from selfreg_sdk.errors import ConfigError


def serve(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A Hugging Face model folder, or 'tiny': the model that comes along.")
    ] = "tiny",
) -> None:
    """Serve a model behind an OpenAI-compatible API on this machine.

    Further options go to the server (--host, --port, --api-key ...); `python -m local_backend serve --help` lists them.
    Then: ChatSelfReg(model=..., base_url="http://127.0.0.1:8000/v1", server="selfreg").
    """
    os.execv(sys.executable, backend_command("serve", model, *context.args))


def backend_command(*arguments: str, module: str = "local_backend") -> list[str]:
    """The command line of the local backend.

    Raises:
        ConfigError: what it needs is not installed.
    """
    missing = [
        name for name in ("torch", "transformers", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ConfigError(f"the local backend needs {', '.join(missing)}: run pip install 'selfreg[local]'")
    return [sys.executable, "-m", module, *arguments]
