"""Keys have no place in a task file, and none is shown by the refusal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tuner.written import refused, task


@pytest.mark.parametrize("name", ["api_key", "apikey", "key", "OPENAI_API_KEY", "token", "password", "authorization"])
@pytest.mark.parametrize("inside", [(), ("space",), ("baseline",)])
def test_keys_are_refused_and_never_shown(name: str, inside: tuple[str, ...]) -> None:
    wrong: dict[str, Any] = {name: "canary-1234"}
    for part in inside:
        wrong = {part: wrong}
    said = refused(**wrong)
    assert f"{name!r} does not belong here" in said
    assert "SELFREG_API_KEY" in said
    assert "canary" not in said


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ["sk-canary0123456789abcdef"]},
        {"base_url": "Bearer canary0123456789abcdef"},
        {"base_url": "https://me:canary@localhost/v1"},
        {"base_url": "https://localhost/v1?key=canary"},
        {"name": "hf_canary0123456789abcdef"},
    ],
)
def test_what_looks_like_a_key_is_refused_and_never_shown(changes: dict[str, Any]) -> None:
    said = refused(**changes)
    assert "environment" in said
    assert "canary" not in said


def test_what_examples_say_is_nobodys_business() -> None:
    rows = [{"question": word, "answer": "sk-canary0123456789abcdef", "api_key": "x"} for word in "ab"]
    assert len(task(examples=rows).examples) == 2
