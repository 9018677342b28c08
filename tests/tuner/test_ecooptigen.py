"""The algorithm of EcoOptiGen, step by step, against an endpoint that counts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import pytest

from selfreg_sdk.errors import BudgetExceeded, ConfigError, ServerFailed
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.search.drawing import Drawn, DrawRequest, Sample, adrive, drive
from selfreg_sdk.tuner.search.ecooptigen import EcoOptiGen
from selfreg_sdk.tuner.search.local_search import LocalSearch
from selfreg_sdk.tuner.search.regions import Region, region_key, rho
from selfreg_sdk.tuner.search.search import Choice, Float, Int, Space
from selfreg_sdk.tuner.search.trials import Found
from tests.tuner.fake_endpoint import EXAMPLES, PROMPTS, Endpoint, Given, point, price, success


def tuning(budget: str = "0.001", **changes: Any) -> EcoOptiGen:
    arguments: dict[str, Any] = {
        "examples": EXAMPLES,
        "prompts": PROMPTS,
        "models": ["cheap", "dear", "free"],
        "price": price,
        "inference_budget": Decimal(budget),
    }
    return EcoOptiGen(**arguments | changes)


def run(endpoint: Any, *points: Any, value: Any = success, **changes: Any) -> Found:
    return drive(tuning(**changes).search(Given(*points)), endpoint, value)


def counts(endpoint: Endpoint) -> list[int]:
    return [parameters["n"] for _, parameters in endpoint.log]


# An answer has 100 tokens at 2e-6 USD, so 0.001 USD pay for 4.97 answers after a prompt of 6 tokens


def test_samples_double_and_examples_double() -> None:
    endpoint = Endpoint()
    found = run(endpoint, point(n=5, max_tokens=200), budget="0.0012")
    assert found.best is not None
    # 2 samples are clearly within budget after one example, so are 4; at the 5 that are wanted all examples are looked at,
    # and what was drawn before is kept.
    assert counts(endpoint) == [2, 2, 1] + [5] * 15
    assert found.spent == endpoint.bill == found.best.spent


def test_near_the_budget_more_examples_decide() -> None:
    endpoint = Endpoint()
    # 5 answers are 500 tokens; 497 are allowed, so the margin of 10 % is too wide until all examples are seen.
    found = run(endpoint, point(n=5, max_tokens=200))
    assert found.trials[0].fate == "over_budget"
    assert len(endpoint.log) == 1 + 1 + 16
    assert found.best is None


def test_clearly_above_ends_at_the_first_example() -> None:
    endpoint = Endpoint()
    found = run(endpoint, point(n=64, max_tokens=200))
    assert found.trials[0].fate == "over_budget"
    assert counts(endpoint) == [2, 2, 4]


def test_the_margin_is_that_of_the_paper() -> None:
    assert [rho(seen, 16) for seen in (1, 8, 12, 16)] == pytest.approx([1.0, 9 / 16, 13 / 48, 0.0])
    # 100 tokens are allowed; 0.1 sqrt(rho / d) is 10 %, 6.8 %, 4.5 %, 2.7 % and nothing after 1, 2, 4, 8 and 16 examples.
    for answer, drawn in ((112, 1), (108, 2), (105, 4), (103, 8), (101, 16)):
        endpoint = Endpoint(length=answer)
        assert run(endpoint, point(n=1, max_tokens=200), budget="0.000206").trials[0].fate == "over_budget"
        assert len(endpoint.log) == drawn


def test_what_is_known_to_be_too_much_costs_nothing() -> None:
    endpoint = Endpoint()
    found = run(endpoint, point(n=64, max_tokens=200), point(n=8, max_tokens=300), point(n=64, max_tokens=150))
    assert [trial.fate for trial in found.trials] == ["over_budget", "pruned", "over_budget"]
    assert found.trials[1].spent == 0
    assert found.trials[1].value is None


def test_what_surely_fits_starts_at_full_n() -> None:
    endpoint = Endpoint()
    run(endpoint, point(n=1), point(n=4, max_tokens=100))
    assert counts(endpoint) == [1] * 16 + [4] * 16


def test_a_valid_n_is_remembered_for_shorter_answers() -> None:
    endpoint = Endpoint()
    run(endpoint, point(n=4, max_tokens=400), point(n=4, max_tokens=300, temperature=0.1))
    assert counts(endpoint)[17:] == [4] * 16


def test_regions_are_apart() -> None:
    endpoint = Endpoint()
    found = run(
        endpoint,
        point(n=64, max_tokens=200),
        point(n=64, max_tokens=200, prompt="steps"),
        point(n=64, max_tokens=200, stop=["\n"]),
        point(n=64, max_tokens=200, model="dear"),
        point(n=64, max_tokens=200, temperature=1.5),
    )
    assert [trial.fate for trial in found.trials] == ["over_budget"] * 4 + ["pruned"]
    assert region_key(point(n=1)) == region_key(point(n=2, max_tokens=5, top_p=0.1))


def test_tables_are_monotone_in_n_and_max_tokens() -> None:
    region = Region()
    assert (region.valid_n(100), region.invalid_n(100)) == (1, math.inf)
    region.found_valid(8, 200)
    region.found_valid(4, 200)
    region.found_invalid(16, 100)
    region.found_invalid(32, 100)
    assert [region.valid_n(cap) for cap in (100, 200, 201, math.inf)] == [8, 8, 1, 1]
    assert [region.invalid_n(cap) for cap in (99, 100, math.inf)] == [math.inf, 16, 16]


def test_without_pruning_every_configuration_is_tried_in_full() -> None:
    endpoint = Endpoint()
    found = run(endpoint, point(n=64, max_tokens=200), point(n=2), prune=False)
    assert counts(endpoint) == [64] * 16 + [2] * 16
    assert [trial.fate for trial in found.trials] == ["over_budget", "scored"]
    # 64 answers of 100 tokens, and prompts of 6 characters ten times, of 7 six times.
    assert found.trials[0].mean_cost == Decimal("0.012806375")


def test_pruning_tries_more_for_the_same_money() -> None:
    space: Space = {
        "model": Choice(("cheap", "dear")),
        "prompt": Choice(("plain", "steps")),
        "temperature": Float(0.0, 2.0),
        "n": Int(1, 100),
        "max_tokens": Int(50, 1000, log=True),
    }
    tried = {}
    for prune in (True, False):
        machine = tuning(prune=prune, total_budget=Decimal("0.5"))
        tried[prune] = drive(machine.search(LocalSearch(space, seed=3), max_trials=400), Endpoint(), success)
    assert len(tried[True].trials) >= 2 * len(tried[False].trials)
    for found in tried.values():
        assert all(
            trial.mean_cost <= Decimal("0.001") for trial in found.trials if trial.fate == "scored" and trial.mean_cost
        )


def test_samples_of_all_parts_are_scored_in_order() -> None:
    seen: dict[str, Sequence[Sample]] = {}

    def remember(example: Example, samples: Sequence[Sample]) -> float:
        seen[example.id] = samples
        return len(samples)

    found = run(Endpoint(), point(n=4, max_tokens=400), value=remember)
    assert found.best is not None
    assert found.best.value == 4
    assert list(seen) == [example.id for example in EXAMPLES]
    assert len({sample.text for samples in seen.values() for sample in samples}) == 64


def test_more_or_less_is_better_as_one_says() -> None:
    def worth(example: Example, samples: Sequence[Sample]) -> float:
        return float(len(samples))

    points = [point(n=2), point(n=4), point(n=1), point(n=64, max_tokens=200)]
    best = {mode: run(Endpoint(), *points, value=worth, mode=mode).best for mode in ("max", "min")}
    assert best["max"] is not None
    assert best["min"] is not None
    assert (best["max"].point["n"], best["min"].point["n"]) == (4, 1)


@pytest.mark.parametrize("broken", [lambda e, s: 1 / 0, lambda e, s: math.nan, lambda e, s: "no"])
def test_f33_a_broken_scorer_fails_the_trial_not_the_search(broken: Any) -> None:
    calls = 0

    def value(example: Example, samples: Sequence[Sample]) -> float:
        nonlocal calls
        calls += 1
        return broken(example, samples) if calls == 3 else 1.0  # type: ignore[no-any-return]

    found = run(Endpoint(), point(n=2), point(n=3), value=value)
    assert [trial.fate for trial in found.trials] == ["failed", "scored"]
    assert "scoring example 'e2'" in found.trials[0].reason


@dataclass
class Failing:
    """Fails at one request."""

    endpoint: Endpoint
    at: int
    error: Exception

    def draw(self, request: DrawRequest) -> Drawn:
        if len(self.endpoint.log) == self.at:
            self.endpoint.log.append(([], {}))
            raise self.error
        return self.endpoint.draw(request)


def test_a_failed_call_fails_the_trial_and_says_nothing_about_n() -> None:
    endpoint = Endpoint()
    found = run(Failing(endpoint, 5, ServerFailed("down")), point(n=4), point(n=4, temperature=0.2))
    assert [trial.fate for trial in found.trials] == ["failed", "scored"]
    assert "ServerFailed: down" in found.trials[0].reason
    assert found.spent == endpoint.bill


def test_a_refused_reservation_ends_its_trial_and_many_end_the_search() -> None:
    refused = BudgetExceeded(scope="s", cap=Decimal(1), spent=Decimal(1), held=Decimal(0), wanted=Decimal(1))
    found = run(Failing(endpoint := Endpoint(), 20, refused), point(n=2), point(n=4), point(n=1))
    assert [trial.fate for trial in found.trials] == ["scored", "unfinished", "scored"]
    assert (found.ending, found.best, found.spent) == ("space", found.trials[0], endpoint.bill)
    endpoint.draw = Mock(side_effect=refused)  # type: ignore[method-assign]
    found = run(endpoint, *(point(temperature=at / 100) for at in range(40)))
    assert ([trial.fate for trial in found.trials], found.ending) == (["unfinished"] * 20, "budget")


def test_the_total_ends_the_search_and_what_is_paid_is_scored() -> None:
    one = run(Endpoint(), point(n=2)).spent
    searcher = Given(point(n=2), point(n=4), point(n=1))
    found = drive(tuning(total_budget=one).search(searcher), Endpoint(), success)
    assert [trial.fate for trial in found.trials] == ["scored"]
    assert found.ending == "budget"
    more = drive(tuning(total_budget=one + Decimal("0.0001")).search(Given(*searcher.points)), Endpoint(), success)
    assert [trial.fate for trial in more.trials] == ["scored", "unfinished"]


def test_the_searcher_is_told_values_and_costs_of_what_may_be_used() -> None:
    searcher, endpoint = Given(point(n=64, max_tokens=200), point(n=64, max_tokens=300), point(n=2)), Endpoint()
    found = drive(tuning().search(searcher), endpoint, success)
    assert [value for _, value, _ in searcher.told] == [None, None, found.trials[2].value]
    assert [cost for _, _, cost in searcher.told] == [float(trial.spent) for trial in found.trials]


def test_a_search_that_only_proposes_what_is_pruned_ends() -> None:
    points = [point(n=64, max_tokens=200)] * 2000
    found = run(Endpoint(), *points)
    assert found.ending == "idle"
    assert len(found.trials) < 1000


def test_every_trial_is_shown_and_their_number_may_be_limited() -> None:
    shown: list[Any] = []
    machine = tuning()
    found = drive(
        machine.search(Given(point(n=1), point(n=2), point(n=3)), max_trials=2, on_trial=shown.append),
        Endpoint(),
        success,
    )
    assert tuple(shown) == found.trials
    assert (len(shown), found.ending) == (2, "trials")


@pytest.mark.parametrize("model", ["cheap", "free"])
def test_prompts_dearer_than_the_budget_are_over_it_at_the_first_example(model: str) -> None:
    endpoint = Endpoint()
    assert run(endpoint, point(n=1, model=model), budget="0.000001").trials[0].fate == "over_budget"
    assert len(endpoint.log) == 1


def test_where_output_is_free_every_n_is_allowed() -> None:
    assert run(Endpoint(), point(n=32, model="free", max_tokens=None)).trials[0].fate == "scored"


def test_no_max_tokens_and_no_n_are_allowed() -> None:
    assert run(Endpoint(), {"model": "cheap", "prompt": "plain"}).best is not None
    assert run(Endpoint(), point(max_tokens=None, n=64)).trials[0].fate == "over_budget"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"examples": []}, "no examples"), ({"mode": "up"}, "'max' or 'min'"), ({"models": ["cheap", "who"]}, "who")],
)
def test_arguments_are_checked_before_the_first_call(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tuning(**changes)


@pytest.mark.parametrize("changes", [{"model": "who"}, {"prompt": "which"}])
def test_points_may_name_only_what_was_announced(changes: dict[str, str]) -> None:
    endpoint = Endpoint()
    with pytest.raises(ConfigError, match="was not announced; there are"):
        run(endpoint, point(**changes))
    assert endpoint.log == []


@dataclass
class Slow:
    """An endpoint on the event loop that notes how many requests are open."""

    endpoint: Endpoint
    open: int = 0
    most: int = 0
    error: Exception | None = None

    async def draw(self, request: DrawRequest) -> Drawn:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0.001)
        self.open -= 1
        if self.error is not None and request.example.id == "e3":
            raise self.error
        return self.endpoint.draw(request)


async def asuccess(example: Example, samples: Sequence[Sample]) -> float:
    await asyncio.sleep(0)
    return float(len(samples))


@pytest.mark.parametrize("parallel", [1, 4, 32])
async def test_on_an_event_loop_requests_run_together_and_results_are_the_same(parallel: int) -> None:
    points = [point(n=4), point(n=64, max_tokens=200), point(n=3, temperature=0.5)]
    slow = Slow(Endpoint())
    found = await adrive(tuning().search(Given(*points)), slow, asuccess, parallel=parallel)
    # 1, 1, 2, 4 and 8 more examples at a time.
    assert slow.most == min(parallel, 8)
    assert found == run(Endpoint(), *points, value=lambda example, samples: float(len(samples)))


async def test_what_others_of_a_failed_step_paid_is_counted() -> None:
    slow = Slow(Endpoint(), error=ServerFailed("down"))
    found = await adrive(tuning().search(Given(point(n=1))), slow, asuccess)
    assert found.trials[0].fate == "failed"
    assert found.spent == slow.endpoint.bill > 0


@pytest.mark.parametrize("error", [ConfigError("no key"), RuntimeError("bug")])
async def test_unforeseen_errors_are_raised_after_the_others_ended(error: Exception) -> None:
    slow = Slow(Endpoint(), error=error)
    with pytest.raises(type(error), match=str(error)):
        await adrive(tuning().search(Given(point(n=1))), slow, asuccess)
    assert slow.open == 0
    with pytest.raises(type(error), match=str(error)):
        run(Failing(Endpoint(), 3, error), point(n=1))


def test_an_async_scorer_needs_the_event_loop() -> None:
    with pytest.raises(ConfigError, match="atune"):
        run(Endpoint(), point(n=1), value=asuccess)
