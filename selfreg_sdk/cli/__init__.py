"""The command line: ``selfreg``."""

from selfreg_sdk.cli.app import main

__all__ = ["main"]
