"""Examples in files: JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example, make_examples
from selfreg_sdk.tuner.examples.texts import read_text

Format = Literal["jsonl", "csv"]

_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
_DELIMITERS = (",", ";", "\t", "|")
_SNIFFED = 50
"""Records that the choice of a delimiter looks at."""


def read_examples(
    file: Path, *, format: Format | None = None, id_field: str | None = None, delimiter: str | None = None
) -> tuple[Example, ...]:
    """The examples in a file, in its order.

    JSON lines hold one object a line. CSV has a header and only text in its cells: "007" stays "007".

    Args:
        format: None goes by the name: .jsonl, .ndjson, .csv, .tsv.
        id_field: as in `make_examples`.
        delimiter: between the cells of a CSV file, one character; None: whichever of ``, ; tab |`` splits the header and
            the rows below it alike.

    Raises:
        ConfigError: names the file, the line and the remedy.
    """
    origin = f"examples {str(file)!r}"
    kind = format or _SUFFIXES.get(file.suffix.lower())
    if kind is None:
        raise ConfigError(f"{origin}: the name tells no format; call it .jsonl or .csv, or set format: jsonl or csv")
    if delimiter is not None and kind != "csv":
        raise ConfigError(f"{origin}: delimiter={delimiter!r} is for CSV files only; leave it out")
    text = read_text(file, "examples")
    rows = list(_jsonl(text, origin) if kind == "jsonl" else _csv(text, origin, delimiter))
    if not rows:
        raise ConfigError(f"{origin} holds no examples; write {_WANTED[kind]}")
    return make_examples(
        (row for _, row in rows), id_field=id_field, places=[f"{origin}, line {line}" for line, _ in rows]
    )


_WANTED = {"jsonl": "one JSON object a line", "csv": "a line of column names, and below it one line per example"}


def _jsonl(text: str, origin: str) -> Iterator[tuple[int, Any]]:
    # Only line feeds end a line: JSON strings may hold the other line breaks that Unicode knows.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        place = f"{origin}, line {line}"
        try:
            row = json.loads(content, object_pairs_hook=_object, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            hint = "write one JSON object a line"
            if line == 1 and content.lstrip().startswith("["):
                hint += ", without the list around them"
            raise ConfigError(f"{place}, column {error.colno}: {error.msg}; {hint}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{place}: {error}") from None
        if isinstance(row, list):
            raise ConfigError(f"{place}: a list where an object is wanted; write one JSON object a line")
        yield line, row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a name stand twice and drops all but the last; here nothing is dropped without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object; keep one")
    return made


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON; write a number, null or a text")


def _csv(text: str, origin: str, delimiter: str | None) -> Iterator[tuple[int, dict[str, str]]]:
    separator = _sniff(text, origin) if delimiter is None else _given(delimiter, origin)
    header: list[str] | None = None
    read = 0
    try:
        for start, end, cells in _records(text, separator):
            read = end  # an error of the reader names no line, but the record after the last good one holds it
            place = f"{origin}, line {start}"
            if header is None:
                header = _header(cells, place)
            elif len(cells) != len(header):
                raise ConfigError(_ragged(place, cells, header, separator))
            else:
                yield start, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ConfigError(_unreadable(f"{origin}, line {read + 1}", error)) from None


def _records(text: str, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """First line, last line and cells of every record; empty lines are none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = 0
    for cells in reader:
        if cells:
            yield before + 1, reader.line_num, cells
        before = reader.line_num


def _given(delimiter: str, origin: str) -> str:
    if len(delimiter) != 1 or delimiter in '"\r\n ':
        raise ConfigError(f"{origin}: delimiter={delimiter!r} must be one character, like ',' or ';' or \"\\t\"")
    return delimiter


def _sniff(text: str, origin: str) -> str:
    """The delimiter: it stands in the header, and preferably splits the first rows into as many cells."""
    widths = {delimiter: _widths(text, delimiter) for delimiter in _DELIMITERS}
    splitting = {delimiter: found for delimiter, found in widths.items() if found[:1] > [1]}
    alike = [delimiter for delimiter, found in splitting.items() if len(set(found)) == 1]
    candidates = alike or list(splitting)
    if not candidates:
        return ","  # one column
    most = max(widths[delimiter][0] for delimiter in candidates)
    best = [delimiter for delimiter in candidates if widths[delimiter][0] == most]
    if len(best) > 1:
        raise ConfigError(
            f"{origin}, line 1: {' and '.join(map(repr, best))} split the columns equally well; say which with delimiter"
        )
    return best[0]


def _widths(text: str, delimiter: str) -> list[int]:
    """Cells in each of the first records; -1 where it cannot be read with this delimiter."""
    found: list[int] = []
    try:
        found.extend(len(cells) for _, _, cells in islice(_records(text, delimiter), _SNIFFED))
    except csv.Error:
        found.append(-1)
    return found


def _header(cells: list[str], place: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    for index, name in enumerate(header):
        if not name:
            raise ConfigError(f"{place}: column {index + 1} has no name; name every column")
        if name in header[:index]:
            raise ConfigError(f"{place}: two columns are called {name!r}; give every column a name of its own")
    return header


def _ragged(place: str, cells: list[str], header: list[str], delimiter: str) -> str:
    if len(cells) < len(header):
        return (
            f"{place}: no cell for column {header[len(cells)]!r}; write {delimiter!r} between all {len(header)} columns"
        )
    return (
        f'{place}: {len(cells)} cells for {len(header)} columns; put quotes (") around cells that hold {delimiter!r}, '
        f"or name another delimiter"
    )


def _unreadable(place: str, error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"{place}: a cell of more than {csv.field_size_limit()} characters; keep such examples as JSON lines"
    return f'{place}: {error}; put quotes (") around cells that hold quotes or line breaks, and double quotes inside'
