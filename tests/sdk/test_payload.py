"""The JSON of request bodies: one answer with and without the fast writer, and messages written once."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import unicodedata
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk import payload as payload_module
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.payload import Payload, encode, messages_json, replaced
from selfreg_sdk.prompt_bound import prompt_token_bound

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}), min_size=1
)
fields = st.dictionaries(st.text(min_size=1, max_size=6).filter(lambda name: name != "messages"), values, max_size=4)


class Colour(enum.Enum):
    RED = "red"


@pytest.fixture(params=["fast", "plain"], autouse=True)
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test holds with orjson and without it."""
    if request.param == "plain":
        monkeypatch.setattr(payload_module, "orjson", None)
    else:
        assert payload_module.orjson is not None, "the tests need orjson, which langsmith brings"
    return str(request.param)


def body(**more: Any) -> Payload:
    return Payload({"model": "m", "messages": [{"role": "user", "content": "hello"}], **more})


@pytest.mark.usefixtures("writer")
def test_messages_are_spliced_into_what_json_would_write() -> None:
    @given(messages, fields)
    def holds(turns: list[Any], others: dict[str, Any]) -> None:
        payload = Payload({**others, "messages": turns})

        assert json.loads(encode(payload)) == json.loads(json.dumps(dict(payload)))
        assert json.loads(encode(dict(payload))) == dict(payload)

    holds()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (2**70, b"1180591620717411303424"),
        (-(2**64), b"-18446744073709551616"),
        ("\ud800", b'"\\ud800"'),
        ("ä\u2028", '"ä\u2028"'.encode()),
        ({1: "a", None: "b", False: "c"}, b'{"1":"a","null":"b","false":"c"}'),
        ((1, 2), b"[1,2]"),
        (0.1, b"0.1"),
        ("null", b'"null"'),
        (None, b"null"),
    ],
)
def test_what_json_takes_is_written(value: Any, written: bytes) -> None:
    assert encode({"x": value}) == b'{"x":' + written + b"}"
    assert written in encode(body(x=value))
    assert written in encode(Payload({"messages": [{"role": "user", "content": value}]}))


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        [{"deep": float("nan")}],
        b"bytes",
        {"a"},
        object(),
        datetime(2026, 1, 1, tzinfo=UTC),
        uuid.UUID(int=1),
        Colour.RED,
        {(1, 2): "x"},
    ],
)
def test_what_json_has_no_form_for_is_refused_with_the_remedy(value: Any) -> None:
    for payload in ({"x": value}, body(x=value), Payload({"messages": [{"role": "user", "content": value}]})):
        with pytest.raises(ConfigError, match=r"cannot be written as JSON: .*; give only text, finite numbers"):
            encode(payload)


def test_a_list_inside_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        encode({"x": endless})


def test_messages_are_written_once_for_all_bodies_made_from_one() -> None:
    first = body(temperature=0.5)
    again = first.replace({"temperature": 0.7}, without=("model",))

    assert first.once(messages_json) is again.once(messages_json)
    assert json.loads(encode(again)) == {"messages": first["messages"], "temperature": 0.7}
    assert first == {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5}
    assert isinstance(again, Payload)


def test_other_messages_are_written_anew() -> None:
    first = body()
    encode(first)
    other = first.replace({"messages": [{"role": "user", "content": "bye"}]})
    assigned = body()
    encode(assigned)
    assigned["messages"] = [{"role": "user", "content": "bye"}]

    assert json.loads(encode(other)) == dict(other)
    assert json.loads(encode(assigned)) == dict(assigned)
    assert b"hello" in encode(first)


@pytest.mark.parametrize("payload", [{}, {"messages": []}, {"prompt": "p"}, {"messages": [{}]}, {"messages": "text"}])
def test_bodies_without_messages_to_share_are_written_as_they_are(payload: dict[str, Any]) -> None:
    assert json.loads(encode(Payload(payload))) == payload


def test_replaced_keeps_plain_mappings_plain() -> None:
    assert replaced({"a": 1, "b": 2}, {"c": 3}, without=("a",)) == {"b": 2, "c": 3}
    assert type(replaced({"a": 1}, {})) is dict
    assert isinstance(replaced(body(), {"c": 3}), Payload)


def test_copies_and_pickles_are_payloads() -> None:
    payload = body(n=2)
    for twin in (copy.copy(payload), copy.deepcopy(payload), pickle.loads(pickle.dumps(payload))):
        assert isinstance(twin, Payload)
        assert encode(twin) == encode(payload)


# -- the bound on prompt tokens, from the same JSON --------------------------------------------------------------------


def test_the_bound_of_a_payload_covers_every_byte_of_every_form() -> None:
    """The guarantee of `prompt_token_bound`, whichever way it is worked out."""

    @given(messages, fields)
    def holds(turns: list[Any], others: dict[str, Any]) -> None:
        bound = prompt_token_bound(Payload({**others, "messages": turns}))

        assert bound is not None
        for form in (None, "NFC", "NFKC"):
            text = "".join(one["content"] for one in turns) + json.dumps(others, ensure_ascii=False)
            shown = unicodedata.normalize(form, text) if form else text  # type: ignore[arg-type]
            assert bound >= len(shown.encode(errors="surrogatepass")) + 256 + 16 * len(turns)

    holds()


@pytest.mark.parametrize(
    "text",
    ["plain", "ﷺ" * 50, "\u0344" * 50, "\ud800ﷺ", "😀", "\x00" * 20, 'say "null"'],
    ids=["ascii", "NFKC grows", "NFC grows", "half a pair", "astral", "escapes", "quotes"],
)
def test_the_bound_is_that_of_the_same_request_as_a_dict(text: str) -> None:
    """Within what spaces between JSON's parts make out: U+FDFA is 3 bytes of UTF-8 and 33 after NFKC."""
    turns = [{"role": "user", "content": text}]
    tools = [{"type": "function", "function": {"name": "ﷺ", "description": text}}]
    for more in ({}, {"tools": tools}, {"note": text}):
        quick = prompt_token_bound(Payload({"model": "m", "messages": turns, **more}))
        slow = prompt_token_bound({"model": "m", "messages": turns, **more})

        assert quick is not None
        assert slow is not None
        assert -32 <= quick - slow <= 32


def test_media_have_no_bound_and_what_json_cannot_hold_has_one() -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}]}]
    words = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]

    assert prompt_token_bound(Payload({"messages": picture})) is None
    assert prompt_token_bound(Payload({"messages": words})) is not None
    assert prompt_token_bound(Payload({"messages": [{"role": "user", "content": b"x" * 40}]})) is not None
    assert prompt_token_bound(Payload({"messages": words, "note": float("nan")})) is not None
