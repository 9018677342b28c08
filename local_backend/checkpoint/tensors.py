"""Tensors in files, moved without being loaded: headers are read and written here, the bytes between are copied as they are.

The safetensors format (its specification is public): 8 bytes, little endian, the length of the header; the header, JSON, padded
with spaces; the data without gaps. Renaming or regrouping tensors therefore takes a new header and a copy, whatever their
number format, in a megabyte of memory.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from local_backend.checkpoint.errors import CheckpointError

_BUFFER = 2**20
_LONGEST_HEADER = 100_000_000
"""The format's own bound."""
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
Report = Callable[[int], None]
"""Told after every piece of work how many bytes it was."""


class Piece(Protocol):
    """A tensor that can be written: number format, shape, and its bytes."""

    @property
    def code(self) -> str:
        """The number format by its safetensors name, such as BF16."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""

    @property
    def size(self) -> int:
        """Bytes."""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Its bytes in order, a megabyte at a time."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor of a safetensors file, by the place of its bytes."""

    file: Path
    code: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def plausible(self) -> bool:
        """Whether shape, number format and size agree, as far as the format is known."""
        dtype = _DTYPES.get(self.code)
        return self.size >= 0 and (dtype is None or self.size == math.prod(self.shape) * dtype.itemsize)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes in order, a megabyte at a time."""
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            left = self.size
            while left:
                chunk = stream.read(min(left, _BUFFER))
                if not chunk:
                    raise CheckpointError(f"{str(self.file)!r} ends too early: copy or download it again")
                left -= len(chunk)
                yield chunk

    def values(self, positions: list[int]) -> list[float] | None:
        """The elements at flat positions; None for a number format that torch does not know."""
        dtype = _DTYPES.get(self.code)
        if dtype is None:
            return None
        with self.file.open("rb") as stream:
            raw = bytearray()
            for position in positions:
                stream.seek(self.start + position * dtype.itemsize)
                raw += stream.read(dtype.itemsize)
        numbers: list[float] = torch.frombuffer(raw, dtype=dtype).double().tolist()
        return numbers

    def read(self) -> Tensor:
        """The tensor itself, in memory.

        Raises:
            CheckpointError: a number format that torch does not know.
        """
        dtype = _DTYPES.get(self.code)
        if dtype is None:
            raise CheckpointError(f"{str(self.file)!r} stores numbers as {self.code!r}, which torch cannot read")
        raw = bytearray().join(self.chunks())
        return torch.frombuffer(raw, dtype=dtype).reshape(self.shape) if raw else torch.empty(self.shape, dtype=dtype)


@dataclass(frozen=True)
class Loaded:
    """A tensor in memory, or mapped into it from a pickle."""

    tensor: Tensor

    @property
    def code(self) -> str:
        """The number format by its safetensors name, such as BF16.

        Raises:
            CheckpointError: safetensors has none for it.
        """
        if self.tensor.dtype not in _CODES:
            raise CheckpointError(f"tensors of {self.tensor.dtype} cannot be stored as safetensors: convert them first")
        return _CODES[self.tensor.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions."""
        return tuple(self.tensor.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.tensor.numel() * self.tensor.element_size()

    def chunks(self) -> Iterator[memoryview]:
        """Its bytes in order, a megabyte at a time."""
        flat = self.tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        for start in range(0, self.size, _BUFFER):
            yield flat[start : start + _BUFFER].numpy().data

    def values(self, positions: list[int]) -> list[float] | None:
        """The elements at flat positions."""
        numbers: list[float] = self.tensor.flatten()[positions].double().tolist()
        return numbers

    def read(self) -> Tensor:
        """The tensor itself, in memory."""
        return self.tensor


AnyTensor = Stored | Loaded


def read_safetensors(file: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a safetensors file, in the order of their bytes, and its metadata. Reads the header alone.

    Raises:
        CheckpointError: the file is cut short or is not safetensors.
    """
    broken = CheckpointError(f"{str(file)!r} is cut short or is no safetensors file: copy or download it again")
    length = file.stat().st_size
    with file.open("rb") as stream:
        header_length = int.from_bytes(stream.read(8), "little")
        if length < 8 or header_length > min(length - 8, _LONGEST_HEADER):
            raise broken
        try:
            header: dict[str, Any] = json.loads(stream.read(header_length))
            metadata = header.pop("__metadata__", None) or {}
            data = 8 + header_length
            tensors = {
                name: Stored(
                    file=file,
                    code=entry["dtype"],
                    shape=tuple(entry["shape"]),
                    start=data + entry["data_offsets"][0],
                    size=entry["data_offsets"][1] - entry["data_offsets"][0],
                )
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise broken from error
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].start))
    end = data
    for tensor in ordered.values():
        # Every byte of the data belongs to one tensor; this also finds a file that is too short.
        if tensor.start != end or not tensor.plausible:
            raise broken
        end += tensor.size
    if end != length:
        raise broken
    return ordered, metadata


def read_pickle(file: Path) -> dict[str, Loaded]:
    """The tensors of a file written by torch.save, however its dicts are nested, by dotted name; mapped, not read.

    Raises:
        CheckpointError: the file holds anything but tensors (unpickling it could run code), or cannot be read.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{str(file)!r} is a pickle with more in it than tensors, and is refused: reading it could run its code. "
            "Ask for the weights as safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read, copy or download it again: {error}") from error
    return {name: Loaded(tensor) for name, tensor in _flattened(content)}


def _is_zip(file: Path) -> bool:
    """Only torch's present container can be mapped."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _flattened(content: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flattened(value, f"{prefix}.{key}" if prefix else str(key))


def write_safetensors(
    file: Path, pieces: Mapping[str, AnyTensor], *, metadata: Mapping[str, str], report: Report = lambda size: None
) -> None:
    """Write a safetensors file, copying bytes as they are.

    The widest numbers come first, else in the order given: that keeps every tensor aligned, and is how the format's own
    writer sorts, so that a file taken apart is put together again byte for byte.
    """
    ordered = sorted(pieces.items(), key=lambda item: -_width(item[1]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, piece in ordered:
        header[name] = {"dtype": piece.code, "shape": list(piece.shape), "data_offsets": [end, end + piece.size]}
        end += piece.size
    with file.open("wb") as stream:
        _write_header(stream, header)
        for _, piece in ordered:
            for chunk in piece.chunks():
                stream.write(chunk)
                report(len(chunk))


def _write_header(stream: BinaryIO, header: dict[str, Any]) -> None:
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)


def _width(piece: AnyTensor) -> float:
    """Bytes of one element."""
    elements = math.prod(piece.shape)
    return piece.size / elements if elements else 0.0
