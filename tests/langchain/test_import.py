"""Importing the chat model loads what every use needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys

SHOW = """
import sys
import selfreg_sdk.chat_model
print(*sorted({"openai", "aiohttp", "httpx", "alembic", "langchain", "langchain_openai", "langgraph", "torch"} & {*sys.modules}))
"""


def test_no_http_library_and_no_other_package_is_loaded() -> None:
    shown = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []
