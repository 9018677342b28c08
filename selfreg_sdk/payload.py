"""Request bodies on their way to the wire: their JSON, with the messages written once.

A body is sent several times (retries, samples, a field less after a refusal), measured for its worst case and sometimes
hashed. Its messages are by far the longest part and never differ between those, so their JSON is made once and shared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from selfreg_sdk.errors import ConfigError

try:
    import orjson
except ImportError:  # no wheel for this platform; langsmith, and with it LangChain, brings one nearly everywhere
    orjson = None  # type: ignore[assignment]  # asked for before use

T = TypeVar("T")

_MESSAGES = "messages"


class Payload(dict[str, Any]):
    """A request body that shares what was worked out of its messages with every body made from it by `replace`.

    The list of messages is not changed in place after the first use.
    """

    __slots__ = ("_known", "_source")

    def __init__(self, fields: Mapping[str, Any] = {}, /) -> None:
        super().__init__(fields)
        self._source: Any = self.get(_MESSAGES)
        self._known: dict[Any, Any] = {}

    def replace(self, fields: Mapping[str, Any], /, *, without: Iterable[str] = ()) -> Payload:
        """The same body with other ``fields`` and some left out; this one stays as it is."""
        made = Payload.__new__(Payload)
        dict.update(made, self)
        dict.update(made, fields)
        for name in without:
            made.pop(name, None)
        made._source, made._known = self._source, self._known
        return made

    def once(self, of: Callable[[Payload], T]) -> T:
        """What ``of`` makes of this body: worked out once for all bodies with these messages, so it may look at nothing else."""
        if self.get(_MESSAGES) is not self._source:
            self._source, self._known = self.get(_MESSAGES), {}
        try:
            return self._known[of]  # type: ignore[no-any-return]  # kept by its own type
        except KeyError:
            made = self._known[of] = of(self)
            return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Payload, (dict(self),)


def replaced(
    payload: Mapping[str, Any], fields: Mapping[str, Any], *, without: Sequence[str] = ()
) -> Mapping[str, Any]:
    """`Payload.replace` for any mapping."""
    if isinstance(payload, Payload):
        return payload.replace(fields, without=without)
    return {name: value for name, value in {**payload, **fields}.items() if name not in without}


def encode(payload: Mapping[str, Any]) -> bytes:
    """The JSON of a request body; of a `Payload`, only what stands beside the messages is written anew.

    Raises:
        ConfigError: it holds something that JSON has no form for.
    """
    if not isinstance(payload, Payload) or not payload.get(_MESSAGES):
        return _dumps(dict(payload))
    messages = payload.once(messages_json)
    rest = _dumps({name: value for name, value in payload.items() if name != _MESSAGES})
    return b'{"messages":%b%b%b' % (messages, b"," if len(rest) > 2 else b"", rest[1:])


def messages_json(payload: Payload) -> bytes:
    """The JSON of the messages alone, for `Payload.once`.

    Raises:
        ConfigError: they hold something that JSON has no form for.
    """
    return _dumps(payload[_MESSAGES])


def _dumps(value: Any) -> bytes:
    """One answer whatever is installed: the fast writer gets only what both write alike."""
    try:
        if orjson is not None and _plain(value):
            return orjson.dumps(value)
    except (TypeError, RecursionError):  # keys that are no text, half a surrogate pair, integers beyond 64 bits
        pass
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8 form, but an escape
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the request cannot be written as JSON: {error}; give only text, finite numbers, lists and dicts"
        ) from None


_SIMPLE = frozenset({str, int, bool, type(None)})


def _plain(value: Any) -> bool:
    """Only JSON's own types, and no NaN, which orjson would silently turn into null."""
    kind = type(value)
    if kind in _SIMPLE:
        return True
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        value = value.values()
    elif kind is not list:
        return False
    for item in value:  # noqa: SIM110 - run over every message, and a generator takes twice as long
        if type(item) is not str and not _plain(item):
            return False
    return True
