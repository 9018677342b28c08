"""F27: a planner that rambles is understood or passed over; it is asked once, and the request is served either way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies import CHOICES, Plan
from selfreg_sdk import planner as planner_module
from tests.fake_provider import FakeProvider
from tests.stack import CREATIVE, PLANNER, plans, request, stack

FLOWER = CREATIVE.to_json()
UNDERSTOOD = {
    "plain": FLOWER,
    "fenced": f"```json\n{FLOWER}\n```",
    "prose": f"Happy to help! The plan is {FLOWER}. Anything else?",
    "two objects": FLOWER + ' {"family": "code", "determinism": "exact"}',
    "unknown keys": json.dumps(CREATIVE.as_dict() | {"mood": "sunny", "n": 1000}),
    "upper case": FLOWER.upper(),
    "lines": "\n".join(f"- **{name}**: {word}" for name, word in CREATIVE.as_dict().items()),
    "1 MB": FLOWER + " " * 2**20,
}
PASSED_OVER = {
    "empty": " ",
    "prose": "Poems should be warm.",
    "another language": '{"Familie": "Gedicht", "Bestimmtheit": "offen"}',
    "numbers": '{"temperature": 0.7}',
    "broken": '{"determinism": "ex',
    "list": "[1, 2, 3]",
    "1 MB of braces": "{" * 2**20,
    "an answer instead of a plan": "Roses are red.",
}


def served_with_one_plan(provider: FakeProvider, said: str, source: str) -> None:
    provider.reply = plans(said)
    with stack(provider, cap="1 USD") as on:
        first, second = (on.answering(planner=PLANNER), on.answering(planner=None))
        outcome = first.complete(request(), on.client)
        second.complete(request(), on.client)

        assert outcome.answers[0].texts == ("fine",)
        assert outcome.record()["source"] == source
        assert len(on.planning) == 1
        assert len(on.answers) == 2
        assert [row.state for row in on.ledger] == ["settled"] * 3


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_f27_understood(provider: FakeProvider, name: str) -> None:
    served_with_one_plan(provider, UNDERSTOOD[name], "plan")
    assert provider.payloads[1]["temperature"] == provider.payloads[2]["temperature"] == 1.2


@pytest.mark.parametrize("name", PASSED_OVER)
def test_f27_passed_over(provider: FakeProvider, name: str) -> None:
    served_with_one_plan(provider, PASSED_OVER[name], "default")
    assert "temperature" not in provider.payloads[1]


def strict(text: str) -> Plan:
    """Broken on purpose: expects a planner to answer as it was told."""
    return Plan(**json.loads(text))


def hopeful(text: str) -> Plan | None:
    """Broken on purpose: takes any word that occurs."""
    found: dict[str, Any] = {}
    for name, words in CHOICES.items():
        found[name] = next((word for word in words if word in text), words[0])
    return Plan(**found)


@pytest.mark.parametrize(("broken", "said", "source"), [
    (strict, UNDERSTOOD["fenced"], "plan"),
    (strict, PASSED_OVER["prose"], "default"),
    (hopeful, PASSED_OVER["prose"], "default"),
])  # fmt: skip
def test_f27_the_check_catches_other_ways_of_reading(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, broken: Any, said: str, source: str
) -> None:
    monkeypatch.setattr(planner_module, "parse_plan", broken)
    with pytest.raises((AssertionError, ValueError, TypeError)):
        served_with_one_plan(provider, said, source)
