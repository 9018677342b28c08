"""What a model's answer says: the number, the JSON or the code in it, whatever stands around them.

Answers are untrusted text of any length, so patterns here do not run back and forth over it, and numbers have a bounded size.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

Percent = Literal["number", "share"]

_FENCE = re.compile(
    r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+#.-]*+)[^\n]*+\n(.*?)(?:^[ \t]*+\1|\Z)", re.MULTILINE | re.DOTALL
)
_BLOCK_MARK = re.compile(r"^[ \t]*+(?:#{1,6}[ \t]+|>[ \t]?|[-*+][ \t]+)+", re.MULTILINE)
_INLINE_MARK = re.compile(r"(?<![\w*_`])(\*{1,3}|_{1,3}|`{1,2})(?=\S)([^\n]{1,400}?)(?<=\S)\1(?![\w*_`])")

_SPACES = "\u00a0\u2009\u202f"
_PLAIN = rf"(?:\d{{1,3}}(?:[,{_SPACES}]\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|(?<![.\w])\.\d+"
_NUMBER = re.compile(
    rf"""(?=[-+\u2212$€£¥.\d])(?<!\w)(?<!\d\.)
    (?P<sign>(?<![)\]])[-+\u2212])? [$€£¥]? (?P<late>(?<=[$€£¥])[-\u2212])?
    (?:(?P<mixed>\d++)[ ](?=\d++/\d))?
    (?P<value>{_PLAIN})
    (?:[eE](?P<exponent>[-+]?\d{{1,3}})(?!\d)
      |[ ]?(?:[×x*]|\\times|\\cdot)[ ]?10\^\{{?(?P<power>[-+\u2212]?\d{{1,3}})(?!\d)\}}?)?
    (?:[ ]?/[ ]?(?P<over>{_PLAIN}))?
    (?P<percent>[ ]?(?:%|percent\b|per[ ]cent\b))?""",
    re.VERBOSE,
)
_LATEX_FRACTION = re.compile(r"(\d?)\\[dtc]?frac ?(?:\{([^{}]{1,60})\}|(\d))(?:\{([^{}]{1,60})\}|(\d))")
_LATEX = (("{,}", ","), ("\\%", "%"), ("\\$", "$"), ("\\!", ""), ("\\,", ""), ("\\left", ""), ("\\right", ""))
_BOXES = ("\\boxed{", "\\fbox{")
_LONGEST_NUMBER, _TRIED, _TAIL = 60, 16, 240
_MOST_JSON = 50
"""Places in one answer at which JSON is looked for."""


def without_markdown(text: str) -> str:
    """The text without fences, headings, quotes, bullets, bold, italics and code marks."""
    text = _BLOCK_MARK.sub("", _FENCE.sub(lambda found: found[3], text))
    for _ in range(3):  # marks within marks
        text, changed = _INLINE_MARK.subn(r"\2", text)
        if not changed:
            break
    return text


def last_number(text: str, *, percent: Percent = "number") -> Fraction | None:
    """The number an answer ends on, exactly: that in its last ``\\boxed{}``, else the last one anywhere; None without one.

    Understood are signs, thousands separators (commas, thin spaces), decimals, powers of ten, fractions, mixed numbers, LaTeX's
    forms of these, and currency signs. A comma is never a decimal point.

    Args:
        percent: whether "45%" is the number 45 or the share 0.45.
    """
    boxed = _boxed(text)
    text = text if boxed is None else boxed
    if "\\" in text or "{" in text:
        for written, plain in _LATEX:
            text = text.replace(written, plain)
        text = _LATEX_FRACTION.sub(_fraction, text)
    # Mostly it stands near the end; all of a long text is read only where it does not.
    for start in (len(text) - _TAIL, 0) if len(text) > _TAIL else (0,):
        for match in reversed(deque(_NUMBER.finditer(text, start), maxlen=_TRIED)):
            whole = start == 0 or match.start() >= start + _LONGEST_NUMBER  # it may have begun before the start
            if whole and (value := _value(match, percent)) is not None:
                return value
    return None


def shown(number: Fraction) -> str:
    """One spelling for one number: decimal where that ends, else a fraction."""
    rest, places = number.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest != 1 or places > _LONGEST_NUMBER:
        return f"{number.numerator}/{number.denominator}"
    digits = str(abs(number.numerator) * (10**places // number.denominator)).zfill(places + 1)
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"


def code_in(text: str) -> str:
    """The longest fenced block of Python, or of no named language; else the longest of any; else the whole text."""
    blocks = [(found[2].lower(), found[3]) for found in _FENCE.finditer(text)]
    python = [code for language, code in blocks if language in ("", "python", "py", "python3")]
    return max(python or [code for _, code in blocks] or [text], key=len)


def json_in(text: str) -> Iterator[Any]:
    """JSON values an answer may mean, the likeliest first: all of it, its fenced blocks, objects and lists in its prose.

    Of several blocks or objects the last comes first. NaN and infinities are no JSON.
    """
    blocks = [found[3] for found in _FENCE.finditer(text)]
    for whole in (text, *reversed(blocks)):
        try:
            yield json.loads(whole, parse_constant=_no_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            continue
    yield from reversed(list(_embedded(text)))


def _embedded(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
    opening, start = re.compile(r"[{\[]"), 0
    for _ in range(_MOST_JSON):
        found = opening.search(text, start)
        if found is None:
            return
        try:
            value, start = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            start = found.start() + 1
        else:
            yield value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(written: str) -> float:
    value = float(written)
    if math.isinf(value):
        raise ValueError(f"{written[:40]} is too large")
    return value


def _boxed(text: str) -> str | None:
    """What stands in the last box; its braces may nest."""
    start = max(text.rfind(box) + len(box) if box in text else -1 for box in _BOXES)
    if start < 0:
        return None
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return text[start:]


def _fraction(found: re.Match[str]) -> str:
    whole = f"{found[1]} " if found[1] else ""  # 1\frac12 is a mixed number
    return f"{whole}{found[2] or found[3]}/{found[4] or found[5]}"


def _value(match: re.Match[str], percent: Percent) -> Fraction | None:
    """The number matched; None if it is too long to be meant, or divides by zero."""
    if len(match[0]) > 2 * _LONGEST_NUMBER:
        return None
    value = _plain(match["value"])
    if match["exponent"] or match["power"]:
        value *= Fraction(10) ** int((match["exponent"] or match["power"]).replace("\u2212", "-"))
    if match["over"]:
        below = _plain(match["over"])
        if below == 0:
            return None
        value /= below
    if match["mixed"]:
        value += int(match["mixed"])
    if match["percent"] and percent == "share":
        value /= 100
    negative = (match["sign"] or "+") != "+" or match["late"]
    return -value if negative else value


def _plain(written: str) -> Fraction:
    return Fraction(re.sub(rf"[,{_SPACES}]", "", written))
