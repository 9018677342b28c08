"""Telling somebody, once, that a budget is nearly used up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.store.journal import Sum
from selfreg_sdk.store.ledger import BudgetStatus

_log = logging.getLogger(__name__)


class SoftLimit:
    """Calls ``on_soft`` once for each scope that reaches the fraction ``soft`` of its cap.

    Raises:
        ConfigError: one without the other, or no fraction in (0, 1].
    """

    def __init__(self, soft: Decimal | None, on_soft: Callable[[BudgetStatus], None] | None) -> None:
        if (soft is None) != (on_soft is None) or (soft is not None and not 0 < soft <= 1):
            raise ConfigError(f"soft={soft!r} must be a fraction in (0, 1] and come together with on_soft")
        self._soft = soft
        self._on_soft = on_soft
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def reached(self, scopes: Iterable[str], seen: Mapping[str, Sum]) -> list[BudgetStatus]:
        """Those of the scopes that reached the limit by the sums seen, and were not told of before."""
        if self._soft is None:
            return []
        reached = []
        for scope in scopes:
            total = seen.get(scope)
            if total is None or total.cap is None or total.spent + total.held < total.cap * self._soft:
                continue
            with self._lock:
                if scope not in self._told:
                    self._told.add(scope)
                    reached.append(total.status(scope))
        return reached

    def tell(self, status: BudgetStatus) -> None:
        """Call ``on_soft``; its errors are logged, not raised: the reply is already paid for."""
        try:
            if self._on_soft is not None:
                self._on_soft(status)
        except Exception:
            _log.exception("the soft limit of budget %r could not be reported", status.scope)
