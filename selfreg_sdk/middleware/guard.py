"""Under a budget, no LangChain model is called that nobody counts: a fallback's, a selector's, one inside a tool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

from selfreg_sdk.errors import ConfigError

_DECIDES = frozenset({"planner", "policy", "bounds"})
"""What a subclass of `ChatSelfReg` shows as well."""


class _Guard(BaseCallbackHandler):
    """Hears of every model run before it is sent; what it raises stops the run."""

    raise_error = True
    run_inline = True

    def on_chat_model_start(self, serialized: dict[str, Any] | None, messages: Any, **about: Any) -> None:
        _refuse_foreign(serialized, about)

    def on_llm_start(self, serialized: dict[str, Any] | None, prompts: Any, **about: Any) -> None:
        _refuse_foreign(serialized, about)


_guard: ContextVar[_Guard | None] = ContextVar("selfreg_guard", default=None)
register_configure_hook(_guard, inheritable=True)


@contextmanager
def only_counted_models() -> Iterator[None]:
    """Refuse calls of models that selfreg does not count, in everything called inside the block.

    Raises:
        ConfigError: from within such a call, before anything is sent.
    """
    token = _guard.set(_GUARD)
    try:
        yield
    finally:
        _guard.reset(token)


def _refuse_foreign(serialized: dict[str, Any] | None, about: dict[str, Any]) -> None:
    path = (serialized or {}).get("id") or ["an unnamed model"]
    params = about.get("invocation_params") or {}
    # Ours live in our package, or show in their parameters what decides about them.
    if path[0] == "selfreg_sdk" or "selfreg" in params or params.keys() >= _DECIDES:
        return
    raise ConfigError(
        f"{path[-1]} is called under a budget, but selfreg does not count it: put SelfRegulationMiddleware last, "
        "wrap the model with regulate() or ChatSelfReg(inner=...), or pass uncounted='allow'"
    )


_GUARD = _Guard()
