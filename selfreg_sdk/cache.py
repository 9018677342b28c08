"""The exact response cache: one key for one full request, one row for each repeat of it.

The key hashes the whole wire payload and the endpoint, nothing is left out, so two requests that differ in any field
never share a reply. Repeats of one request (samples for a vote, for pass@k) differ in ``sample_index``: handing the same
sample out twice would silently ruin what they are drawn for. Bodies are JSON; nothing stored is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from selfreg_sdk.endpoint import endpoint_id
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.responses import RecordedResponse, Responses

# "length" is complete for the max_tokens in the key. A filtered reply may differ next time, and one without a reason
# was cut off. The second line: the same reasons in the words of other vendors, through wrapped LangChain models.
_WHOLE = frozenset({"stop", "length", "tool_calls", "function_call"}) | frozenset(
    {"end_turn", "stop_sequence", "max_tokens", "tool_use"}
)


def cache_key(payload: Mapping[str, Any], *, endpoint: str) -> str:
    """SHA-256 of the payload as sent and the endpoint, as hex.

    1, 1.0 and True are different requests, because they differ on the wire. The order of keys is not a difference.

    Args:
        payload: the whole JSON body; headers and keys are no part of it.

    Raises:
        ConfigError: NaN, infinity, or a value that JSON has no form for.
    """
    # One list, so that no text can move from one part to the other.
    text = _canonical([endpoint_id(endpoint), payload])
    return hashlib.sha256(text.encode()).hexdigest()


class ResponseCache:
    """Replies by request and repeat, over a store."""

    def __init__(self, store: Store) -> None:
        self._rows = Responses(store)

    def get(self, key: str, sample_index: int = 0) -> dict[str, Any] | None:
        """The reply body, or None. A damaged row, or one of an older format, is deleted and counts as a miss."""
        row = self._rows.find(key, sample_index)
        if row is None:
            return None
        body = _parse(row.body) if row.intact else None
        if body is None:
            self._rows.delete(key, sample_index)
        return body

    def record(
        self, key: str, body: Mapping[str, Any], *, sample_index: int = 0, model: str, endpoint: str
    ) -> RecordedResponse | None:
        """A reply ready for ``Meter.settle``, which stores it together with the settlement.

        Args:
            body: with ``choices``, each with its ``finish_reason``, as in a chat completion.

        Returns:
            None when the reply must not be used again: no choice at all, one that was cut off, filtered or ended for a
            reason we do not know, or a body that is not JSON.
        """
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            return None
        reasons = [choice.get("finish_reason") if isinstance(choice, Mapping) else None for choice in choices]
        if not all(is_whole(reason) for reason in reasons):
            return None
        try:
            text = _canonical(body)
        except ConfigError:
            return None
        return RecordedResponse(
            key=key, sample_index=sample_index, body=text, model=model, endpoint=endpoint_id(endpoint)
        )


def is_whole(finish_reason: object) -> bool:
    """Whether a sample that ended so is all there is of it; what was filtered or cut off otherwise is never used again."""
    return str(finish_reason).lower() in _WHOLE


def _canonical(value: object) -> str:
    """JSON in one spelling: sorted keys, ASCII, no spaces."""
    _check_keys(value)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the request is not plain JSON ({error}); give only text, finite numbers, lists and dicts"
        ) from error


def _check_keys(value: object) -> None:
    """Refuse keys that are not text: json would write 1 and "1" the same way, and two requests would share a key."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str):
                    raise ConfigError(f"the request has a key that is not text: {key!r} ({type(key).__name__})")
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)


def _parse(text: str) -> dict[str, Any] | None:
    try:
        body = json.loads(text)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
