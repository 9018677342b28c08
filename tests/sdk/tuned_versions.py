"""Tuned versions in a store, as the tuner leaves them, and models that use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from threading import Lock
from typing import Any

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.store.configs import ConfigRecord
from selfreg_sdk.versions import ANY_MODEL, tuned_key
from tests.fake_provider import FakeProvider, Payload
from tests.sdk.regulated import MODEL, PRICES, chat

TASK = "triage"
SAYS = [["system", "Answer with {{}}."], ["user", "{question}"]]


def tuned(
    shared: Runtime,
    how: str = "vote of 7",
    *,
    task: str = TASK,
    model: str = MODEL,
    best: bool = False,
    **more: Any,
) -> int:
    """A version in production; ``best`` makes it the winner over all models too."""
    params = {"temperature": 0.7, "max_tokens": 40, "n": int(how.rpartition(" ")[2]) if " " in how else 1}
    provenance = {"kind": "tuned", "prompt": "short", "messages": SAYS, "base_url": None} | more.pop("provenance", {})
    made = 0
    for key in (tuned_key(task, model), *([tuned_key(task, ANY_MODEL)] if best else [])):
        record = ConfigRecord(
            **{"task_key": key, "model": model, "aggregation": how, "params": params, "provenance": provenance} | more
        )
        made = shared.configs.add_version(record)
        shared.configs.point(key, "production", made)
    return made


def tuned_chat(provider: FakeProvider, how: str = "vote of 7", **given: Any) -> ChatSelfReg:
    """A model whose task was tuned; ``provenance`` is the version's."""
    provenance = given.pop("provenance", {})
    llm = chat(provider, **{"task": TASK, "planner": "off", "prices": PRICES} | given)
    tuned(llm._ready.shared, how, model=llm._ready.target.model, provenance=provenance)
    return llm


class Answers:
    """Answers in turn, whether they are asked for one by one or several at a time; round and round."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self._lock, self._places = Lock(), count()

    def __call__(self, payload: Payload) -> list[str]:
        with self._lock:
            return [self.texts[next(self._places) % len(self.texts)] for _ in range(payload.get("n") or 1)]


def asked(provider: FakeProvider) -> list[int]:
    """How many samples each request asked for."""
    return [payload.get("n", 1) for payload in provider.payloads]


Reply = Callable[[Payload], Sequence[str]]
