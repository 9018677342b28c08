"""``selfreg heads``: AutoDeco heads of a local model, in a process of its own."""

from __future__ import annotations

import os
import sys

import typer

from selfreg_sdk.cli.serve import backend_command

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
"""Everything, --help too, is the backend's to understand."""


def heads(context: typer.Context) -> None:
    """Train, judge and pack heads that choose temperature and top_p for every token of a local model."""
    arguments = ("heads", *context.args)
    if len(arguments) == 1 or "--help" in arguments:
        # Whoever reads first what there is has not installed it yet.
        os.execv(sys.executable, [sys.executable, "-m", "local_backend", *arguments])
    os.execv(sys.executable, backend_command(*arguments))
