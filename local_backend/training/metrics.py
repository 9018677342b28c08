"""The curve of a run as JSON lines, and for TensorBoard where that is wanted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_backend.config import SetupError


class MetricsLog:
    """Appends to `folder/metrics.jsonl`, one line a record, each with its step.

    Args:
        folder: exists.
        after: records of later steps are removed first: they were written after the state that a run goes on from.
        tensorboard: also write event files to `folder/tensorboard`.

    Raises:
        SetupError: TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, *, after: int, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        _keep_until(self.path, after)
        self._board = _board(folder / "tensorboard", after) if tensorboard else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Record numbers of a step; a reader sees whole lines only."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish TensorBoard's files."""
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a last line that a kill left torn is not one."""
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def _keep_until(path: Path, step: int) -> None:
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    os.replace(partial, path)


def _board(folder: Path, after: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SetupError("TensorBoard is not installed: `pip install tensorboard`, or train without it") from error
    # The board drops what an interrupted run wrote beyond the state that this one goes on from.
    return SummaryWriter(str(folder), purge_step=after + 1)
