"""The stream reader as a function of bytes: how they are cut into reads never matters."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import MalformedReply, ProviderError, TruncatedStream
from selfreg_sdk.wire.sse import ChunkReader


def event(text: str | None = None, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


def read(pieces: list[bytes], n: int = 1) -> list[dict[str, Any]]:
    reader = ChunkReader(n=n, reported=lambda body: ProviderError("told") if "error" in body else None)
    chunks = [chunk.body for piece in pieces for chunk in reader.feed(piece)]
    return chunks + [chunk.body for chunk in reader.end()]


texts = st.lists(st.text(max_size=8), max_size=5)
line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
noise = st.lists(st.sampled_from([b"", b": ping", b"event: message", b"id: 1", b"retry: 5", b"data:"]), max_size=3)


@given(texts, line_ends, noise, st.booleans(), st.data())
def test_any_cut_into_reads_gives_the_same_chunks(
    parts: list[str], eol: bytes, between: list[bytes], done: bool, data: st.DataObject
) -> None:
    events = [*(event(part) for part in parts), event(finish="stop")]
    lines: list[bytes] = []
    for body in events:
        lines += [*between, b"data: " + json.dumps(body, ensure_ascii=False).encode(), b""]
    if done:
        lines += [b"data: [DONE]", b""]
    stream = b"".join(line + eol for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(pieces) == events


@given(texts, st.data())
def test_a_stream_cut_anywhere_is_complete_or_an_error(parts: list[str], data: st.DataObject) -> None:
    events = [*(event(part) for part in parts), event(finish="stop")]
    stream = b"".join(b"data: " + json.dumps(body).encode() + b"\n\n" for body in events)
    cut = data.draw(st.integers(0, len(stream)))
    reader = ChunkReader(n=1, reported=lambda body: None)
    chunks = [chunk.body for chunk in reader.feed(stream[:cut])]
    try:
        chunks += [chunk.body for chunk in reader.end()]
    except TruncatedStream as error:
        partial = error.partial
    else:
        partial = "".join(parts)
        assert chunks == events
    assert "".join(parts).startswith(partial)


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"data: ", b"\n", b"\r", b"{}", b"[DONE]", b'"', b"[[["])))
def test_rubbish_is_a_typed_error(pieces: list[bytes]) -> None:
    with contextlib.suppress(ProviderError):
        read(pieces)
        pytest.fail("rubbish without a finish_reason passed as an answer")


def test_a_line_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreg_sdk.wire.sse._MOST_LINE_BYTES", 1000)
    with pytest.raises(MalformedReply, match="1000 bytes"):
        read([b"data: " + b"x" * 400] * 5)


def test_nothing_after_done_counts() -> None:
    stream = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    assert len(read([stream + b"garbage after the end\n\n"])) == 1
