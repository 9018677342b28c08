"""EcoOptiGen with the eight defects that were measured in the published code, each to be switched on alone.

The test of our tests: with one defect the check for it has to fail, without any all have to pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from selfreg_sdk.errors import BadRequest
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.search.drawing import Drawn, Sample, Value
from selfreg_sdk.tuner.search.regions import rho
from tests.tuner.fake_endpoint import EXAMPLES, PROMPTS, RATES, Endpoint, price


class _Over(Exception):
    """The trial is over the budget, or was refused."""


class ReferenceTwin:
    """A tuning with the defects whose numbers it is given."""

    regions: ClassVar[dict[str, dict[str, dict[float, int]]]] = {}
    cache: ClassVar[dict[str, Drawn]] = {}

    def __init__(self, endpoint: Endpoint, *, value: Value, budget: Decimal, mode: str, defects: set[int]) -> None:
        self.endpoint, self.value, self.budget, self.mode, self.defects = endpoint, value, budget, mode, defects
        self.prompt_tokens: float | None = None
        if 5 not in defects:
            self.regions, self.cache = {}, {}  # type: ignore[misc]

    def tune(self, points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The point with the best metric, whatever became of it."""
        if 3 not in self.defects:
            for point in points:
                price(point["model"])
        results = []
        for point in points:
            try:
                results.append((self._trial(point), point))
            except _Over:
                if 2 in self.defects:
                    results.append((0.0, point))
                elif 6 in self.defects:
                    results.append((math.inf if self.mode == "min" else -math.inf, point))
        choose = max if self.mode == "max" else min
        return choose(results, key=lambda result: result[0])[1] if results else None

    def _trial(self, point: Mapping[str, Any]) -> float:
        region = self.regions.setdefault(
            json.dumps([point["model"], point["prompt"], point.get("stop")]), {"valid": {}, "invalid": {}}
        )
        doubled = "best_of" if "best_of" in point else "n"
        whole = doubled == "best_of" and 7 not in self.defects
        wanted, cap, size = point[doubled], point.get("max_tokens") or math.inf, len(EXAMPLES)
        checked = self.prompt_tokens is not None or 8 not in self.defects
        level = self._start(region, point, wanted, cap)
        if whole:
            level = max(level, point["n"])
        previous, answers, tokens = 0, list[list[Sample]](), list[int]()
        while True:
            start, seen = 0, 1
            while True:
                for index in range(start, seen):
                    drawn = self._ask(point, doubled, level - previous, previous, EXAMPLES[index])
                    if previous:
                        tokens[index] += drawn.output_tokens
                        answers[index].extend(drawn.samples)
                    else:
                        tokens.append(drawn.output_tokens)
                        answers.append(list(drawn.samples))
                    if self.prompt_tokens is None:
                        self.prompt_tokens = drawn.prompt_tokens
                mean, margin = sum(tokens[:seen]) / seen, 0.1 * math.sqrt(rho(seen, size) / seen)
                allowed = self._allowed(point) if checked else math.inf
                if mean > allowed * (1 + margin):
                    region["invalid"][cap] = min(level, region["invalid"].get(cap, level))
                    raise _Over
                clear = checked and level < wanted and mean <= allowed * (1 - margin)
                if clear or seen == size:
                    break
                start, seen = seen, min(2 * seen, size)
            region["valid"][cap] = max(level, region["valid"].get(cap, 0))
            if level == wanted:
                break
            previous = level
            if clear or whole:
                previous, answers, tokens = 0, [], []
            level = min(2 * level, wanted)
        values = [self.value(example, given) for example, given in zip(EXAMPLES, answers, strict=True)]
        return sum(values) / size  # type: ignore[arg-type]

    def _start(self, region: dict[str, dict[float, int]], point: Mapping[str, Any], wanted: int, cap: float) -> int:
        valid = max((n for key, n in region["valid"].items() if key >= cap), default=1)
        if self.prompt_tokens is not None:
            valid = max(valid, int(self._allowed(point) // cap))
        if wanted <= valid:
            return wanted
        if wanted >= min((n for key, n in region["invalid"].items() if key <= cap), default=math.inf):
            raise _Over
        return valid + 1

    def _allowed(self, point: Mapping[str, Any]) -> float:
        assert self.prompt_tokens is not None
        given, taken = (Decimal(rate) for rate in RATES[point["model"]])
        return float((self.budget - Decimal(self.prompt_tokens) * given) / taken)

    def _ask(self, point: Mapping[str, Any], doubled: str, count: int, start: int, example: Example) -> Drawn:
        parameters = {**point, doubled: count}
        prompt = PROMPTS[point["prompt"]]
        messages = prompt.render(example)
        if 4 in self.defects:
            messages = [{"role": role, "content": template} for role, template in prompt.messages]
        # Without the start, the key does not tell one part of the samples from the next.
        key = json.dumps([messages, parameters, example.id, 0 if 1 in self.defects else start], sort_keys=True)
        if key not in self.cache:
            try:
                self.cache[key] = self.endpoint.complete(messages, parameters, example)
            except BadRequest:
                raise _Over from None
        return self.cache[key]
