"""Text files that a user wrote: UTF-8, with or without a byte order mark."""

from __future__ import annotations

from pathlib import Path

from selfreg_sdk.errors import ConfigError


def beside(folder: Path, name: str) -> Path:
    """The file that ``name`` means in a file in ``folder``: absolute, or relative to that folder; nothing is expanded."""
    return folder / name


def read_text(file: Path, what: str) -> str:
    """The text of a file, its line breaks as they are.

    Args:
        what: what the file is to the user, for messages: "examples", "prompt".

    Raises:
        ConfigError: it cannot be read or is not UTF-8; names the file, and the line where there is one.
    """
    try:
        content = file.read_bytes()
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{what} {str(file)!r} cannot be read: {reason}{_unexpanded(file)}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise ConfigError(
            f"{what} {str(file)!r}, line {line}: not UTF-8{' but UTF-16' if wide else ''}; save the file as UTF-8"
        ) from None


def _unexpanded(file: Path) -> str:
    if any(part.startswith("~") for part in file.parts) or "$" in str(file):
        return "; '~' and '$NAME' are not expanded: write the path out, or relative to the task file"
    return ""
