"""How fast an endpoint may be asked that limits the rate: half as much at once after each refusal, one more after each answer."""

from __future__ import annotations

import re
import time

from selfreg_sdk.errors import RateLimited

_FIRST_REST, _LONGEST_REST = 0.5, 30.0
"""Seconds; twice as long after each refusal in a row."""
_PATIENCE = 8
"""Rests in a row, without any answer between, after which an endpoint is taken to be out of order."""
_LONGEST_WISH = 300.0
"""An endpoint that asks for a longer rest has used up a quota, not its breath."""
_QUOTA = re.compile(r"quota|billing|credit", re.IGNORECASE)


class Pace:
    """Calls at once, and rests between.

    Attributes:
        width: calls that may be in flight.
    """

    def __init__(self, parallel: int) -> None:
        self.width = self._most = parallel
        self._rests_until = float("-inf")
        self._in_a_row = 0

    @property
    def rests(self) -> bool:
        """Nothing should be sent now."""
        return time.monotonic() < self._rests_until

    def slower(self, refusal: RateLimited) -> bool:
        """Make a rest after a refusal; False if that is of no use. Refusals during a rest belong to what led to it."""
        if self.rests:
            return True
        wish = refusal.retry_after or 0.0
        if self._in_a_row >= _PATIENCE or wish > _LONGEST_WISH or _QUOTA.search(str(refusal)):
            return False
        rest = min(_FIRST_REST * 2**self._in_a_row, _LONGEST_REST)
        self._rests_until = time.monotonic() + max(rest, wish)
        self._in_a_row += 1
        self.width = max(self.width // 2, 1)
        return True

    def faster(self) -> None:
        """There was an answer."""
        self._in_a_row = 0
        self.width = min(self.width + 1, self._most)
