from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import CHOICES, Aggregation, Bounds, Plan
from policies.numbers import ANSWER_TOKENS, DEPTH_FACTOR, EFFORT, TEMPERATURE, VERBOSITY, numbers
from policies.params import EFFORTS, VERBOSITIES

plans = st.builds(Plan, **{name: st.sampled_from(words) for name, words in CHOICES.items()})
PLAN = Plan(family="maths", determinism="exact", diversity="one", depth="none", length="line")


def with_words(**words: str) -> Plan:
    return Plan(**(PLAN.as_dict() | words))  # type: ignore[arg-type]


def test_every_word_has_its_number() -> None:
    assert set(TEMPERATURE) == set(product(CHOICES["determinism"], CHOICES["diversity"]))
    assert set(EFFORT) == set(DEPTH_FACTOR) == set(CHOICES["depth"])
    assert set(VERBOSITY) == set(ANSWER_TOKENS) == set(CHOICES["length"])


@given(plan=plans, n=st.integers(1, 50))
def test_any_plan_gives_valid_numbers_that_fit_the_default_bounds(plan: Plan, n: int) -> None:
    wanted = numbers(plan, Aggregation(kind="any", n=n))
    bounds = Bounds(n=n, max_tokens=8192)
    assert wanted.n == n
    for name, value in wanted.set_fields().items():
        limits = bounds.interval(name)
        assert limits is None or limits.low <= value <= limits.high
    assert wanted.reasoning_effort in bounds.efforts


@pytest.mark.parametrize("field", ["determinism", "diversity"])
@given(plan=plans, n=st.integers(1, 5))
def test_more_freedom_is_never_colder(field: str, plan: Plan, n: int) -> None:
    aggregation = Aggregation(kind="any", n=n)
    for less, more in pairwise(CHOICES[field]):
        colder, warmer = (numbers(Plan(**(plan.as_dict() | {field: word})), aggregation) for word in (less, more))  # type: ignore[arg-type]
        assert colder.temperature is not None
        assert warmer.temperature is not None
        assert colder.temperature <= warmer.temperature


def test_one_exact_answer_is_greedy() -> None:
    assert numbers(PLAN, Aggregation()).temperature == 0


@pytest.mark.parametrize("text", ["any of 2", "vote of 5", "best of 3"])
@given(plan=plans)
def test_several_samples_are_never_identical_by_design(text: str, plan: Plan) -> None:
    temperature = numbers(plan, Aggregation.parse(text)).temperature
    assert temperature is not None
    assert temperature >= 0.5


@given(plan=plans)
def test_the_tail_is_cut_above_temperature_one_and_only_there(plan: Plan) -> None:
    wanted = numbers(plan, Aggregation())
    assert wanted.temperature is not None
    assert (wanted.top_p is not None) == (wanted.temperature > 1)


@given(plan=plans)
def test_no_plan_switches_reasoning_off(plan: Plan) -> None:
    assert numbers(plan, Aggregation()).reasoning_effort != "none"


def test_longer_and_deeper_mean_more_room() -> None:
    def ranks(field: str) -> list[tuple[int, int, int]]:
        rows = [numbers(with_words(**{field: word}), Aggregation()) for word in CHOICES[field]]
        return [
            (row.max_tokens or 0, EFFORTS.index(row.reasoning_effort or ""), VERBOSITIES.index(row.verbosity or ""))
            for row in rows
        ]

    for field in ("length", "depth"):
        found = ranks(field)
        assert [row[0] for row in found] == sorted({row[0] for row in found})
        assert all(a <= b for row, following in pairwise(found) for a, b in zip(row, following, strict=True))


def test_the_family_alone_changes_no_number() -> None:
    """The prior knows nothing of families; what was measured for a task replaces it."""
    assert len({numbers(with_words(family=family), Aggregation()) for family in CHOICES["family"]}) == 1
