"""F16: a field the provider refuses is dropped once, visibly, and remembered; the caller's own is not touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies import DecodingParams, StaticPolicy
from selfreg_sdk.answering import Outcome
from selfreg_sdk.errors import ContextLengthExceeded, ParameterRejected
from selfreg_sdk.store.capabilities import LearnedCapabilities
from tests.fake_provider import FakeProvider, RejectParam, too_long
from tests.faults.clients import must_fail
from tests.stack import Stack, request, several, stack

Face = Callable[..., Outcome[Any]]

WANTED = DecodingParams(temperature=0.3, top_p=0.9, seed=7, presence_penalty=0.5, max_tokens=40)


def complete(on: Stack, asked: Any, **choices: Any) -> Outcome[Any]:
    return on.answering(**choices).complete(asked, on.client)


def acomplete(on: Stack, asked: Any, **choices: Any) -> Outcome[Any]:
    return on.run(on.answering(**choices).acomplete(asked, on.client))


def stream(on: Stack, asked: Any, **choices: Any) -> Outcome[Any]:
    answering = on.answering(**choices)
    outcome: Outcome[Any] = Outcome(decision=answering.regulator.decide(asked))
    list(answering.stream(asked, on.client, outcome))
    return outcome


def astream(on: Stack, asked: Any, **choices: Any) -> Outcome[Any]:
    answering = on.answering(**choices)
    outcome: Outcome[Any] = Outcome(decision=answering.regulator.decide(asked))

    async def drain() -> None:
        async for _ in answering.astream(asked, on.client, outcome):
            pass

    on.run(drain())
    return outcome


every_face = pytest.mark.parametrize("face", [complete, acomplete, stream, astream])


def policy(**params: Any) -> dict[str, Any]:
    return {"policy": StaticPolicy(params=WANTED.replace(**params))}


def downgraded_once(on: Stack, face: Face, field: str) -> None:
    before = len(on.provider.payloads)
    first = face(on, request(), **policy())
    second = face(on, request(), **policy())
    sent = on.provider.payloads[before:]

    assert [field in payload for payload in sent] == [True, False, False]
    assert sent[1] == {name: value for name, value in sent[0].items() if name != field}
    assert first.record()["rejected"] == [field]
    for outcome in (first, second):
        (change,) = [change for change in outcome.record()["ignored"] if change["field"] == field]
        assert (change["sent"], change["why"]) == (None, "capability")


@every_face
@pytest.mark.parametrize("name_it", [True, False])
def test_f16_one_visible_downgrade_and_no_loop(provider: FakeProvider, face: Face, name_it: bool) -> None:
    provider.rules.append(RejectParam(param="temperature", name_it=name_it))
    with stack(provider, cap="1 USD") as on:
        downgraded_once(on, face, "temperature")

        assert [row.state for row in on.ledger] == ["released", "settled", "settled"]
        assert on.shared.meter.status()[0].held == 0


@every_face
def test_f16_the_next_process_knows(provider: FakeProvider, tmp_path: Path, face: Face) -> None:
    provider.rules.append(RejectParam(param="top_p"))
    for _ in range(2):
        with stack(provider, store=tmp_path / "store.db") as on:
            face(on, request(), **policy())

    assert ["top_p" in payload for payload in provider.payloads] == [True, False, False]


@every_face
def test_f16_several_refused_fields_are_dropped_one_by_one(provider: FakeProvider, face: Face) -> None:
    for field in ("temperature", "top_p", "seed", "presence_penalty"):
        provider.rules.append(RejectParam(param=field))
    with stack(provider) as on:
        outcome = face(on, request(), **policy())

        assert sorted(outcome.record()["rejected"]) == ["presence_penalty", "seed", "temperature", "top_p"]
        assert outcome.record()["sent"] == {"max_tokens": 40}
    assert len(provider.requests) == 5


@every_face
@pytest.mark.parametrize("by_caller", [False, True])
def test_f16_a_token_cap_is_renamed_and_never_lost(provider: FakeProvider, face: Face, by_caller: bool) -> None:
    provider.rules.append(RejectParam(param="max_tokens"))
    asked = request(caller=DecodingParams(max_tokens=40)) if by_caller else request()
    with stack(provider, cap="1 USD") as on:
        face(on, asked, **policy())
        face(on, asked, **policy())

    caps = [(payload.get("max_tokens"), payload.get("max_completion_tokens")) for payload in provider.payloads]
    assert caps == [(40, None), (None, 40), (None, 40)]


@every_face
def test_f16_the_callers_own_field_is_not_dropped(provider: FakeProvider, face: Face) -> None:
    provider.rules.append(RejectParam(param="temperature"))
    with stack(provider) as on:
        with pytest.raises(ParameterRejected, match="temperature"):
            face(on, request(caller=DecodingParams(temperature=0.9)), **policy())

        assert on.shared.learned.learned(on.client.endpoint, "fake-model") == {}
    assert [payload["temperature"] for payload in provider.payloads] == [0.9]


@every_face
def test_f16_a_provider_that_refuses_everything_ends_the_request(provider: FakeProvider, face: Face) -> None:
    for field in ("messages", "max_tokens", "max_completion_tokens", "temperature"):
        provider.rules.append(RejectParam(param=field))
    with stack(provider) as on, pytest.raises(Exception, match="HTTP 400"):
        face(on, request(), **policy())
    assert len(provider.requests) <= 5


@pytest.mark.parametrize("face", [complete, acomplete])
def test_f16_a_model_that_takes_no_n_is_asked_n_times(provider: FakeProvider, face: Face) -> None:
    provider.rules.append(RejectParam(param="n"))
    with stack(provider, cap="1 USD") as on:
        outcome = face(on, request(aggregation=several(3)), **policy(n=3))

        assert len(outcome.answers) == 3
        assert outcome.cost == provider.billed.usd
    assert [payload.get("n") for payload in provider.payloads] == [3, None, None, None]


@every_face
def test_f16_a_planned_cap_too_long_for_the_window_is_shortened(provider: FakeProvider, face: Face) -> None:
    provider.script(too_long(window=128, prompt=100, cap=40))
    with stack(provider, cap="1 USD") as on:
        outcome = face(on, request(), **policy())

    assert [payload["max_tokens"] for payload in provider.payloads] == [40, 28]
    changes = [change.as_dict() for change in outcome.decision.compiled.adjustments]
    assert [
        (change["wanted"], change["sent"], change["why"]) for change in changes if change["field"] == "max_tokens"
    ] == [(40, 28, "capability")]


@every_face
@pytest.mark.parametrize(("prompt", "caller"), [(100, 40), (128, None), (60, None)])
def test_f16_a_window_that_shortening_cannot_help_is_an_error(
    provider: FakeProvider, face: Face, prompt: int, caller: int | None
) -> None:
    """The caller's own cap, a prompt that fills the window, and a refusal that contradicts itself."""
    provider.script(*[too_long(window=128, prompt=prompt, cap=40)] * 5)
    with stack(provider) as on, pytest.raises(ContextLengthExceeded):
        face(on, request(caller=DecodingParams(max_tokens=caller)), **policy())
    assert len(provider.requests) == 1


@every_face
def test_f16_shortening_ends_when_the_provider_is_not_content(provider: FakeProvider, face: Face) -> None:
    provider.script(*[too_long(window=128, prompt=100, cap=40)] * 5)
    with stack(provider) as on, pytest.raises(ContextLengthExceeded):
        face(on, request(), **policy())
    assert len(provider.requests) == 2


# -- tests of the tests ------------------------------------------------------------------------------------------------


class Forgetful(LearnedCapabilities):
    """Broken on purpose: learns nothing."""

    def learn(self, *_: Any, **__: Any) -> None:
        return


class Momentary(LearnedCapabilities):
    """Broken on purpose: knows only as long as nobody asks again."""

    def learned(self, endpoint: str, model: str) -> Any:
        found = super().learned(endpoint, model)
        for field in found:
            self.learn(endpoint, model, f"was {field}", "rejected")
        return {} if any(field.startswith("was ") for field in found) else found


@pytest.mark.parametrize("broken", [Forgetful, Momentary])
def test_f16_the_check_catches_a_memory_that_forgets(provider: FakeProvider, broken: Any) -> None:
    provider.rules.append(RejectParam(param="temperature"))
    with stack(provider) as on:
        on.shared = replace(on.shared, learned=broken(on.shared.store))
        with pytest.raises((AssertionError, ParameterRejected)):
            downgraded_once(on, complete, "temperature")


def test_f16_the_check_catches_a_model_that_never_downgrades(provider: FakeProvider) -> None:
    with stack(provider) as on:
        must_fail(downgraded_once, on, complete, "temperature")
