"""EcoOptiGen's memory: how many samples were within, and how many over, the budget of a request."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from selfreg_sdk.tuner.search.dimensions import Point, point_key


@dataclass
class Region:
    """What is known about n for one model, prompt and stop setting, by max_tokens."""

    valid: dict[float, int] = field(default_factory=dict)
    invalid: dict[float, int] = field(default_factory=dict)

    def valid_n(self, max_tokens: float) -> int:
        """So many samples are within budget: what fits with longer answers fits with shorter ones."""
        return max((n for cap, n in self.valid.items() if cap >= max_tokens), default=1)

    def invalid_n(self, max_tokens: float) -> float:
        """So many samples are over budget: what is too much with shorter answers is too much with longer ones."""
        return min((n for cap, n in self.invalid.items() if cap <= max_tokens), default=math.inf)

    def found_valid(self, n: int, max_tokens: float) -> None:
        """Note that n samples of at most so many tokens were within budget."""
        self.valid[max_tokens] = max(n, self.valid.get(max_tokens, n))

    def found_invalid(self, n: int, max_tokens: float) -> None:
        """Note that n samples of at most so many tokens were over budget."""
        self.invalid[max_tokens] = min(n, self.invalid.get(max_tokens, n))


def region_key(point: Point) -> str:
    """What n and max_tokens are compared within; temperature and the like hardly change the length of answers."""
    return point_key({name: point.get(name) for name in ("model", "prompt", "stop")})


def rho(seen: int, size: int) -> float:
    """How much of the uncertainty is left after ``seen`` of ``size`` examples; 0 after all (Bardenet and Maillard 2015)."""
    if 2 * seen > size:
        return (1 - seen / size) * (1 + 1 / seen)
    return 1 - (seen - 1) / size
