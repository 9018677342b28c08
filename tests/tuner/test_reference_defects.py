"""The eight defects of the published code. Each check holds for ours, and fails for a twin that has the defect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.errors import UnknownPriceError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.search.drawing import Sample, drive
from selfreg_sdk.tuner.search.ecooptigen import EcoOptiGen
from tests.tuner.fake_endpoint import EXAMPLES, PROMPTS, Endpoint, Given, point, price
from tests.tuner.reference_twin import ReferenceTwin

Points = Sequence[Mapping[str, Any]]
Tune = Callable[..., Mapping[str, Any] | None]
Check = Callable[[Tune], None]


def many(example: Example, samples: Sequence[Sample]) -> float:
    """More samples are worth more."""
    return float(len(samples))


def ours(endpoint: Endpoint, *points: Mapping[str, Any], value: Any = many, mode: Any = "max") -> Any:
    machine = EcoOptiGen(
        examples=EXAMPLES,
        prompts=PROMPTS,
        models=list(dict.fromkeys(point["model"] for point in points)),
        price=price,
        inference_budget=Decimal("0.001"),
        mode=mode,
    )
    best = drive(machine.search(Given(*points)), endpoint, value).best
    return best and best.point


def twin(*defects: int) -> Tune:
    """A tuning with these defects."""
    ReferenceTwin.regions.clear()
    ReferenceTwin.cache.clear()

    def tune(endpoint: Endpoint, *points: Mapping[str, Any], value: Any = many, mode: Any = "max") -> Any:
        return ReferenceTwin(endpoint, value=value, budget=Decimal("0.001"), mode=mode, defects=set(defects)).tune(
            points
        )

    return tune


# 0.001 USD pay for 497 tokens of "cheap" and 23 of "dear"; an answer has 100.
FITS = point(n=2)
TOO_MUCH = point(n=64, max_tokens=200)


def every_sample_is_a_new_draw(tune: Tune) -> None:
    """1: the first doubling asked for the same part twice, so the cache gave it twice, and it was counted twice."""
    endpoint, twice = Endpoint(length=20), []

    def distinct(example: Example, samples: Sequence[Sample]) -> float:
        twice.append(len(samples) - len({sample.text for sample in samples}))
        return 1.0

    tune(endpoint, point(n=16, max_tokens=200), value=distinct)
    assert len(twice) == len(EXAMPLES)
    assert not any(twice)


def what_is_pruned_is_not_the_least(tune: Tune) -> None:
    """2: with mode="min" what was stopped had the value 0, which nothing beats."""
    best = tune(Endpoint(), FITS, TOO_MUCH, mode="min")
    assert best == FITS


def an_unknown_price_is_said_before_the_first_call(tune: Tune) -> None:
    """3: a model without a price failed with a TypeError, after the models before it had been paid."""
    endpoint = Endpoint()
    with pytest.raises((UnknownPriceError, LookupError)) as caught:
        tune(endpoint, FITS, point(model="unheard-of"))
    assert isinstance(caught.value, UnknownPriceError)
    assert endpoint.bill == 0


def prompts_are_filled_in(tune: Tune) -> None:
    """4: a string template was sent as it was, unless one more flag was set."""
    endpoint = Endpoint()
    tune(endpoint, FITS)
    sent = {messages[-1]["content"] for messages, _ in endpoint.log}
    assert sent == {example.fields["question"] for example in EXAMPLES}


def one_search_knows_nothing_of_another(tune: Tune) -> None:
    """5: state belonged to the class: a second tuning in the same process was answered from the first one's."""
    first, second = Endpoint(), Endpoint()
    tune(first, FITS, TOO_MUCH)
    tune(second, FITS, TOO_MUCH)
    assert len(second.log) == len(first.log) > 0


def nothing_over_the_budget_is_returned(tune: Tune) -> None:
    """6: where nothing was within the budget, something that was not came back, with its full value."""
    assert tune(Endpoint(), TOO_MUCH, point(model="dear", n=8), point(model="dear", n=1, max_tokens=50)) is None


def a_fixed_n_goes_with_best_of(tune: Tune) -> None:
    """7: parts of best_of below n were asked for, which endpoints refuse."""
    endpoint = Endpoint(length=20)
    best = tune(endpoint, point(n=3, best_of=8, max_tokens=200))
    assert all(parameters["best_of"] >= parameters["n"] == 3 for _, parameters in endpoint.log)
    assert endpoint.log[-1][1]["best_of"] == 8
    assert best == point(n=3, best_of=8, max_tokens=200)


def the_first_configuration_is_held_to_the_budget(tune: Tune) -> None:
    """8: the first one was never checked, and spent 63 times what the budget allows for all examples."""
    endpoint = Endpoint()
    best = tune(endpoint, point(model="dear", n=64, max_tokens=200), FITS)
    on_dear = sum(parameters["n"] for _, parameters in endpoint.log if parameters["model"] == "dear")
    assert on_dear <= 2
    assert best == FITS


CHECKS = [
    every_sample_is_a_new_draw,
    what_is_pruned_is_not_the_least,
    an_unknown_price_is_said_before_the_first_call,
    prompts_are_filled_in,
    one_search_knows_nothing_of_another,
    nothing_over_the_budget_is_returned,
    a_fixed_n_goes_with_best_of,
    the_first_configuration_is_held_to_the_budget,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_ours_is_without_the_defect(check: Check) -> None:
    check(ours)


@pytest.mark.parametrize("number", range(2, 9), ids=lambda number: CHECKS[number - 1].__name__)
def test_the_check_catches_the_defect(number: int) -> None:
    with pytest.raises(AssertionError):
        CHECKS[number - 1](twin(number))


def test_the_check_catches_samples_that_count_twice() -> None:
    """Parts are put together only while nothing is clear, as in a first trial without a limit."""
    every_sample_is_a_new_draw(twin(8))
    with pytest.raises(AssertionError):
        every_sample_is_a_new_draw(twin(1, 8))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_twin_without_defects_passes(check: Check) -> None:
    """Otherwise its failures would prove nothing."""
    check(twin())


def test_the_twin_finds_what_ours_finds_where_defects_do_not_show() -> None:
    points = [point(n=1), point(n=2), point(n=4)]
    assert twin(*range(1, 9))(Endpoint(), *points) == ours(Endpoint(), *points) == points[2]
