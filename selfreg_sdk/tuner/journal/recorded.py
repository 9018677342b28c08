"""Samples out of recorded replies: which numbers are there, which are missing, and what they cost in tokens.

A reply with k choices that was asked for from sample ``start`` on holds the samples ``start`` to ``start + k - 1``, whoever
asked for how many: so a study finds what another one drew in other portions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from selfreg_sdk.errors import MalformedReply
from selfreg_sdk.prices import trusted
from selfreg_sdk.store.responses import Responses, StoredRepeat
from selfreg_sdk.tuner.search.drawing import Drawn, Sample
from selfreg_sdk.usage import Usage
from selfreg_sdk.wire.replies import parse_reply

_CUT = frozenset({"length", "max_tokens"})


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One reply.

    Attributes:
        start: number of its first sample.
        usage: of the whole reply; None if the provider did not say.
        seconds: how long it took.
    """

    start: int
    samples: tuple[Sample, ...]
    usage: Usage | None
    seconds: float | None

    @property
    def end(self) -> int:
        """One past the number of its last sample."""
        return self.start + len(self.samples)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """All replies to one request, by the number of their first sample."""

    pieces: tuple[Piece, ...] = ()

    def gaps(self, start: int, count: int) -> list[tuple[int, int]]:
        """(first, how many) of the samples that are missing of ``count`` from ``start`` on."""
        missing = [number for number in range(start, start + count) if number not in self._at]
        found: list[tuple[int, int]] = []
        for number in missing:
            if found and sum(found[-1]) == number:
                found[-1] = found[-1][0], found[-1][1] + 1
            else:
                found.append((number, 1))
        return found

    def samples(self, start: int, count: int) -> tuple[Sample, ...]:
        """Samples that are all there."""
        return tuple(
            self._at[number].samples[number - self._at[number].start] for number in range(start, start + count)
        )

    def used(self, start: int, count: int) -> list[tuple[Piece, int]]:
        """The replies behind these samples, and how many of them each holds."""
        held: dict[int, int] = {}
        for number in range(start, start + count):
            first = self._at[number].start
            held[first] = held.get(first, 0) + 1
        return [(piece, held[piece.start]) for piece in self.pieces if piece.start in held]

    @cached_property
    def _at(self) -> dict[int, Piece]:
        """Sample to reply; of two that hold one, the later: the earlier one brought more than it was asked for."""
        return {number: piece for piece in self.pieces for number in range(piece.start, piece.end)}


def recorded(responses: Responses, keys: Iterable[str]) -> dict[str, Recorded]:
    """What is there of each key; reads the store. Replies that cannot be read are deleted: they are missing then."""
    wanted = set(keys)
    found: dict[str, list[Piece]] = {key: [] for key in wanted}
    for row in responses.repeats(wanted):
        piece = _piece(row)
        if piece is None:
            responses.delete(row.key, row.sample_index)
        else:
            found[row.key].append(piece)
    return {key: Recorded(pieces=tuple(pieces)) for key, pieces in found.items()}


def _piece(row: StoredRepeat) -> Piece | None:
    if not row.intact:
        return None
    try:
        reply = parse_reply(json.loads(row.body))
    except (ValueError, MalformedReply):
        return None
    alone = reply.usage.completion_tokens if reply.usage is not None and len(reply.texts) == 1 else None
    samples = tuple(
        Sample(
            text=_refusal(row.body) if text is None else text,
            tokens=alone,
            cut=reason in _CUT,
            at=(row.key, row.sample_index + place),
        )
        for place, (text, reason) in enumerate(zip(reply.texts, reply.finish_reasons, strict=True))
    )
    return Piece(start=row.sample_index, samples=samples, usage=reply.usage, seconds=row.seconds)


def drawn(found: Recorded, start: int, count: int, *, cost: Decimal, bound: Usage) -> Drawn:
    """The samples as a search sees them.

    Args:
        found: holds all of them.
        cost: USD, as this study paid it.
        bound: most tokens of the prompt, and of one sample. A reply that does not say what it used, or something that cannot be
            true, was charged at that, so it counts so.
    """
    prompt = output = 0
    for piece, used in found.used(start, count):
        most = Usage(prompt_tokens=bound.prompt_tokens, completion_tokens=bound.completion_tokens * len(piece.samples))
        usage = trusted(piece.usage, bound=most) or most
        prompt = usage.prompt_tokens
        output += _share(piece, used, usage.completion_tokens, start)
    return Drawn(samples=found.samples(start, count), prompt_tokens=prompt, output_tokens=output, cost=cost)


def seconds(found: Recorded, start: int, count: int) -> float | None:
    """How long the provider took for these samples: the longest of the replies, which are waited for together."""
    times = [piece.seconds for piece, _ in found.used(start, count)]
    return max((time for time in times if time is not None), default=None)


def _share(piece: Piece, used: int, tokens: int, start: int) -> int:
    """About how many of a reply's tokens the samples that are used have, by their length."""
    if used == len(piece.samples):
        return tokens
    first = max(start - piece.start, 0)
    sizes = [len(sample.text) + 1 for sample in piece.samples]
    return round(tokens * sum(sizes[first : first + used]) / sum(sizes))


def _refusal(body: str) -> str:
    """What stands in place of a text that is not there: what the model said to refuse, or nothing."""
    said = (choice["message"].get("refusal") for choice in json.loads(body)["choices"])
    return next((text for text in said if isinstance(text, str)), "")
