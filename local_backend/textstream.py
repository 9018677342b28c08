"""Tokens to text, one at a time: only text that can no longer change leaves, and no part of a stop string ever does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

FinishReason = Literal["stop", "length"]
"""Why a text ended: the model or a stop string ended it, or it reached its token limit."""

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens left out."""

_BROKEN = "\ufffd"


class Detokenizer:
    """Decodes a growing token sequence piece by piece.

    A token may hold part of a character, and its text may depend on its left neighbours (a leading space, a
    byte run), so the few tokens before it are decoded along. Joining all pieces and the rest gives the text of
    the whole sequence.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._read = 0  # tokens at the front of the window whose text has left

    def push(self, token: int) -> str:
        """Text that is certain now; empty while the last character is incomplete."""
        self._window.append(token)
        piece = self._pending()
        if not piece or piece.endswith(_BROKEN):
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return piece

    def finish(self) -> str:
        """What is left, broken characters and all."""
        piece = self._pending()
        self._window, self._read = [], 0
        return piece

    def _pending(self) -> str:
        before = self._decode(self._window[: self._read]) if self._read else ""
        return self._decode(self._window)[len(before) :]


class StopFilter:
    """Cuts a text at the first stop string, wherever the borders of the pieces fall.

    The stop string that is *complete* first wins; of several complete at the same character, the longest. So the
    text let through contains no stop string, and does not depend on how it came in pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Text that cannot be part of a stop string; nothing after one was found."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        cut = len(text) - self._overlap(text)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """The text held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, text: str) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class TextStream:
    """The text of one sample: detokenised, cut at stop strings."""

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._tokens = Detokenizer(decode)
        self._filter = StopFilter(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing comes after it."""
        return self._filter.stopped

    def push(self, token: int) -> str:
        """Text that became final with this token."""
        return self._filter.push(self._tokens.push(token))

    def finish(self) -> str:
        """The rest of the text; a stop string hidden in it still counts."""
        return self._filter.push(self._tokens.finish()) + self._filter.finish()
