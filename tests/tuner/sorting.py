"""A provider that sorts texts: better when cold, and the same answers to the same requests in the same order."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

PRICES = 'prices: {%s: {input_usd_per_mtok: "0.40", output_usd_per_mtok: "1.60"}}\n'
"""What the fake provider bills."""

COLD, HOT = 0.97, 0.2
"""Shares of right answers at temperature 0, and at 1 and above."""


class Sorting:
    """Replies of a `FakeProvider`.

    Args:
        labels: text to its right label; the text that stands in the last message is meant.
        hot: share of right answers at temperature 1 and above.
    """

    def __init__(self, labels: Mapping[str, str], hot: float = HOT) -> None:
        self._labels, self._hot = dict(labels), hot
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, payload: Mapping[str, Any]) -> list[str]:
        asked = str(payload["messages"][-1]["content"])
        right = next(label for text, label in self._labels.items() if text in asked)
        wrong = sorted(set(self._labels.values()) - {right})
        said = json.dumps(payload, sort_keys=True)
        with self._lock:
            self._asked[said] += 1
            random = Random(f"{said}{self._asked[said]}")
        heat = min(payload.get("temperature", 1.0), 1.0)
        good = COLD + (self._hot - COLD) * heat
        return [right if random.random() < good else random.choice(wrong) for _ in range(payload.get("n") or 1)]
