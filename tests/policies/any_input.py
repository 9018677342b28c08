"""Any input of the compiler, valid but otherwise as odd as it may be: hypothesis strategies, and one case of them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from policies import (
    CHOICES,
    FIELDS,
    Aggregation,
    Allowance,
    Bounds,
    Capabilities,
    Compiled,
    DecodingParams,
    Facts,
    HeadBounds,
    Interval,
    Plan,
    PlanFact,
    PlannedPolicy,
    Proposal,
    TaskKey,
    compile_params,
    merge,
    resolve,
)
from policies.params import EFFORTS, SAMPLING_FIELDS, VERBOSITIES


def reals(low: float, high: float) -> st.SearchStrategy[float]:
    """Round numbers often, so that ends of intervals and wishes meet."""
    round_numbers = [low, high, *(value for value in (0.3, 0.5, 1.0) if low <= value <= high)]
    return st.sampled_from(round_numbers) | st.floats(low, high)


def counts(high: int) -> st.SearchStrategy[int]:
    return st.integers(1, 8) | st.integers(1, high)


def intervals(low: float, high: float) -> st.SearchStrategy[Interval]:
    ends = st.tuples(reals(low, high), reals(low, high)).map(sorted)
    return ends.map(lambda pair: Interval(low=pair[0], high=pair[1]))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "temperature": reals(0, 2),
    "top_p": reals(0.01, 1),
    "top_k": counts(100),
    "min_p": reals(0, 1),
    "max_tokens": counts(100) | counts(1_000_000),
    "n": counts(1000),
    "stop": st.lists(st.text(min_size=1, max_size=3), max_size=2),
    "seed": st.integers(),
    "presence_penalty": reals(-2, 2),
    "frequency_penalty": reals(-2, 2),
    "repetition_penalty": reals(0.1, 3),
    "reasoning_effort": st.just("none") | st.sampled_from(EFFORTS),
    "verbosity": st.sampled_from(VERBOSITIES),
}


@st.composite
def some_params(draw: st.DrawFn, most: int = len(VALUES)) -> DecodingParams:
    """Any valid parameters; few fields more often than many."""
    names = draw(st.lists(st.sampled_from(FIELDS), max_size=most, unique=True))
    return DecodingParams(**{name: draw(VALUES[name]) for name in names})


# Every field that some rule is about at once: where the rules meet.
crowded_params = st.builds(
    DecodingParams, **{name: VALUES[name] for name in ("temperature", "top_p", "n", "max_tokens", "reasoning_effort")}
)
callers = st.just(DecodingParams()) | st.builds(DecodingParams, temperature=VALUES["temperature"]) | some_params(3)

plans = st.builds(Plan, **{name: st.sampled_from(words) for name, words in CHOICES.items()})
aggregations = st.just(Aggregation()) | st.builds(
    Aggregation, kind=st.sampled_from(["any", "vote", "best"]), n=st.integers(1, 50)
)
head_bounds = st.builds(HeadBounds, temperature=st.none() | intervals(0, 2), top_p=st.none() | intervals(0.01, 1))


def _planned(plan: Plan, aggregation: Aggregation) -> Proposal:
    facts = Facts(
        task=TaskKey(task="t", explicit=True, model="m", aggregation=aggregation),
        known=frozenset({"plan"}),
        plan=PlanFact(plan=plan, cached=False),
    )
    proposal = PlannedPolicy().propose(facts)
    assert proposal is not None
    return proposal


proposals = (
    st.builds(_planned, plans, aggregations)
    | st.builds(Proposal, params=crowded_params | some_params(), source=st.sampled_from(["static", "tuned", "default"]))
    | st.builds(Proposal, params=some_params(3), source=st.just("heads"), heads=head_bounds)
)


@st.composite
def capabilities(draw: st.DrawFn) -> Capabilities:
    """Any set of facts about a model that does not contradict itself."""
    some = st.frozensets(st.sampled_from(FIELDS), max_size=4)
    accepted = st.just(frozenset(FIELDS)) | some.map(lambda lost: frozenset(FIELDS) - lost) | some
    widest = {"temperature": (0, 2), "top_p": (0.01, 1), "min_p": (0, 1), "presence_penalty": (-2, 2)}
    ranges = draw(st.fixed_dictionaries({}, optional={name: intervals(*ends) for name, ends in widest.items()}))
    warmest = ranges["temperature"].high if "temperature" in ranges else 2
    group = st.lists(st.sampled_from(FIELDS[:4] + FIELDS[8:12]), min_size=2, max_size=3, unique=True).map(tuple)
    return Capabilities(
        model="some-model",
        accepted=draw(accepted),
        ignored=draw(st.frozensets(st.sampled_from(FIELDS), max_size=3)),
        ranges=ranges,
        exclusive=tuple(draw(st.lists(group, max_size=2))),
        efforts=tuple(sorted(draw(st.sets(st.sampled_from(EFFORTS))), key=EFFORTS.index)),
        default_effort=draw(st.none() | st.sampled_from(["none", "medium"])),
        sampling_needs_effort_none=draw(st.booleans()),
        n_needs_temperature=draw(st.none() | reals(0, warmest)),
        max_output_tokens=draw(st.none() | counts(100_000)),
        token_cap_field=draw(st.sampled_from(["max_tokens", "max_completion_tokens"])),
    )


OFF_OR_HIGH = Capabilities(
    model="off-or-high", accepted=frozenset(FIELDS), efforts=("none", "high"), n_needs_temperature=0.8
)
models = st.sampled_from([OFF_OR_HIGH, *map(resolve, ("gpt-5.5", "kimi-k2", "gpt-5.1", "claude-opus-4-1"))])
bounds = st.builds(
    Bounds,
    temperature=intervals(0, 2),
    top_p=intervals(0.01, 1),
    n=counts(100),
    max_tokens=counts(10_000),
    efforts=st.lists(st.sampled_from(EFFORTS), unique=True).map(tuple),
)
allowances = st.builds(Allowance, completion_tokens=st.none() | st.integers(0, 100) | st.integers(0, 100_000))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One compilation: everything that went in, and what came out."""

    caller: DecodingParams
    proposal: Proposal
    defaults: DecodingParams
    capabilities: Capabilities
    bounds: Bounds
    allowance: Allowance

    def compile(self) -> Compiled:
        return compile_params(**vars(self))

    def wishes(self) -> dict[str, Any]:
        """What anyone but the caller wants; heads decide in place of every sampling number."""
        wanted = merge(self.proposal.params, self.defaults).set_fields()
        hidden = SAMPLING_FIELDS if self.proposal.heads is not None else ()
        return {name: value for name, value in wanted.items() if name not in hidden}

    def chosen(self, result: Compiled) -> dict[str, Any]:
        """What is sent and does not come from the caller."""
        fixed = self.caller.set_fields()
        return {name: value for name, value in result.sent.set_fields().items() if name not in fixed}


cases = st.builds(
    Case,
    caller=callers,
    proposal=proposals,
    defaults=st.just(DecodingParams()) | some_params(3),
    capabilities=models | capabilities(),
    bounds=st.just(Bounds(n=1000, max_tokens=1_000_000)) | bounds,
    allowance=allowances,
)
