"""From what a person names (a folder, a file, a Hub name, tiny) to what lies on the disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from local_backend.checkpoint.errors import CheckpointError
from local_backend.tiny import weights_path

_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
_WANTED = ["*.json", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt", "LICENSE*"]
_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


def locate(source: str | Path, *, what: str, **options: Any) -> Path:
    """The folder or file that a source means; a Hub name is fetched into Hugging Face's cache first.

    Args:
        source: a folder, a file of weights, a Hub name (owner/name), or "tiny", the embedded model.
        what: how errors call it, such as "heads".
        options: subfolder; revision, token, cache_dir, local_files_only and force_download, for the Hub; others are ignored.

    Raises:
        CheckpointError: nothing there, or the Hub cannot be reached.
    """
    if source == "tiny":
        return weights_path()
    path, within = Path(source).expanduser(), options.get("subfolder") or ""
    if path.exists():
        return path / within
    if not is_hub_name(source):
        raise CheckpointError(f"{what} {str(source)!r}: no such folder or file; a Hub name looks like owner/name")
    hub = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
    try:
        return Path(snapshot_download(str(source), allow_patterns=_WANTED, **hub)) / within
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{what} {str(source)!r} is neither a folder here nor in Hugging Face's cache, and the Hub cannot be reached: "
            "check the name and the connection, or give a folder"
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise CheckpointError(f"{what} {str(source)!r} cannot be fetched from the Hub: {error}") from error


def is_hub_name(source: str | Path) -> bool:
    """owner/name; whatever looks otherwise was meant as a path."""
    return re.fullmatch(_HUB_NAME, str(source)) is not None
