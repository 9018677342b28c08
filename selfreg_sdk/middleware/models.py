"""From the model that an agent picked to one that selfreg regulates or counts; it stays an instance of its provider's class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from langchain_core.language_models.chat_models import BaseChatModel

from policies import Bounds, DecodingParams, StaticPolicy
from selfreg_sdk.adapters import field_for
from selfreg_sdk.chat_model import ChatSelfReg
from selfreg_sdk.langchain.regulate import Options, Regulated, regulate

_LONGEST_ANSWER = 1_000_000
"""A bound that no model reaches: whoever only counts shortens nothing but for money."""


@dataclass(frozen=True, kw_only=True)
class AsItIs(StaticPolicy):
    """Chooses nothing: marks a model whose calls are counted and otherwise left alone."""


def counted(model: BaseChatModel, *, max_tokens: int, options: Options) -> BaseChatModel:
    """``model`` with its calls paid through selfreg's books; its own settings hold.

    Args:
        model: of any provider.
        max_tokens: limit of its answers, if it has none of its own: without any, a call has no worst case.
        options: further ones of `regulate`.
    """
    made: Options = {
        **options,
        "planner": "off",
        "policy": AsItIs(),
        "defaults": DecodingParams(max_tokens=_own_limit(model) or max_tokens),
        "bounds": Bounds(max_tokens=_LONGEST_ANSWER),
    }
    return regulate(model, **made)


def chat_of(model: BaseChatModel) -> ChatSelfReg | None:
    """What decides and pays for a model's calls; None if selfreg does not."""
    if isinstance(model, Regulated):
        return model._chat
    return model if isinstance(model, ChatSelfReg) else None


def original(model: BaseChatModel) -> BaseChatModel:
    """The provider's model, where it is only counted; else the model itself."""
    chat = chat_of(model)
    if chat is None or chat.inner is None or not isinstance(chat.policy, AsItIs):
        return model
    return chat.inner


def planned_by(model: BaseChatModel, planner: str | BaseChatModel) -> BaseChatModel:
    """A regulated model with another planner."""
    if not isinstance(model, Regulated):
        return model.model_copy(update={"planner": planner})
    copy = model.model_copy()
    copy._selfreg = model._selfreg.with_options(planner=planner)
    return copy


def _own_limit(model: BaseChatModel) -> int | None:
    field = field_for(model, "max_tokens")
    value = None if field is None else getattr(model, field, None)
    return value if isinstance(value, int) and value > 0 else None


class Wrappers:
    """What was made of each model, kept for the latest ones: agents hand over the same object at every step.

    Args:
        make: from a model to what wraps it.
        most: models remembered.
    """

    def __init__(self, make: Callable[[BaseChatModel], BaseChatModel], most: int = 64) -> None:
        self._make = make
        self._most = most
        # By identity, since models have no hash; the model is kept as well, so that its identity stays taken.
        self._made: dict[int, tuple[BaseChatModel, BaseChatModel]] = {}
        self._lock = Lock()

    def of(self, model: BaseChatModel) -> BaseChatModel:
        """The wrapper of a model, made once."""
        known = self._made.get(id(model))
        if known is not None:
            return known[1]
        with self._lock:
            if id(model) not in self._made:
                made = self._make(model)
                while len(self._made) >= self._most:
                    del self._made[next(iter(self._made))]
                self._made[id(model)] = (model, made)
            return self._made[id(model)][1]

    async def aof(self, model: BaseChatModel) -> BaseChatModel:
        """`of` on an event loop: making one may open a store, which is done in a thread."""
        known = self._made.get(id(model))
        return await asyncio.to_thread(self.of, model) if known is None else known[1]
