"""Samples in waves: no more than it takes to be sure of the answer, and the same answer as all of them would give."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from policies import DecodingParams, Facts, Proposal, StaticPolicy
from selfreg_sdk.aggregate import Tally, voted
from selfreg_sdk.errors import BudgetExceeded, ProviderError
from selfreg_sdk.prices import PriceOverride, Prices
from selfreg_sdk.sampling import Habit, most_waves, worth_a_wave
from tests.fake_provider import FakeProvider, Fault, RejectParam, server_error
from tests.sdk.regulated import priced, record
from tests.sdk.tuned_versions import Answers, asked, tuned_chat
from tests.stack import request, several, stack, vote

NO_N = {"model": "deepseek-chat", "prices": priced("deepseek-chat")}
BOTH = pytest.mark.parametrize("asynchronous", [False, True])


def answer(llm: Any, asynchronous: bool, text: str = "hello") -> Any:
    return asyncio.run(llm.ainvoke(text)) if asynchronous else llm.invoke(text)


# -- where the model takes n -------------------------------------------------------------------------------------------


@BOTH
def test_tuned_waves_end_when_the_vote_is_certain(provider: FakeProvider, asynchronous: bool) -> None:
    provider.reply = Answers("4", "4", "4", "5", "4", "6", "7")
    message = answer(tuned_chat(provider, provenance={"waves": [3, 2, 2]}), asynchronous)

    assert (message.text, asked(provider)) == ("4", [3, 2])
    said = record(message)
    assert (said["votes"], said["waves"], said["decided_early"]) == ({"4": 4, "5": 1}, [3, 2], True)
    assert (said["samples"], said["samples_of"], said["attempts"]) == (5, 7, 2)
    assert Decimal(said["cost_usd"]) == provider.billed.usd
    assert message.usage_metadata["input_tokens"] == provider.billed.prompt_tokens
    assert message.usage_metadata["output_tokens"] == provider.billed.completion_tokens


@BOTH
def test_what_is_left_open_is_drawn_to_the_end(provider: FakeProvider, asynchronous: bool) -> None:
    provider.reply = Answers("4", "5", "6", "5", "4", "5", "4")
    said = record(answer(tuned_chat(provider, provenance={"waves": [3, 2]}), asynchronous))

    assert (asked(provider), said["samples"], said["decided_early"]) == ([3, 4], 7, False)


def test_a_single_further_sample_is_asked_for_without_n_and_with_a_seed_of_its_own(provider: FakeProvider) -> None:
    provider.reply = Answers("4", "4", "5")
    llm = tuned_chat(provider, "vote of 4", provenance={"waves": [1, 1, 2]}, seed=7)
    llm.invoke("hello")

    assert [(payload.get("n"), payload["seed"]) for payload in provider.payloads] == [(None, 7), (None, 8)]


LONG = "word " * 8  # as many tokens as the cap allows


def test_without_tuned_waves_the_first_request_asks_at_once_and_the_next_ones_know(provider: FakeProvider) -> None:
    provider.reply = Answers(LONG)
    llm = tuned_chat(provider, "vote of 9")
    for _ in range(3):
        llm.invoke("hello")
    # Five equal answers of nine decide; what four more would cost is more than the prompt once more.
    assert asked(provider) == [9, 5, 5]


def test_where_the_prompt_is_dear_the_samples_stay_together(provider: FakeProvider) -> None:
    provider.reply = Answers("4")
    llm = tuned_chat(provider, "vote of 9")
    for _ in range(3):
        llm.invoke("a very long prompt " * 200)
    assert asked(provider) == [9, 9, 9]


def test_where_votes_stay_open_the_prompt_is_not_paid_for_twice(provider: FakeProvider) -> None:
    provider.reply = Answers(*(f"{LONG}{number}"[-30:] for number in range(9)))
    llm = tuned_chat(provider, "vote of 3")
    for _ in range(6):
        llm.invoke("some prompt " * 15)
    assert asked(provider)[0] == 3
    assert asked(provider)[-1] == 3


def test_a_wave_is_worth_it_by_price_and_by_what_was_seen() -> None:
    seen = Habit(prompt_tokens=100, output_tokens=20)
    assert worth_a_wave(seen, 3, None)  # 3 x 20 x 4 > 100
    assert not worth_a_wave(seen, 1, None)
    even = Prices({"m": PriceOverride(input_usd_per_mtok=1, output_usd_per_mtok=1)}).lookup("m")
    assert not worth_a_wave(seen, 3, even)
    assert not worth_a_wave(Habit(prompt_tokens=100, output_tokens=20, votes=8, decided=1), 3, None)
    assert worth_a_wave(Habit(prompt_tokens=100, output_tokens=20, votes=8, decided=8), 1, None)


def test_cached_samples_are_found_again(provider: FakeProvider) -> None:
    provider.reply = Answers(LONG)
    for provenance in ({}, {"waves": [4, 3]}):
        llm = tuned_chat(provider, provenance=provenance, cache_answers=True)
        before = len(provider.requests)
        first, second = llm.invoke("hello"), llm.invoke("hello")
        assert (first.text, len(provider.requests) - before) == (second.text, 1)
        assert (record(second)["cost_usd"], record(second)["votes"]) == ("0", record(first)["votes"])


# -- where it takes none -----------------------------------------------------------------------------------------------


@BOTH
def test_single_calls_are_made_at_the_same_time_and_no_more_than_needed(
    provider: FakeProvider, asynchronous: bool
) -> None:
    provider.reply, provider.latency = Answers("4", "5", "4", "4", "4"), 0.2
    llm = tuned_chat(provider, **NO_N)
    said = record(answer(llm, asynchronous))

    assert (said["waves"], said["samples"], said["votes"]) == ([4, 1], 5, {"4": 4, "5": 1})
    assert said["decided_early"] is True
    assert all("n" not in payload for payload in provider.payloads)
    assert provider.connections_made >= 4  # the first four were on their way together


@BOTH
def test_an_endpoint_that_refuses_n_is_learned_and_asked_one_by_one(provider: FakeProvider, asynchronous: bool) -> None:
    provider.rules.append(RejectParam(param="n"))
    provider.reply = Answers("4")
    llm = tuned_chat(provider, "vote of 5")
    said = record(answer(llm, asynchronous))
    assert (said["rejected"], said["waves"], asked(provider)) == (["n"], [3], [5, 1, 1, 1])


def test_a_refusal_of_some_of_them_is_made_good(provider: FakeProvider) -> None:
    provider.reply = Answers("4", "5", "6", "7", "4")
    with stack(provider) as on:
        provider.rules.append(RejectParam(param="temperature"))
        on.shared.learned.learn(on.client.endpoint, "fake-model", "n", "rejected")
        asked_for = request(aggregation=vote(5))
        answering = on.answering(policy=StaticPolicy(params=DecodingParams(temperature=0.3, n=5)))
        outcome = answering.complete(asked_for, on.client)
    assert len(outcome.answers) == 5
    assert outcome.decision.rejected == ("temperature",)


# -- money and failures ------------------------------------------------------------------------------------------------


@BOTH
def test_a_wave_that_fails_later_leaves_an_answer_and_a_flag(provider: FakeProvider, asynchronous: bool) -> None:
    provider.reply = Answers("4", "5", "4", "6")
    provider.script(Fault(), server_error(), server_error())
    message = answer(tuned_chat(provider, provenance={"waves": [3, 4]}), asynchronous)

    said = record(message)
    assert (message.text, said["votes"], said["waves"]) == ("4", {"4": 2, "5": 1}, [3])
    assert (said["flags"], said["decided_early"]) == (["samples_missing: ServerFailed"], False)


@BOTH
def test_a_first_wave_that_fails_is_an_error(provider: FakeProvider, asynchronous: bool) -> None:
    provider.script(*[server_error()] * 8)
    for model in ({}, NO_N):
        with pytest.raises(ProviderError):
            answer(tuned_chat(provider, **model), asynchronous)
    assert provider.billed.calls == 0


@pytest.mark.parametrize("given", [{}, NO_N], ids=["n", "one by one"])
def test_p1_under_parallel_votes_the_bill_stays_below_ledger_and_cap(
    provider: FakeProvider, tmp_path: Path, given: dict[str, Any]
) -> None:
    provider.reply = Answers(*(f"{LONG}{number % 4}" for number in range(23)))
    llm = tuned_chat(
        provider,
        provenance={"waves": [2, 2, 3]},
        budget="0.0016 USD",
        store=tmp_path / "votes.db",
        **given,
    )

    def one(number: int) -> str:
        try:
            return str(record(llm.invoke(f"hello {number}"))["samples"])
        except BudgetExceeded:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(one, range(24)))
    meter = llm.books.meter
    (status,) = meter.status(dict(llm.books.scopes()))
    assert "refused" in done
    assert set(done) - {"refused"}
    assert provider.billed.usd <= status.spent <= Decimal("0.0016")
    assert status.held == 0


def test_every_wave_holds_its_own_worst_case(provider: FakeProvider) -> None:
    provider.reply = Answers(*(f"{LONG}{number}" for number in range(7)))
    llm = tuned_chat(provider, provenance={"waves": [3, 2, 2]}, budget="1 USD")
    llm.invoke("hello")

    rows = llm.books.meter.ledger()[::-1]
    assert [row.params["n"] for row in rows] == [3, 2, 2]
    into, out = Decimal("0.40e-6"), Decimal("1.60e-6")
    prompt = (rows[0].worst - 3 * 40 * out) / into
    for row, n in zip(rows, (3, 2, 2), strict=True):
        assert row.worst == prompt * into + n * 40 * out
        assert row.cost is not None
        assert row.cost <= row.worst


def test_where_the_money_ends_single_samples_go_on_one_after_another(provider: FakeProvider) -> None:
    """Side by side each holds its worst case; what they did cost leaves room for more of them afterwards."""
    provider.reply = Answers("4", "5", "6", "7", "8", "9", "10")

    def llm_of(budget: str) -> Any:
        return tuned_chat(provider, budget=budget, **NO_N)

    worst = llm_of("1 USD").explain("hello").worst_case_usd / 7
    said = record(llm_of(f"{worst * 2} USD").invoke("hello"))
    assert said["samples"] > 2
    assert said["waves"][0] <= 2
    assert set(said["waves"][1:]) <= {1}


@pytest.mark.parametrize("given", [{}, NO_N], ids=["n", "one by one"])
async def test_a_cancelled_wave_closes_its_books(provider: FakeProvider, given: dict[str, Any]) -> None:
    provider.latency = 20.0
    llm = tuned_chat(provider, budget="1 USD", **given)
    running = asyncio.create_task(llm.ainvoke("hello"))
    calls = 4 if given else 1
    assert await asyncio.to_thread(provider.wait_until, lambda on: on.billed.calls == calls)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    meter = llm.books.meter
    (status,) = meter.status(dict(llm.books.scopes()))
    assert [row.state for row in meter.ledger()] == ["unknown"] * calls
    assert (status.held, status.spent >= provider.billed.usd) == (0, True)


# -- the same answer ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InWaves:
    """A policy that proposes seven samples in given waves, as a tuned configuration does."""

    waves: list[int]

    def missing(self, facts: Facts) -> None:
        return None

    def propose(self, facts: Facts) -> Proposal:
        return Proposal(params=DecodingParams(n=7), source="tuned", notes={"waves": self.waves})


def elect(provider: FakeProvider, rounds: int) -> int:
    """Vote in waves and compare with the vote of all seven; how many votes ended early."""
    dice, early = random.Random(5), 0
    with stack(provider) as on:
        for _ in range(rounds):
            texts = dice.choices(["4", "5", "6", " "], weights=[5, 2, 1, 1], k=7)
            provider.reply = Answers(*texts)
            waves = dice.choice([[4, 3], [3, 2, 2], [1] * 7, [2]])
            outcome = on.answering(policy=InWaves(waves)).complete(request(aggregation=vote(7)), on.client)

            drawn = [text for one in outcome.answers for text in one.texts]
            ballots = [None if text == " " else text for text in texts]
            assert drawn == texts[: len(drawn)]
            assert voted(outcome.ballots)[0] == voted(ballots)[0]
            early += outcome.decided_early
    return early


def test_the_answer_is_that_of_all_the_samples(provider: FakeProvider) -> None:
    assert 5 < elect(provider, 40) < 40


def test_a_vote_that_ends_with_a_mere_lead_is_caught(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tally, "decided", lambda tally, left: left <= 0 or sum(tally.counts.values()) > 1)
    with pytest.raises(AssertionError):
        elect(provider, 40)


def test_others_than_votes_are_drawn_at_once(provider: FakeProvider) -> None:
    with stack(provider) as on:
        decision = on.answering().regulator.decide(request(aggregation=several(4)))
        assert most_waves(decision) == 1
        assert len(on.answering().complete(request(aggregation=several(4)), on.client).answers[0].texts) == 4
    assert asked(provider) == [4]
