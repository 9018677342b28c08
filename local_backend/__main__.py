"""`python -m local_backend`: serve a model behind an OpenAI-compatible address, and work on its heads."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from local_backend import cli_heads
from local_backend.config import Dtype, ServerSettings, SetupError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Serve an open-weight model the OpenAI way, and give it heads that decode for themselves.",
)
app.add_typer(cli_heads.app, name="heads")


@app.command()
def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="tiny, a Hugging Face model folder, or a Hub name (owner/name).")
    ],
    heads: Annotated[
        str | None,
        typer.Option(
            help="Heads that decide temperature and top-p of every token: a folder, a file, or a Hub name.",
            show_default="those inside MODEL",
        ),
    ] = None,
    any_base: Annotated[bool, typer.Option("--any-base", help="Take heads that were trained on another base.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one and prints it.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option(help="Name clients ask for.", show_default="MODEL without its path")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the model.", show_default="torch decides")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the weights.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU when there is one.")] = "auto",
    max_model_len: Annotated[
        int | None, typer.Option(min=2, help="Longest prompt plus answer, in tokens.", show_default="the model's own")
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are told 429.")] = 128,
    drain_seconds: Annotated[int, typer.Option(min=1, help="How long SIGTERM waits for answers under way.")] = 30,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SELFREG_SERVER_API_KEY",
            help="Key every client must send. Better set as the variable: arguments are visible to other users.",
        ),
    ] = None,
) -> None:
    """Serve MODEL at http://HOST:PORT/v1 for every OpenAI client.

    Try it without a download: `python -m local_backend serve tiny`, and in a second terminal

        curl localhost:8000/v1/chat/completions -d '{"model": "default",
          "messages": [{"role": "user", "content": "Hello"}]}'

    With heads, as from `python -m local_backend heads train`: `python -m local_backend serve tiny --heads FOLDER`; a folder
    of both, merged, needs no option. A request that wants its own numbers says so: "selfreg": {"mode": "fixed"}.

    /health says whether requests are answered, /metrics counts requests and tokens.
    """
    try:
        settings = ServerSettings(
            model_name=model_name or model.rstrip("/").rpartition("/")[2],
            host=host,
            port=port,
            api_key=api_key,
            max_model_len=max_model_len,
            max_queue=max_queue,
            drain_seconds=drain_seconds,
        )
        _serve(model, settings, threads=threads, heads=heads, any_base=any_base, dtype=dtype, device=device)
    except SetupError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _serve(model: str, settings: ServerSettings, *, threads: int | None, **how: Any) -> None:
    # Torch takes seconds to import; --help and a mistyped option do not wait for it.
    import torch
    from transformers.utils import logging

    from local_backend.loading import load
    from local_backend.server import serve as run

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    run(*load(model, **how), settings, announce=lambda line: print(line, flush=True))


if __name__ == "__main__":
    sys.exit(app())
