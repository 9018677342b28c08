"""Tokens to text: nothing provisional leaves, no part of a stop string leaves, nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from local_backend.textstream import Detokenizer, StopFilter, TextStream
from tests.backend.small_server import make_tokenizer

TOKENIZER = make_tokenizer()
TEXTS = st.text(alphabet="ab ", max_size=12)
STOPS = st.lists(st.text(alphabet="ab ", min_size=1, max_size=4), max_size=4)
TOKENS = st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30)


def decode(tokens: Sequence[int]) -> str:
    return str(TOKENIZER.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The definition, by brute force: end the text where the first stop string is complete."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@example("abb", ["abb", "b"], set())
@example("abb", ["bb", "abb"], set())
@given(TEXTS, STOPS, st.sets(st.integers(0, 12)))
def test_stops_cut_wherever_the_pieces_fall(text: str, stops: list[str], borders: set[int]) -> None:
    edges = [0, *sorted(edge for edge in borders if edge < len(text)), len(text)]
    stop_filter = StopFilter(stops)
    kept, stopped = cut(text, stops)
    sent = ""
    for start, end in pairwise(edges):
        sent += stop_filter.push(text[start:end])
        assert kept.startswith(sent), "text left that had to be taken back"
    sent += stop_filter.finish()
    assert (sent, stop_filter.stopped) == (kept, stopped)
    assert not any(stop in sent for stop in stops)


@given(TOKENS)
def test_pieces_join_to_the_whole_text(tokens: list[int]) -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.push(token) for token in tokens]
    assert "".join(pieces) + detokenizer.finish() == decode(tokens)


@given(TOKENS, STOPS)
def test_the_stream_is_the_text_cut_at_its_stops(tokens: list[int], stops: list[str]) -> None:
    stream = TextStream(decode, stops)
    sent = ""
    for token in tokens:
        sent += stream.push(token)
        if stream.stopped:
            break
    sent += stream.finish()
    assert (sent, stream.stopped) == cut(decode(tokens), stops)


@pytest.mark.parametrize("text", ["é", "€", "😀"])
def test_a_character_leaves_when_it_is_complete(text: str) -> None:
    tokens = TOKENIZER.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(decode)
    assert len(tokens) > 1
    assert [detokenizer.push(token) for token in tokens] == [""] * (len(tokens) - 1) + [text]


def test_text_is_not_held_back_without_need() -> None:
    stop_filter = StopFilter(["STOP"])
    assert [stop_filter.push(piece) for piece in ("go S", "T", "x", "S")] == ["go ", "", "STx", ""]
    assert stop_filter.finish() == "S"


def test_a_stop_string_hidden_in_an_unfinished_character_still_stops() -> None:
    first_byte = TOKENIZER.encode("é", add_special_tokens=False)[0]
    stream = TextStream(decode, ["\ufffd"])
    assert stream.push(first_byte) == ""
    assert stream.finish() == ""
    assert stream.stopped
