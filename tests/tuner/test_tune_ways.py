"""Methods, scorers and endpoints: what a tuning does with each, over the whole stack."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.errors import ConfigError, ProviderError
from selfreg_sdk.prices import PriceOverride, Prices
from selfreg_sdk.runtime import runtime
from selfreg_sdk.store.studies import Studies
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.study.results import Progress, Tuned
from selfreg_sdk.tuner.tune import atune, tune
from selfreg_sdk.versions import tuned_key
from tests.fake_provider import FakeProvider, Payload, RejectParam, status
from tests.tuner.tuning import TASK, access, answers, found, task, world

FEW: dict[str, Any] = {
    "examples": TASK["examples"][:18],
    "models": ["small"],
    "space": {"temperature": {"choices": [0.5, 1.5]}, "n": {"choices": [1, 2]}, "max_tokens": 32},
    "budget": "0.003 USD",
    "holdout": 0.5,
}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with world() as running:
        yield running


def spent(given: dict[str, Any], study: str = "sums") -> Decimal:
    shared = runtime(given["store"])
    statuses = shared.meter.status([f"study:{study}"])
    assert not any(status.held for status in statuses)
    return sum((status.spent for status in statuses), Decimal(0))


def checked(tuned: Tuned, provider: FakeProvider, given: dict[str, Any]) -> Tuned:
    """Money holds: what was billed is what was counted, and within the total."""
    assert provider.billed.usd == spent(given) == tuned.spent <= tuned.total
    return tuned


def test_ecooptigen_finds_and_saves_too_and_resumes_for_nothing(provider: FakeProvider, tmp_path: Path) -> None:
    given = access(provider, tmp_path)
    tuned = checked(tune(task(**FEW, method="ecooptigen"), **given), provider, given)

    assert tuned.winner is not None
    assert tuned.winner.config["temperature"] != 1.5
    assert tuned.trials
    assert tuned.winner.cost <= 0.0002
    assert runtime(given["store"]).configs.list(tuned_key("sums", "small"))
    (searching,) = runtime(given["store"]).meter.status(["study:sums:search"])
    assert searching.spent <= Decimal("0.8") * tuned.total, "a fifth is left for the check"
    calls = provider.billed.calls
    again = tune(task(**FEW, method="ecooptigen"), **given)
    assert provider.billed.calls == calls
    assert [trial.point for trial in again.trials] == [trial.point for trial in tuned.trials]
    assert again.winner == tuned.winner


def test_a_function_scores_in_place_of_the_tasks_scorer(provider: FakeProvider, tmp_path: Path) -> None:
    seen: list[str] = []

    async def close(answer: str, example: Example) -> float:
        seen.append(example.id)
        return 1.0 if answer.endswith(f" {example.fields['answer']}") else 0.0

    given = access(provider, tmp_path)
    tuned = checked(tune(task(**FEW), scorer=close, **given), provider, given)
    assert seen
    assert tuned.winner is not None
    with pytest.raises(ConfigError, match="another scorer"):
        tune(task(**FEW), **given)


def test_a_judges_calls_count_under_the_same_total(tmp_path: Path) -> None:
    def reply(payload: Payload) -> str | list[str]:
        if payload["model"] != "judge":
            return answers(payload)
        shown = json.loads(payload["messages"][-1]["content"])
        right = shown["answer"].endswith(f" {shown['example']['answer']}")
        return json.dumps({"reason": "so", "verdict": "right" if right else "wrong"})

    scorer = {"kind": "judge", "rubric": "The sum is right.", "model": "judge", "max_tokens": 32}
    with FakeProvider(reply=reply) as provider:
        given = access(provider, tmp_path)
        changes = {"metric": {"name": "success", "scorer": scorer}, "budget": "0.02 USD"}
        tuned = checked(tune(task(**FEW | changes), **given), provider, given)
        judged = sum(payload["model"] == "judge" for payload in provider.payloads)
    assert judged > 10
    assert tuned.winner is not None
    assert tuned.winner.cost < 0.00005, "a request costs what it costs in use, without its judge"


def test_a_model_that_refuses_temperature_is_searched_over_what_it_takes(tmp_path: Path) -> None:
    with world(rules=(RejectParam(param="temperature", model="small"),)) as provider:
        given = access(provider, tmp_path)
        changes = {"models": ["small", "large"], "baseline": {"model": "large", "temperature": 0, "max_tokens": 32}}
        tuned = checked(tune(task(**FEW | changes), **given), provider, given)
        refused = [p for p in provider.payloads if p["model"] == "small" and "temperature" in p]
    assert 1 <= len(refused) <= 4, "those in flight at once; then it is known"
    assert tuned.notes == ("small: temperature is not taken, so it is not varied there",)
    assert "temperature" not in tuned.per_model["small"].config
    assert "temperature" in tuned.per_model["large"].config


def test_where_an_endpoint_gives_one_sample_at_a_time_several_are_several_calls(tmp_path: Path) -> None:
    with world(rules=(RejectParam(param="n"),)) as provider:
        given = access(provider, tmp_path)
        tuned = checked(tune(task(**FEW | {"space": {**FEW["space"], "n": 2}}), **given), provider, given)
        accepted = [payload for payload in provider.payloads if "n" not in payload]
    assert tuned.winner is not None
    assert tuned.winner.config["n"] == 2
    assert tuned.measured is not None
    assert tuned.winner.cost == pytest.approx(tuned.measured.cost, rel=0.3), "each sample pays its prompt"
    assert len(accepted) == provider.billed.calls


def test_f34_a_winner_that_does_not_beat_the_baseline_stays_out_of_production(
    provider: FakeProvider, tmp_path: Path
) -> None:
    given = access(provider, tmp_path)
    changes = {"baseline": {"model": "small", "temperature": 0.5, "n": 2, "max_tokens": 32}}
    tuned = checked(tune(task(**FEW | changes), **given), provider, given)

    assert tuned.verdict == "keep the baseline", tuned.reason
    configs = runtime(given["store"]).configs
    assert configs.pointers() == {}
    assert configs.list(tuned_key("sums")), "to look at, and to promote by hand"


def test_f34_the_check_would_see_a_winner_that_is_better(provider: FakeProvider, tmp_path: Path) -> None:
    given = access(provider, tmp_path)
    tuned = tune(task(**FEW), **given)
    assert tuned.verdict == "use the winner", tuned.reason
    assert set(runtime(given["store"]).configs.pointers()) == {
        (tuned_key("sums"), "production"),
        (tuned_key("sums", "small"), "production"),
    }


def test_where_nothing_fits_it_says_so_and_saves_nothing(provider: FakeProvider, tmp_path: Path) -> None:
    given = access(provider, tmp_path)
    tuned = checked(tune(task(**FEW | {"inference_budget": "0.000001 USD"}), **given), provider, given)

    assert (tuned.verdict, tuned.winner, tuned.versions) == ("nothing fits", None, {})
    assert runtime(given["store"]).configs.list() == ()


def test_a_scorer_that_fails_is_told_and_spoils_nothing_else(provider: FakeProvider, tmp_path: Path) -> None:
    def broken(answer: str, example: Example) -> float:
        raise RuntimeError("no such table")

    given = access(provider, tmp_path)
    tuned = checked(tune(task(**FEW), scorer=broken, **given), provider, given)
    assert tuned.verdict == "nothing fits"
    assert "requests failed, the last one: " in tuned.notes[-1]
    assert "no such table" in tuned.notes[-1]


def test_scores_on_another_scale_need_their_range(provider: FakeProvider, tmp_path: Path) -> None:
    def points(answer: str, example: Example) -> float:
        return 10.0 if answer.endswith(f" {example.fields['answer']}") else 2.0

    given, metric = access(provider, tmp_path), {"name": "first"}
    one = {"metric": metric, "space": {**FEW["space"], "n": 1}}
    with pytest.raises(ConfigError, match=r"lies outside of \[0, 1\].*'range: \[0, 10\]'"):
        tune(task(**FEW | one), scorer=points, **given)
    before = provider.billed.calls
    tuned = tune(task(**FEW | one | {"metric": {**metric, "range": [0, 10]}}), scorer=points, name="again", **given)
    assert tuned.winner is not None
    assert tuned.winner.config["temperature"] == 0.5
    assert 3 < tuned.winner.score <= 10
    assert before < provider.billed.calls < before + len(FEW["examples"]) * 3


def test_models_that_cost_nothing_are_tuned_too_and_more_money_goes_on_with_the_study(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """Without a budget of a request, and without held-out examples: nothing checks the winner, which the notes say."""
    given = access(provider, tmp_path) | {"prices": Prices({"small": PriceOverride(free=True)})}
    changes = {"inference_budget": None, "holdout": 0, "examples": TASK["examples"][:8]}
    tuned = tune(task(**FEW | changes), **given)
    assert tuned.winner is not None
    assert (tuned.verdict, tuned.checked, tuned.spent) == ("use the winner", None, 0)
    assert "no example is held out" in tuned.notes[0]
    calls = provider.billed.calls
    assert Studies(runtime(given["store"]).store).get("sums").state == "finished"
    more = tune(task(**FEW | changes | {"budget": "0.005 USD"}), **given)
    assert (more.total, more.winner.config) == (Decimal("0.005"), tuned.winner.config)  # type: ignore[union-attr]
    assert provider.billed.calls == calls


def test_an_outage_ends_the_call_and_the_same_call_goes_on(provider: FakeProvider, tmp_path: Path) -> None:
    given = access(provider, tmp_path)
    provider.script(*[status(401, "wrong key")] * 400)
    with pytest.raises(ProviderError) as caught:
        tune(task(**FEW), **given)
    assert "study 'sums': everything that was paid for is kept" in " ".join(caught.value.__notes__)
    assert Studies(runtime(given["store"]).store).get("sums").state == "stopped"
    provider._queue.clear()
    assert checked(tune(task(**FEW), **given), provider, given).winner is not None


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_after_ctrl_c_everything_is_kept(provider: FakeProvider, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "search":
            signal.raise_signal(signal.SIGINT)

    given = access(provider, tmp_path)
    with pytest.raises(KeyboardInterrupt) as caught:
        tune(task(**FEW), on_progress=stop, **given)
    assert "the same call goes on from there" in " ".join(caught.value.__notes__)
    assert Studies(runtime(given["store"]).store).get("sums").state == "stopped"
    paid = spent(given)
    assert provider.billed.usd == paid > 0


def test_the_users_own_budget_holds_beside_the_total(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREG_BUDGET", "0.00015 USD")
    given = access(provider, tmp_path)
    tuned = tune(task(**FEW), **given)
    assert provider.billed.usd == tuned.spent <= Decimal("0.00015") < tuned.total
    assert tuned.ending == "budget"


def test_a_cancelled_study_goes_on_to_the_same_end(tmp_path: Path) -> None:
    with world(latency=0.005) as provider:
        whole = tune(task(**FEW), **access(provider, tmp_path / "whole"))
        calls = provider.billed.calls
        given = access(provider, tmp_path / "parts")

        async def broken_off() -> None:
            enough = asyncio.Event()

            def look(progress: Progress) -> None:
                if progress.requests >= 12:
                    enough.set()

            running = asyncio.ensure_future(atune(task(**FEW), on_progress=look, **given))
            await enough.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        asyncio.run(broken_off())
        assert Studies(runtime(given["store"]).store).get("sums").state == "stopped"
        rest = tune(task(**FEW), resume=True, **given)
    assert found(rest) == found(whole)
    assert provider.billed.calls - 2 * calls <= 4, "those in flight when it was cancelled"
