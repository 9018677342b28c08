"""F26: whatever a planner says, nothing escapes bounds ∩ capabilities ∩ money, and every change is on record.

Each clause of the promise is a predicate over one compilation. The property asserts all of them; a companion
breaks one rule of the compiler at a time and shows that the clause watching it finds an example.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

import policies.compile as compiler
from policies import (
    Allowance,
    Compiled,
    DecodingParams,
    HeadBounds,
    merge,
)
from policies.params import EFFORTS, SAMPLING_FIELDS
from tests.policies.any_input import Case, cases

# --- the clauses -----------------------------------------------------------------------------------------------------


def caller_is_sent_unchanged(case: Case, result: Compiled) -> bool:
    sent = result.sent.set_fields()
    return all(name in sent and sent[name] == value for name, value in case.caller.set_fields().items())


def only_accepted_fields(case: Case, result: Compiled) -> bool:
    return case.chosen(result).keys() <= case.capabilities.accepted


def inside_bounds(case: Case, result: Compiled) -> bool:
    for name, value in case.chosen(result).items():
        limits = case.bounds.interval(name)
        if limits is not None and not limits.low <= value <= limits.high:
            return False
        if name == "reasoning_effort" and value not in case.bounds.efforts:
            return False
    return True


def inside_model_range(case: Case, result: Compiled) -> bool:
    facts, chosen = case.capabilities, case.chosen(result)
    for name, value in chosen.items():
        limits = facts.ranges.get(name)
        if limits is not None and not limits.low <= value <= limits.high:
            return False
    if "max_tokens" in chosen and chosen["max_tokens"] > (facts.max_output_tokens or chosen["max_tokens"]):
        return False
    return chosen.get("reasoning_effort") in (None, *facts.efforts)


def many_samples_are_warm_enough(case: Case, result: Compiled) -> bool:
    floor, n, temperature = case.capabilities.n_needs_temperature, result.sent.n or 1, result.sent.temperature
    caller_fixed_both = case.caller.n is not None and case.caller.temperature is not None
    return caller_fixed_both or floor is None or n == 1 or temperature is None or temperature >= floor


def one_of_each_exclusive_group(case: Case, result: Compiled) -> bool:
    chosen, sent = case.chosen(result), result.sent.set_fields()
    for group in case.capabilities.exclusive:
        together = [name for name in group if name in sent]
        if len(together) > 1 and any(name in chosen for name in together):
            return False
    return True


def effort_gate_is_obeyed(case: Case, result: Compiled) -> bool:
    facts, chosen = case.capabilities, case.chosen(result)
    effort = result.sent.reasoning_effort or facts.default_effort
    if not facts.sampling_needs_effort_none or effort == "none":
        return True
    if any(name in chosen for name in SAMPLING_FIELDS):
        return False
    caller_samples = any(name in case.caller.set_fields() for name in SAMPLING_FIELDS)
    # The caller's own sampling may be refused, but never because of an effort the caller did not ask for.
    return not (caller_samples and facts.default_effort == "none" and "reasoning_effort" in chosen)


def reasoning_is_never_switched_off(case: Case, result: Compiled) -> bool:
    if case.chosen(result).get("reasoning_effort") != "none":
        return True
    return case.wishes()["reasoning_effort"] == "none" and "none" in case.bounds.efforts


def fits_the_money(case: Case, result: Compiled) -> bool:
    """n x max_tokens <= the allowance, or what the caller fixed and one token of one sample for the rest.

    Without a token cap there is no product to check: the meter quotes such a call at the model's own maximum.
    """
    total, sent, fixed = case.allowance.completion_tokens, result.sent, case.caller
    if total is None or sent.max_tokens is None:
        return True
    return (sent.n or 1) * sent.max_tokens <= max(total, (fixed.n or 1) * (fixed.max_tokens or 1))


def ceiling_is_only_lowered(case: Case, result: Compiled) -> bool:
    """Never more samples nor longer answers than wished, but for the room a model that thinks needs to follow a plan."""
    chosen, wishes = case.chosen(result), case.wishes()
    room = compiler.REASONING_ROOM if case.proposal.plan is not None and case.capabilities.efforts else 1
    return all(chosen[name] <= wishes[name] * most for name, most in (("n", 1), ("max_tokens", room)) if name in chosen)


def plan_fits_how_the_model_thinks(case: Case, result: Compiled) -> bool:
    """No plan without depth wakes a model that sleeps, and no plan's token cap leaves a thinking model without an answer."""
    facts, plan, chosen = case.capabilities, case.proposal.plan, case.chosen(result)
    if plan is None:
        return True
    if plan.depth == "none" and facts.default_effort == "none" and "reasoning_effort" in chosen:
        return False
    effort = result.sent.reasoning_effort or facts.default_effort
    cut = any(change.field == "max_tokens" and change.why == "budget" for change in result.adjustments)
    if "max_tokens" not in chosen or not facts.efforts or effort == "none" or cut:
        return True
    wide = case.wishes()["max_tokens"] * compiler.REASONING_ROOM
    return bool(chosen["max_tokens"] == min(wide, case.bounds.max_tokens, facts.max_output_tokens or wide))


def every_change_is_recorded(case: Case, result: Compiled) -> bool:
    """Replaying the adjustments over the wishes gives what was sent, and each of them changes something."""
    values = case.wishes()
    limits = case.proposal.heads.as_dict() if case.proposal.heads is not None else {}
    for change in result.adjustments:
        state = limits if isinstance(change.wanted, dict) else values
        if change.field not in state or state[change.field] != change.wanted or change.wanted == change.sent:
            return False
        if (change.why == "caller") != (change.field in case.caller.set_fields()) or not change.detail:
            return False
        if change.sent is None:
            del state[change.field]
        else:
            state[change.field] = change.sent
    sent, fixed = result.sent.set_fields(), case.caller.set_fields()
    if values.get("n") == 1 and "n" not in sent:
        del values["n"]  # one sample is what not saying n means
    on_the_wire = result.wire.get("selfreg", {})
    return fixed | values == sent and all(on_the_wire[name] == limit for name, limit in limits.items())


def wire_says_what_is_sent(case: Case, result: Compiled) -> bool:
    expected = result.sent.set_fields()
    if "max_tokens" in expected:
        expected[case.capabilities.token_cap_field] = expected.pop("max_tokens")
    if "stop" in expected:
        expected["stop"] = list(expected["stop"])
    wire = dict(result.wire)
    extension = wire.pop("selfreg", None)
    if (extension is None) != (case.proposal.heads is None):
        return False
    json.dumps([wire, [change.as_dict() for change in result.adjustments]], allow_nan=False)
    return wire == expected and (extension is None or extension["mode"] == "auto")


def heads_stay_inside_bounds(case: Case, result: Compiled) -> bool:
    if case.proposal.heads is None:
        return True
    if any(name in case.chosen(result) for name in SAMPLING_FIELDS):
        return False
    for name in ("temperature", "top_p"):
        limits, allowed = result.wire["selfreg"].get(name), case.bounds.interval(name)
        assert allowed is not None
        if getattr(case.caller, name) is not None:
            if limits is not None:
                return False
        elif limits is None or not allowed.low <= limits["min"] <= limits["max"] <= allowed.high:
            return False
    return True


Clause = Callable[[Case, Compiled], bool]
CLAUSES: tuple[Clause, ...] = (
    caller_is_sent_unchanged,
    only_accepted_fields,
    inside_bounds,
    inside_model_range,
    many_samples_are_warm_enough,
    one_of_each_exclusive_group,
    effort_gate_is_obeyed,
    reasoning_is_never_switched_off,
    fits_the_money,
    ceiling_is_only_lowered,
    plan_fits_how_the_model_thinks,
    every_change_is_recorded,
    wire_says_what_is_sent,
    heads_stay_inside_bounds,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases)
def test_f26_no_proposal_escapes(case: Case) -> None:
    result = case.compile()
    assert [clause.__name__ for clause in CLAUSES if not clause(case, result)] == []


@settings(max_examples=50, deadline=None)
@given(case=cases)
def test_compiling_is_pure(case: Case) -> None:
    before = repr(case)
    assert case.compile() == case.compile()
    assert repr(case) == before


# --- the same clauses against broken compilers ------------------------------------------------------------------------

Rules = compiler._Compilation
obey_effort_gate = Rules.obey_effort_gate
Patch = dict[str, Any]


def _skips(*names: str) -> Patch:
    return {f"_Compilation.{name}": lambda *_args: None for name in names}


def _values_beat_the_caller(caller: DecodingParams, values: DecodingParams) -> DecodingParams:
    return merge(values, caller)


def _gate_before_bounds(self: Any, _unsupported: Callable[[Any], None] = Rules.drop_unsupported) -> None:
    _unsupported(self)
    obey_effort_gate(self)


def _nearest_may_be_none(wanted: str, known: tuple[str, ...]) -> str | None:
    return min(known, key=lambda level: abs(EFFORTS.index(level) - EFFORTS.index(wanted)), default=None)


def _money_forgets_the_callers_n(self: Any, allowance: Allowance) -> None:
    total = allowance.completion_tokens
    if total is not None and self.values.get("max_tokens", 0) > total:
        self._change("max_tokens", max(total, 1), "budget", "for one sample")


def _money_spends_all_of_it(self: Any, allowance: Allowance) -> None:
    if allowance.completion_tokens and "max_tokens" in self.values:
        n = self.caller.n or self.values.get("n", 1)
        self._change("max_tokens", max(allowance.completion_tokens // n, 1), "budget", "as much as there is")


def _change_in_silence(self: Any, name: str, sent: Any, _why: str, _detail: str) -> None:
    if sent is None:
        del self.values[name]
    else:
        self.values[name] = sent


def _record_without_change(self: Any) -> None:
    for name in self.values:
        self.adjustments.append(compiler.Adjustment(field=name, wanted=1, sent=2, why="bound", detail="untrue"))


def _wire_without_names(params: DecodingParams, *_args: Any, heads: HeadBounds | None = None) -> dict[str, Any]:
    return params.set_fields() | ({} if heads is None else {"selfreg": {"mode": "auto", **heads.as_dict()}})


BROKEN: dict[str, tuple[Clause, Patch]] = {
    "a policy beats the caller": (
        caller_is_sent_unchanged,
        _skips("let_caller_win") | {"merge": _values_beat_the_caller},
    ),
    "capabilities are not asked": (only_accepted_fields, _skips("drop_unsupported")),
    "bounds are not kept": (inside_bounds, _skips("keep_in_bounds")),
    "the model's range is not kept": (inside_model_range, _skips("_model_range")),
    "n is not looked at": (many_samples_are_warm_enough, _skips("_model_range")),
    "the caller's temperature is not looked at": (many_samples_are_warm_enough, _skips("resolve_conflicts")),
    "conflicts are not resolved": (one_of_each_exclusive_group, _skips("resolve_conflicts")),
    "there is no gate": (effort_gate_is_obeyed, _skips("obey_effort_gate")),
    "the gate comes before the bounds": (
        effort_gate_is_obeyed,
        _skips("obey_effort_gate") | {"_Compilation.drop_unsupported": _gate_before_bounds},
    ),
    "none is an effort like any other": (reasoning_is_never_switched_off, {"_nearest_effort": _nearest_may_be_none}),
    "money is not looked at": (fits_the_money, _skips("fit_money")),
    "money forgets the samples": (fits_the_money, {"_Compilation.fit_money": _money_forgets_the_callers_n}),
    "money left is money spent": (ceiling_is_only_lowered, {"_Compilation.fit_money": _money_spends_all_of_it}),
    "plans do not look at the model": (plan_fits_how_the_model_thinks, _skips("fit_plan")),
    "changes are silent": (every_change_is_recorded, {"_Compilation._change": _change_in_silence}),
    "changes are invented": (every_change_is_recorded, {"_Compilation.resolve_conflicts": _record_without_change}),
    "the wire keeps our names": (wire_says_what_is_sent, {"wire_fields": _wire_without_names}),
    "heads are free": (heads_stay_inside_bounds, {"_Compilation.bound_heads": lambda _self, heads, _bounds: heads}),
}


@pytest.mark.parametrize(("clause", "patch"), BROKEN.values(), ids=BROKEN)
def test_f26_companion_each_clause_catches_its_fault(
    clause: Clause, patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target, replacement in patch.items():
        monkeypatch.setattr(f"policies.compile.{target}", replacement)
    quick = settings(max_examples=5000, database=None, derandomize=True, phases=[Phase.generate], deadline=None)
    escaped = find(cases, partial(_violates, clause), settings=quick)  # raises NoSuchExample if the clause is blind
    monkeypatch.undo()
    assert clause(escaped, escaped.compile())


def _violates(clause: Clause, case: Case) -> bool:
    return not clause(case, case.compile())


def test_f26_companion_covers_every_clause() -> None:
    assert {clause for clause, _ in BROKEN.values()} == set(CLAUSES)
    assert set(chain.from_iterable(patch for _, patch in BROKEN.values())) >= {
        f"_Compilation.{name}" for name, rule in vars(Rules).items() if callable(rule) and not name.startswith("_")
    }
