"""The way of a request, up to the point where it is sent: task key, facts, proposal, configuration.

The regulator looks facts up (in the store, or by a planning call), lets the policy propose and compiles the proposal. It never
sends the answering request itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from policies import (
    Allowance,
    Bounds,
    Capabilities,
    Compiled,
    DecodingParams,
    Facts,
    PlanFact,
    Policy,
    Proposal,
    TaskKey,
    compile_params,
)
from policies.base import FactName
from selfreg_sdk.booking import Books
from selfreg_sdk.decision import Decision
from selfreg_sdk.errors import ContextLengthExceeded, ParameterRejected
from selfreg_sdk.facts import FactFinder, Request
from selfreg_sdk.planner import Planned
from selfreg_sdk.store.capabilities import LearnedCapabilities

K = TypeVar("K")
V = TypeVar("V")

_MOST_KEPT = 4096

FALLBACK_MAX_TOKENS = 1024
"""Token cap of a request under a budget for which nobody chose one: without a cap its cost would have no limit."""


class Regulator:
    """Decides how the requests to one model are decoded.

    Args:
        endpoint: where the model answers; learned capabilities belong to the pair.
        books: budgets and prices.
        facts: looks up what the policy wants to know.
        learned: what endpoints refused before.
        policy: decides.
        defaults: apply where nobody has a wish.
        bounds: what the policy may choose.
        capabilities: from learned facts to what the model accepts.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        books: Books,
        facts: FactFinder,
        learned: LearnedCapabilities,
        policy: Policy,
        defaults: DecodingParams,
        bounds: Bounds,
        capabilities: Callable[[Mapping[str, str]], Capabilities],
    ) -> None:
        self.endpoint = endpoint
        self.model = facts.model
        self._books = books
        self._facts = facts
        self._learned = learned
        self._policy = policy
        self._defaults = defaults
        self._bounds = bounds
        self._capabilities = capabilities
        self._accepted: tuple[Mapping[str, str], Capabilities] | None = None
        self._wishes: dict[int, tuple[Facts, FactName | None, Proposal | None]] = {}
        self._planless: dict[int, tuple[Facts, Facts]] = {}
        self._compilations: dict[tuple[Any, ...], tuple[Proposal, Capabilities, Compiled]] = {}

    def decide(self, request: Request) -> Decision:
        """Decide, with a planning call if the policy needs one and none is stored.

        Raises:
            ConfigError: a task name that is not usable, or an unknown price under a budget.
        """
        facts, planned = self._recall(request), None
        if self._wanted(facts)[0] == "plan":
            plan, planned = self._facts.plan(request, facts.task)
            facts = self._with_plan(facts, plan)
        return self._affordable(self._decision(request, facts, planned, self._accepts()))

    async def adecide(self, request: Request) -> Decision:
        """`decide` for asyncio: plain computation where facts are remembered, otherwise store work runs in threads."""
        facts, planned = await self._arecall(request), None
        if self._wanted(facts)[0] == "plan":
            plan, planned = await self._facts.aplan(request, facts.task)
            facts = self._with_plan(facts, plan)
        return await self._aaffordable(self._decision(request, facts, planned, await self._aaccepts()))

    def settled(self, request: Request) -> Decision | None:
        """The decision, if it takes no planning call; reads the store at most."""
        facts = self._without_plan(request, self._recall(request))
        if facts is None:
            return None
        return self._affordable(self._decision(request, facts, None, self._accepts()))

    async def asettled(self, request: Request) -> Decision | None:
        """`settled` for asyncio."""
        facts = self._without_plan(request, await self._arecall(request))
        if facts is None:
            return None
        return await self._aaffordable(self._decision(request, facts, None, await self._aaccepts()))

    def _recall(self, request: Request) -> Facts:
        """The facts the store holds: those of the tuned configuration where it is what decides."""
        tuned = self._facts.tuned(request)
        return tuned if tuned is not None and self._takes(request, tuned) else self._facts.recall(request)

    async def _arecall(self, request: Request) -> Facts:
        """`_recall` for asyncio."""
        tuned = await self._facts.atuned(request)
        return tuned if tuned is not None and self._takes(request, tuned) else await self._facts.arecall(request)

    def _takes(self, request: Request, tuned: Facts) -> bool:
        """Whether the policy proposes the tuned configuration; calls of tools are no ballots, so with tools only one sample."""
        if tuned.tuned_config is None or (tuned.task.aggregation.n > 1 and request.body.get("tools")):
            return False
        proposal = self._wanted(tuned)[1]
        return proposal is not None and proposal.config_version == tuned.tuned_config.config_version

    def _without_plan(self, request: Request, facts: Facts) -> Facts | None:
        """The facts to decide on, None if a plan comes first."""
        if self._wanted(facts)[0] != "plan":
            return facts
        if self._facts.may_plan(request) and not self._facts.rests(facts.task):
            return None
        return self._with_plan(facts, None)

    def foresee(self, request: Request) -> Decision:
        """Decide without network: where a planning call would come first, the decision shows what its failure leads to."""
        facts = self._recall(request)
        may_plan = self._wanted(facts)[0] == "plan" and self._facts.may_plan(request)
        rests = may_plan and self._facts.rests(facts.task)
        facts = self._with_plan(facts, facts.plan)
        decision = self._affordable(self._decision(request, facts, None, self._accepts()))
        spec = self._facts.spec(request, facts.task) if may_plan and not rests else None
        return replace(decision, would_plan=spec, plan_rests=rests)

    def concede(self, decision: Decision, refusal: ParameterRejected | ContextLengthExceeded) -> Decision:
        """The decision after the provider refused it, where the refusal is about something of ours.

        Raises:
            ParameterRejected, ContextLengthExceeded: it is about something of the caller's, or was conceded already.
        """
        if isinstance(refusal, ParameterRejected):
            return self.without(decision, refusal)
        return self.shortened(decision, refusal)

    def shortened(self, decision: Decision, exc: ContextLengthExceeded) -> Decision:
        """The decision with a token cap that fits the context window, if the cap is ours and the provider named the room.

        Not remembered: the room depends on the prompt.

        Raises:
            ContextLengthExceeded: nothing of ours is too long.
        """
        cap = decision.compiled.sent.max_tokens
        if decision.request.caller.max_tokens is not None or cap is None or not exc.room or exc.room >= cap:
            raise exc
        capabilities = replace(decision.capabilities, max_output_tokens=exc.room)
        return self._anew(decision, capabilities)

    def without(self, decision: Decision, exc: ParameterRejected) -> Decision:
        """The decision after the provider refused a field: remembered for this model and endpoint, and not sent again.

        Raises:
            ParameterRejected: the field is the caller's own, or not one of ours, or was dropped already.
        """
        refused = exc.param or ""
        capped = refused in ("max_tokens", "max_completion_tokens")
        field = "max_tokens" if capped else refused
        # The caller's token cap may be sent under its other name; any other value of the caller's is theirs to change.
        ours = decision.sends(field) and (capped or getattr(decision.request.caller, field, None) is None)
        if not ours or refused in decision.rejected:
            raise exc
        self._learned.learn(self.endpoint, self.model, refused, "rejected", str(exc))
        return replace(self._anew(decision, self._accepts()), rejected=(*decision.rejected, refused))

    # -- from facts to what is sent; what depends only on facts that did not change is worked out once -----------------

    def _decision(
        self, request: Request, facts: Facts, planned: Planned | None, capabilities: Capabilities
    ) -> Decision:
        """What would be sent if money were no object."""
        proposal = self._wanted(facts)[1]
        if proposal is None:  # the policy misses what nobody can find out
            proposal = self._policy.propose(facts) or _of_nobody(facts)
        return Decision(
            model=self.model,
            request=request,
            task=facts.task,
            proposal=proposal,
            compiled=self._unpaid(request, facts.task, proposal, capabilities),
            capabilities=capabilities,
            planned=planned,
        )

    def _anew(self, decision: Decision, capabilities: Capabilities) -> Decision:
        """The decision for a model that accepts something else."""
        compiled = self._unpaid(decision.request, decision.task, decision.proposal, capabilities)
        return self._affordable(replace(decision, capabilities=capabilities, compiled=compiled))

    def _wanted(self, facts: Facts) -> tuple[FactName | None, Proposal | None]:
        """The fact that is missing, and the proposal unless that is the plan; policies are pure, so they are asked once."""
        known = self._wishes.get(id(facts))
        if known is not None and known[0] is facts:  # an id may be that of an object long gone
            return known[1:]
        missing = self._policy.missing(facts)
        proposal = None if missing == "plan" else self._policy.propose(facts) or _of_nobody(facts)
        _keep(self._wishes, id(facts), (facts, missing, proposal))
        return missing, proposal

    def _with_plan(self, facts: Facts, plan: PlanFact | None) -> Facts:
        """The facts with a plan, or with the knowledge that there is none: then the same as for the request before."""
        if plan is not None:
            return facts.learn("plan", plan)
        known = self._planless.get(id(facts))
        if known is None or known[0] is not facts:
            known = facts, facts.learn("plan", None)
            _keep(self._planless, id(facts), known)
        return known[1]

    def _accepts(self) -> Capabilities:
        """What the model accepts."""
        return self._given(self._learned.learned(self.endpoint, self.model))

    async def _aaccepts(self) -> Capabilities:
        """`_accepts` for asyncio."""
        return self._given(await self._learned.alearned(self.endpoint, self.model))

    def _given(self, learned: Mapping[str, str]) -> Capabilities:
        known = self._accepted
        if known is None or known[0] is not learned:
            self._accepted = known = learned, self._capabilities(learned)
        return known[1]

    def _unpaid(self, request: Request, task: TaskKey, proposal: Proposal, capabilities: Capabilities) -> Compiled:
        key = id(proposal), id(capabilities), request.caller, task.aggregation.n, bool(self._books.limits)
        known = self._compilations.get(key)
        # An id may be that of an object long gone.
        if known is not None and known[0] is proposal and known[1] is capabilities:
            return known[2]
        compiled = self._compiled(request, task, proposal, capabilities, Allowance())
        _keep(self._compilations, key, (proposal, capabilities, compiled))
        return compiled

    def _compiled(
        self, request: Request, task: TaskKey, proposal: Proposal, capabilities: Capabilities, allowance: Allowance
    ) -> Compiled:
        defaults = self._defaults
        if self._books.limits and defaults.max_tokens is None:
            defaults = defaults.replace(max_tokens=min(FALLBACK_MAX_TOKENS, self._bounds.max_tokens))
        return compile_params(
            caller=request.caller,
            proposal=proposal,
            defaults=defaults,
            capabilities=capabilities,
            bounds=replace(self._bounds, n=max(self._bounds.n, task.aggregation.n)),
            allowance=allowance,
        )

    # -- money -------------------------------------------------------------------------------------------------------

    def _affordable(self, decision: Decision) -> Decision:
        """What the money left allows of it; reads the store where that is not plenty."""
        return decision if self._plenty(decision) else self._cut(decision)

    async def _aaffordable(self, decision: Decision) -> Decision:
        """`_affordable` for asyncio."""
        return decision if self._plenty(decision) else await asyncio.to_thread(self._cut, decision)

    def _plenty(self, decision: Decision) -> bool:
        return not self._books.limits or self._books.comfortable(self._books.quote(decision.call).worst)

    def _cut(self, decision: Decision) -> Decision:
        # The fields sent count as prompt in a quote, so what is affordable is measured with them in place.
        prompt = decision.call.prompt_tokens
        allowance = Allowance(completion_tokens=self._books.affordable_tokens(model=self.model, prompt_tokens=prompt))
        compiled = self._compiled(decision.request, decision.task, decision.proposal, decision.capabilities, allowance)
        return decision if compiled == decision.compiled else replace(decision, compiled=compiled)


def _of_nobody(facts: Facts) -> Proposal:
    """Where no policy has a wish."""
    return Proposal(params=DecodingParams(n=facts.task.aggregation.n), source="default")


def _keep(memory: dict[K, V], key: K, value: V) -> None:
    """Remember without limit of time, but not of number."""
    if len(memory) >= _MOST_KEPT:
        memory.clear()
    memory[key] = value
