"""The scorers of plain text: exact, numeric and regex.

Each compares an answer with a field of its example, by default "answer".
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, get_args

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.scoring.reading import Percent, last_number, shown, without_markdown
from selfreg_sdk.tuner.scoring.rule import Rule


@dataclass(frozen=True, kw_only=True)
class Exact(Rule):
    """1 where the answer is the expected text, else 0; of a list of expected texts, any one will do.

    Attributes:
        expected: field that holds it.
        ignore_case: capitals do not matter.
        ignore_white_space: nor do white space around the text and how much of it stands inside.
        ignore_punctuation: nor does punctuation.
        ignore_markdown: nor do headings, bullets, emphasis and fences.
    """

    expected: str = "answer"
    ignore_case: bool = False
    ignore_white_space: bool = True
    ignore_punctuation: bool = False
    ignore_markdown: bool = False

    @property
    def name(self) -> str:
        """For people and records."""
        return "exact"

    @property
    def needs(self) -> tuple[str, ...]:
        """The field with the expected text."""
        return (self.expected,)

    def check(self, example: Example) -> None:
        """A text, a number or a list of these.

        Raises:
            ConfigError: something else, or nothing that is left to compare.
        """
        super().check(example)
        for text in _accepted(example.fields[self.expected]):
            if not isinstance(text, str | int | float) or isinstance(text, bool):
                raise self.unfit(example, self.expected, "is neither a text nor a number, nor a list of these")

    def __call__(self, answer: str, example: Example) -> float:
        """1 or 0."""
        accepted = _accepted(example.fields[self.expected])
        return float(self.ballot(answer, example) in {self._normal(str(text)) for text in accepted})

    def ballot(self, answer: str, example: Example) -> str:
        """The text as it is compared."""
        return self._normal(answer)

    def _normal(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)  # the same letters, however they are put together
        if self.ignore_markdown:
            text = without_markdown(text)
        if self.ignore_punctuation:
            text = "".join(char for char in text if char not in _PUNCTUATION and unicodedata.category(char)[0] != "P")
        if self.ignore_case:
            text = text.casefold()
        return " ".join(text.split()) if self.ignore_white_space else text


@dataclass(frozen=True, kw_only=True)
class Numeric(Rule):
    """1 where the number an answer ends on is the expected one, else 0; read as `reading.last_number` says.

    Numbers are compared exactly, as fractions: 0.1 is a tenth, and 1/3 is not 0.333 without a tolerance.

    Attributes:
        expected: field that holds it: a number, or a text that ends on one, or a list of which any one will do.
        tolerance: most absolute difference that still counts as equal.
        relative: the same as a share of the expected number; the larger of both counts.
        percent: "45%" is the number 45 or the share 0.45, in both.
    """

    expected: str = "answer"
    tolerance: float = 0.0
    relative: float = 1e-9
    percent: Percent = "number"

    def __post_init__(self) -> None:
        for name in ("tolerance", "relative"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"scorer 'numeric': {name}={getattr(self, name)!r} must be 0 or more")
        if self.percent not in get_args(Percent):
            raise ConfigError(f"scorer 'numeric': percent={self.percent!r} must be one of {get_args(Percent)}")

    @property
    def name(self) -> str:
        """For people and records."""
        return "numeric"

    @property
    def needs(self) -> tuple[str, ...]:
        """The field with the expected number."""
        return (self.expected,)

    def check(self, example: Example) -> None:
        """There is a number in it.

        Raises:
            ConfigError: there is none.
        """
        super().check(example)
        if None in self._wanted(example):
            raise self.unfit(example, self.expected, "holds no number")

    def __call__(self, answer: str, example: Example) -> float:
        """1 or 0; an answer without a number is wrong."""
        found = last_number(answer, percent=self.percent)
        return float(found is not None and any(self._close(found, wanted) for wanted in self._wanted(example)))

    def ballot(self, answer: str, example: Example) -> str | None:
        """The number in one spelling; without one, none."""
        found = last_number(answer, percent=self.percent)
        return None if found is None else shown(found)

    def _close(self, found: Fraction, wanted: Fraction | None) -> bool:
        if wanted is None:
            return False
        return abs(found - wanted) <= max(Fraction(str(self.tolerance)), abs(wanted) * Fraction(str(self.relative)))

    def _wanted(self, example: Example) -> list[Fraction | None]:
        return [
            None if isinstance(value, bool) else last_number(str(value), percent=self.percent)
            for value in _accepted(example.fields[self.expected])
        ]


@dataclass(frozen=True, kw_only=True)
class Regex(Rule):
    """What a pattern finds in the answer. With a group: 1 where its text is the expected one. Without: 1 where it is found.

    The last place counts, where answers end on what they concluded. The pattern is trusted: one that backtracks without end
    on some answer cannot be interrupted.

    Attributes:
        pattern: Python regular expression, searched for anywhere.
        group: number or name of the group; None is the first, if there is one.
        expected: field that is compared with the group's text, without white space around it; of a list any one will do.
        ignore_case: capitals do not matter, neither to the pattern nor to the comparison.
    """

    pattern: str
    group: int | str | None = None
    expected: str = "answer"
    ignore_case: bool = False

    def __post_init__(self) -> None:
        known = self._compiled
        if self.group is not None and self.group not in {*range(known.groups + 1), *known.groupindex}:
            raise ConfigError(
                f"scorer 'regex': group={self.group!r} is not in {self.pattern[:80]!r}; it has {known.groups} groups"
            )

    @property
    def name(self) -> str:
        """For people and records."""
        return "regex"

    @property
    def needs(self) -> tuple[str, ...]:
        """The field with the expected text, if there is a group."""
        return () if self._group is None else (self.expected,)

    def __call__(self, answer: str, example: Example) -> float:
        """1 or 0."""
        found = self._found(answer)
        if found is None or self._group is None:
            return float(found is not None)
        return float(found in {self._normal(str(text)) for text in _accepted(example.fields[self.expected])})

    def ballot(self, answer: str, example: Example) -> str | None:
        """The group's text, or what the pattern found; without either, none."""
        return self._found(answer)

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        try:
            return re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"scorer 'regex': {self.pattern[:80]!r} is not a regular expression: {error}") from None

    @property
    def _group(self) -> int | str | None:
        return 1 if self.group is None and self._compiled.groups else self.group

    def _found(self, answer: str) -> str | None:
        last = deque(self._compiled.finditer(answer), maxlen=1)
        text = last[0][0 if self._group is None else self._group] if last else None
        return None if text is None else self._normal(text)

    def _normal(self, text: str) -> str:
        return text.strip().casefold() if self.ignore_case else text.strip()


_PUNCTUATION = frozenset(string.punctuation)


def _accepted(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)
