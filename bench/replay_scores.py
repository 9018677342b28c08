"""How answers of the replayed exams are read and scored; also imported in the peers' environment, so stdlib alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Metric = Literal["vote", "expected_success"]
METRICS: tuple[Metric, ...] = ("vote", "expected_success")

_ANSWER = re.compile(r"""Answer\(\s*["']?([^"')\s])""")


def ballot(text: str) -> str:
    """What an answer votes for: the letter of its last ``Answer("...")``, "" if there is none."""
    found = _ANSWER.findall(text)
    return found[-1] if found else ""


def answer_line(said: str) -> str:
    """The shortest text with this ballot."""
    return f'Action: Answer("{said}")' if said else ""


def value(metric: Metric, texts: Sequence[str], answer: str) -> float:
    """An example's value of n samples.

    "vote" is 1 if the most frequent ballot is the answer (ties go to the earliest, texts without a ballot do not vote);
    "expected_success" is 1 - (1 - s / n) ** n with s of n samples right.
    """
    ballots = [ballot(text) for text in texts]
    if metric == "expected_success":
        return float(1 - (1 - ballots.count(answer) / len(ballots)) ** len(ballots))
    cast = Counter(said for said in ballots if said)
    return float(bool(cast) and cast.most_common(1)[0][0] == answer)
