"""The only way to a sendable configuration.

``compile_params`` takes what the caller insists on, what a policy proposes and what is known about the model and the money,
and returns what goes on the wire with a record of every difference. Two rules hold for any input whatever:

- An explicit caller value is never changed; if it cannot work, the provider says so.
- A policy's value is inside bounds ∩ capabilities ∩ money, or it is not sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.base import HeadBounds, Proposal
from policies.capabilities import Capabilities
from policies.params import (
    EFFORTS,
    SAMPLING_FIELDS,
    Adjustment,
    Bounds,
    DecodingParams,
    Interval,
    Why,
    merge,
    parse_params,
)
from policies.plan import Plan

REASONING_ROOM = 8
"""How much wider a planned token cap is for a model that thinks before it answers: too narrow a cap leaves no answer."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What the money left allows for one request.

    Attributes:
        completion_tokens: most output tokens over all samples; None if there is no cap.
    """

    completion_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A configuration that may be sent.

    Attributes:
        sent: what is sent.
        adjustments: every difference to what was wanted.
        wire: the same as request fields of the OpenAI chat completions protocol.
    """

    sent: DecodingParams
    adjustments: tuple[Adjustment, ...]
    wire: Mapping[str, Any]


def compile_params(
    *,
    caller: DecodingParams,
    proposal: Proposal,
    defaults: DecodingParams = DecodingParams(),
    capabilities: Capabilities,
    bounds: Bounds = Bounds(),
    allowance: Allowance = Allowance(),
) -> Compiled:
    """Turn wishes into a configuration the model takes and the money allows.

    Args:
        caller: explicit arguments of this call; they win and are not touched.
        proposal: what a policy wants.
        defaults: what applies where nobody has a wish, for example a token cap when a budget needs one.
        capabilities: what the model accepts.
        bounds: what a policy may choose.
        allowance: what the money left allows.
    """
    work = _Compilation(caller=caller, capabilities=capabilities, values=_wishes(proposal, defaults))
    work.let_caller_win()
    work.drop_unsupported()
    if proposal.plan is not None:
        work.fit_plan(proposal.plan)
    work.keep_in_bounds(bounds)
    work.resolve_conflicts()
    work.obey_effort_gate()
    work.fit_money(allowance)
    heads = None if proposal.heads is None else work.bound_heads(proposal.heads, bounds)
    sent = merge(caller, parse_params(work.values))
    return Compiled(sent=sent, adjustments=tuple(work.adjustments), wire=wire_fields(sent, capabilities, heads=heads))


def _wishes(proposal: Proposal, defaults: DecodingParams) -> dict[str, Any]:
    """What anyone but the caller wants. Heads replace every number that shapes the distribution."""
    values = merge(proposal.params, defaults).set_fields()
    if proposal.heads is not None:
        values = {name: value for name, value in values.items() if name not in SAMPLING_FIELDS}
    return values


class _Compilation:
    """The working state of one compilation; each method is one rule and records what it changes."""

    def __init__(self, *, caller: DecodingParams, capabilities: Capabilities, values: dict[str, Any]) -> None:
        self.caller = caller
        self.caps = capabilities
        self.values = values
        self.adjustments: list[Adjustment] = []

    def _change(self, name: str, sent: Any, why: Why, detail: str) -> None:
        wanted = self.values[name]
        if sent is None:
            del self.values[name]
        elif sent == wanted:
            return
        else:
            self.values[name] = sent
        self.adjustments.append(Adjustment(field=name, wanted=wanted, sent=sent, why=why, detail=detail))

    def let_caller_win(self) -> None:
        for name, value in self.caller.set_fields().items():
            if name in self.values:
                wanted = self.values.pop(name)
                if wanted != value:
                    self.adjustments.append(
                        Adjustment(field=name, wanted=wanted, sent=value, why="caller", detail="explicit argument")
                    )

    def drop_unsupported(self) -> None:
        for name in list(self.values):
            support = self.caps.support(name)
            if name == "n" and self.values[name] == 1:
                del self.values[name]  # one sample is every API's default; nothing is lost
            elif support == "ignored":
                self._change(name, None, "capability", f"{self.caps.model} takes {name} and ignores it")
            elif support == "rejected":
                self._change(name, None, "capability", f"{self.caps.model} does not take {name}")
        effort = self.values.get("reasoning_effort")
        if effort is not None and effort not in self.caps.efforts:
            nearest = _nearest_effort(effort, self.caps.efforts)
            self._change("reasoning_effort", nearest, "capability", f"known efforts: {', '.join(self.caps.efforts)}")

    def fit_plan(self, plan: Plan) -> None:
        """What a plan's words mean depends on whether the model thinks before it answers."""
        if plan.depth == "none" and self.caps.default_effort == "none" and "reasoning_effort" in self.values:
            # The least effort a plan can name would switch on what is off, and close the gate for sampling.
            self._change("reasoning_effort", None, "capability", f"{self.caps.model} does not think unless asked to")
        if self.caps.efforts and self._effort() != "none" and "max_tokens" in self.values:
            # A plan's cap is about the visible answer, but hidden reasoning counts against it.
            wider = self.values["max_tokens"] * REASONING_ROOM
            self._change("max_tokens", wider, "capability", "hidden reasoning counts too")

    def _effort(self) -> str | None:
        return self.caller.reasoning_effort or self.values.get("reasoning_effort") or self.caps.default_effort

    def keep_in_bounds(self, bounds: Bounds) -> None:
        for name in sorted(self.values, key=lambda name: name == "temperature"):  # its floor depends on n
            self._clamp(name, bounds.interval(name), "bound", "allowed {} to {}")
            self._clamp(name, self._model_range(name), "capability", f"{self.caps.model} takes {{}} to {{}}")
            allowed = bounds.interval(name)
            if allowed is not None and not allowed.low <= self.values[name] <= allowed.high:
                self._change(name, None, "bound", f"nothing {self.caps.model} takes is inside the allowed range")
        effort = self.values.get("reasoning_effort")
        if effort is not None and effort not in bounds.efforts:
            usable = tuple(level for level in bounds.efforts if level in self.caps.efforts)
            self._change("reasoning_effort", _nearest_effort(effort, usable), "bound", "outside the allowed efforts")

    def _clamp(self, name: str, interval: Interval | None, why: Why, detail: str) -> None:
        if interval is not None:
            low, high = f"{interval.low:g}", f"{interval.high:g}"
            self._change(name, interval.clamp(self.values[name]), why, detail.format(low, high))

    def _model_range(self, name: str) -> Interval | None:
        """The interval the model takes for one field, given the others."""
        interval = self.caps.ranges.get(name)
        if name == "max_tokens" and self.caps.max_output_tokens is not None:
            return Interval(low=1, high=self.caps.max_output_tokens)
        floor = self.caps.n_needs_temperature
        if name == "temperature" and floor is not None and (self.caller.n or self.values.get("n", 1)) > 1:
            low, high = (interval.low, interval.high) if interval else (0, 2)
            return Interval(low=max(floor, low), high=high)
        return interval

    def resolve_conflicts(self) -> None:
        for group in self.caps.exclusive:
            held = [name for name in group if getattr(self.caller, name) is not None]
            keep = held[0] if held else next((name for name in group if name in self.values), None)
            for name in group:
                if name != keep and name in self.values:
                    self._change(name, None, "conflict", f"{self.caps.model} does not take it together with {keep}")
        floor, temperature = self.caps.n_needs_temperature, self.caller.temperature
        if floor is not None and temperature is not None and temperature < floor and self.values.get("n", 1) > 1:
            self._change("n", None, "conflict", f"{self.caps.model} takes n > 1 only from temperature {floor:g} on")

    def obey_effort_gate(self) -> None:
        """Runs when the effort is settled: what opens the gate may have been taken away by a bound or a conflict."""
        if not self.caps.sampling_needs_effort_none:
            return
        fixed = [name for name in SAMPLING_FIELDS if getattr(self.caller, name) is not None]
        if fixed and self.caps.default_effort == "none" and self.values.get("reasoning_effort", "none") != "none":
            self._change("reasoning_effort", None, "conflict", f"would make {self.caps.model} refuse {fixed[0]}")
        effort = self._effort()
        for name in SAMPLING_FIELDS:
            if effort != "none" and name in self.values:
                detail = "taken only with reasoning_effort='none', never switched off for it"
                self._change(name, None, "capability", detail)

    def fit_money(self, allowance: Allowance) -> None:
        """Two whole answers are worth more than ten cut ones, so samples give way before the token cap does."""
        total = allowance.completion_tokens
        if total is None:
            return
        n = self.caller.n or self.values.get("n", 1)
        tokens = self.caller.max_tokens or self.values.get("max_tokens")
        if tokens is None or n * tokens <= total:
            return
        if self.caller.n is None and "n" in self.values:
            n = max(total // tokens, 1)
            self._change("n", n, "budget", f"{total} output tokens are affordable")
        if self.caller.max_tokens is None and "max_tokens" in self.values and n * tokens > total:
            self._change("max_tokens", max(total // n, 1), "budget", f"{total} output tokens are affordable")

    def bound_heads(self, heads: HeadBounds, bounds: Bounds) -> HeadBounds:
        """A server's heads are a policy too: they choose inside the bounds, also where the policy named none.

        A number the caller insists on gets no limits, because a server applies limits to the request's numbers as well.
        """
        inside = HeadBounds(
            temperature=None
            if self.caller.temperature is not None
            else (heads.temperature or bounds.temperature).within(bounds.temperature),
            top_p=None if self.caller.top_p is not None else (heads.top_p or bounds.top_p).within(bounds.top_p),
        )
        sent = inside.as_dict()
        for name, wanted in heads.as_dict().items():
            if wanted != sent.get(name):
                why: Why = "bound" if name in sent else "caller"
                self.adjustments.append(
                    Adjustment(field=name, wanted=wanted, sent=sent.get(name), why=why, detail="limits of the heads")
                )
        return inside


def _nearest_effort(wanted: str, known: tuple[str, ...]) -> str | None:
    """The known effort closest to the wanted one, the cheaper one on a tie, never "none" unless it was asked for."""
    rank = EFFORTS.index(wanted)
    usable = [level for level in known if level != "none" or wanted == "none"]
    return min(usable, key=lambda level: (abs(EFFORTS.index(level) - rank), EFFORTS.index(level)), default=None)


def wire_fields(
    params: DecodingParams, capabilities: Capabilities, *, heads: HeadBounds | None = None
) -> dict[str, Any]:
    """Request fields of the OpenAI chat completions protocol for ``params``.

    The token cap takes the name the endpoint knows. Fields outside the protocol (top_k, min_p, repetition_penalty) stand
    beside the others, as servers of open-weight models expect them. Heads travel in the ``selfreg`` extension.
    """
    wire = params.as_dict()
    if "max_tokens" in wire:
        wire[capabilities.token_cap_field] = wire.pop("max_tokens")
    if heads is not None:
        wire["selfreg"] = {"mode": "auto", **heads.as_dict()}
    return wire
