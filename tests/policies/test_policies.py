from __future__ import annotations

import dataclasses
from itertools import combinations, product
from typing import Any, get_args

import pytest

from policies import (
    Aggregation,
    ChainPolicy,
    DecodingParams,
    Facts,
    HeadBounds,
    Interval,
    LearnedPolicy,
    Plan,
    PlanFact,
    PlannedPolicy,
    Policy,
    Proposal,
    StaticPolicy,
    TaskKey,
    TunedFact,
    TunedPolicy,
    default_chain,
)
from policies.base import FactName
from policies.numbers import numbers

FACT_NAMES: tuple[FactName, ...] = get_args(FactName)
PLAN = Plan(family="maths", determinism="exact", diversity="one", depth="none", length="line")
PLAN_FACT = PlanFact(plan=PLAN, cached=True, config_version=4)
TUNED_FACT = TunedFact(params=DecodingParams(temperature=0.9, n=3), config_version=7)
HEADS = HeadBounds(temperature=Interval(low=0, high=1))


def task(text: str = "first") -> TaskKey:
    return TaskKey(task="t", explicit=True, model="m", aggregation=Aggregation.parse(text))


# What a store, a planner and a server may answer when asked for a fact: every combination.
ANSWERS: list[dict[str, Any]] = [
    {"plan": plan, "tuned_config": tuned, "server_heads": heads}
    for plan, tuned, heads in product([None, PLAN_FACT], [None, TUNED_FACT], [False, True])
]
# Every state of knowledge, also those no executor would produce.
ALL_FACTS = [
    Facts(task=task(text), known=frozenset(known), **answer)
    for text, answer in product(["first", "any of 4"], ANSWERS)
    for size in range(len(FACT_NAMES) + 1)
    for known in combinations(FACT_NAMES, size)
]


def gather(policy: Policy, facts: Facts, answer: dict[str, Any]) -> tuple[Facts, list[str]]:
    """Fetch what the policy asks for, as an executor does; fails if it asks for the same thing twice."""
    asked: list[str] = []
    while (name := policy.missing(facts)) is not None:
        assert name not in asked, f"{policy} asks for {name!r} again"
        asked.append(name)
        facts = facts.learn(name, answer[name])
    return facts, asked


class PolicyContract:
    """What holds for every policy; subclass and give it one."""

    policy: Policy

    def test_propose_never_raises_and_is_pure(self) -> None:
        for facts in ALL_FACTS:
            before = repr((self.policy, facts))
            first = self.policy.propose(facts)
            assert first is None or isinstance(first, Proposal)
            assert self.policy.propose(facts) == first
            assert repr((self.policy, facts)) == before

    def test_missing_ends_with_none_whatever_the_answers(self) -> None:
        for facts, answer in product(ALL_FACTS, ANSWERS):
            complete, asked = gather(self.policy, facts, answer)
            assert set(asked) <= set(FACT_NAMES) - facts.known
            assert self.policy.missing(complete) is None

    def test_facts_nobody_asked_for_do_not_matter(self) -> None:
        for answer in ANSWERS:
            complete, _ = gather(self.policy, Facts(task=task()), answer)
            everything = Facts(task=task(), known=frozenset(FACT_NAMES), **answer)
            assert self.policy.propose(complete) == self.policy.propose(everything)

    def test_it_is_a_policy_and_a_value(self) -> None:
        assert isinstance(self.policy, Policy)
        assert hash(self.policy) == hash(dataclasses.replace(self.policy))  # type: ignore[type-var]
        assert dataclasses.replace(self.policy) == self.policy  # type: ignore[type-var]


class TestStatic(PolicyContract):
    policy = StaticPolicy(params=DecodingParams(temperature=0.4))


class TestPlanned(PolicyContract):
    policy = PlannedPolicy()


class TestTuned(PolicyContract):
    policy = TunedPolicy()


class TestLearned(PolicyContract):
    policy = LearnedPolicy(bounds=HEADS)


class TestEmptyChain(PolicyContract):
    policy = ChainPolicy(())


class TestDefaultChain(PolicyContract):
    policy = default_chain(DecodingParams(max_tokens=100))


class TestChainOfEverything(PolicyContract):
    policy = ChainPolicy((LearnedPolicy(), TunedPolicy(), PlannedPolicy(), StaticPolicy()))


class TestNestedChain(PolicyContract):
    policy = ChainPolicy((ChainPolicy((TunedPolicy(),)), default_chain(DecodingParams())))


class _AsksForever:
    """What the contract must catch: a policy that does not accept an absent fact as an answer."""

    def missing(self, facts: Facts) -> FactName | None:
        return "plan" if facts.plan is None else None

    def propose(self, facts: Facts) -> Proposal | None:
        return None


def test_companion_the_contract_catches_a_policy_that_asks_forever() -> None:
    with pytest.raises(AssertionError, match="asks for 'plan' again"):
        gather(_AsksForever(), Facts(task=task()), {"plan": None})


def test_companion_the_contract_catches_a_policy_that_peeks() -> None:
    class Peeks(_AsksForever):
        def missing(self, facts: Facts) -> FactName | None:
            return None

        def propose(self, facts: Facts) -> Proposal | None:
            return TunedPolicy().propose(facts)

    class Contract(PolicyContract):
        policy = Peeks()

    with pytest.raises(AssertionError):
        Contract().test_facts_nobody_asked_for_do_not_matter()


# --- what each of them says ------------------------------------------------------------------------------------------


def test_static_adds_the_samples_the_task_needs() -> None:
    policy = StaticPolicy(params=DecodingParams(temperature=0.4))
    assert policy.propose(Facts(task=task())) == Proposal(params=DecodingParams(temperature=0.4), source="static")
    found = policy.propose(Facts(task=task("vote of 5")))
    assert found is not None
    assert found.params == DecodingParams(temperature=0.4, n=5)


def test_static_keeps_the_samples_it_was_given() -> None:
    found = StaticPolicy(params=DecodingParams(n=2)).propose(Facts(task=task("vote of 5")))
    assert found is not None
    assert found.params.n == 2


@pytest.mark.parametrize(("cached", "source"), [(True, "cached plan"), (False, "plan")])
def test_planned_turns_words_into_numbers_and_names_the_source(cached: bool, source: str) -> None:
    facts = Facts(task=task("any of 4")).learn("plan", PlanFact(plan=PLAN, cached=cached, config_version=4))
    found = PlannedPolicy().propose(facts)
    assert found is not None
    assert found.params == numbers(PLAN, Aggregation.parse("any of 4"))
    assert (found.source, found.plan, found.config_version) == (source, PLAN, 4)


def test_tuned_proposes_what_was_measured() -> None:
    found = TunedPolicy().propose(Facts(task=task()).learn("tuned_config", TUNED_FACT))
    assert found == Proposal(params=TUNED_FACT.params, source="tuned", config_version=7)


def test_learned_leaves_the_numbers_to_the_heads() -> None:
    facts = Facts(task=task("any of 4")).learn("server_heads", True)
    found = LearnedPolicy(bounds=HEADS).propose(facts)
    assert found == Proposal(params=DecodingParams(n=4), source="heads", heads=HEADS)
    assert LearnedPolicy().propose(Facts(task=task())) is None


def test_head_bounds_are_spelled_like_the_request_extension() -> None:
    assert HEADS.as_dict() == {"temperature": {"min": 0, "max": 1}}
    assert HeadBounds().as_dict() == {}


def test_learn_tells_an_absent_fact_from_an_unknown_one() -> None:
    facts = Facts(task=task())
    looked = facts.learn("plan", None)
    assert (facts.known, looked.known) == (frozenset(), {"plan"})
    assert PlannedPolicy().missing(facts) == "plan"
    assert PlannedPolicy().missing(looked) is None


# --- the chain -------------------------------------------------------------------------------------------------------

CHAIN = default_chain(DecodingParams(temperature=0.7))


@pytest.mark.parametrize(
    ("answer", "asked", "source"),
    [
        ({"tuned_config": TUNED_FACT}, ["tuned_config"], "tuned"),  # a plan costs money and would not be used
        ({"tuned_config": None, "plan": PLAN_FACT}, ["tuned_config", "plan"], "cached plan"),
        ({"tuned_config": None, "plan": None}, ["tuned_config", "plan"], "default"),
    ],
)
def test_the_chain_fetches_only_what_it_needs(answer: dict[str, Any], asked: list[str], source: str) -> None:
    facts, fetched = gather(CHAIN, Facts(task=task()), answer)
    proposal = CHAIN.propose(facts)
    assert fetched == asked
    assert proposal is not None
    assert proposal.source == source


def test_heads_in_front_of_the_chain_save_both_look_ups() -> None:
    chain = ChainPolicy((LearnedPolicy(), *CHAIN.policies))
    assert gather(chain, Facts(task=task()), {"server_heads": True})[1] == ["server_heads"]


def test_an_empty_chain_leaves_the_decision_open() -> None:
    assert ChainPolicy(()).propose(Facts(task=task())) is None


def test_the_default_chain_always_decides() -> None:
    assert None not in [CHAIN.propose(facts) for facts in ALL_FACTS]
