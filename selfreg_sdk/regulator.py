"""The way of a request, up to the point where it is sent: task key, facts, proposal, configuration.

The regulator looks facts up (in the store, or by a planning call), lets the policy propose and compiles the proposal. It never
sends the answering request itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any

from policies import (
    Allowance,
    Bounds,
    Capabilities,
    Compiled,
    DecodingParams,
    Facts,
    Policy,
    Proposal,
    TaskKey,
    compile_params,
)
from selfreg_sdk.booking import Books, CallSpec
from selfreg_sdk.errors import ContextLengthExceeded, ParameterRejected
from selfreg_sdk.facts import FactFinder, Request
from selfreg_sdk.planner import Planned
from selfreg_sdk.prices import prompt_token_bound
from selfreg_sdk.store.capabilities import LearnedCapabilities

FALLBACK_MAX_TOKENS = 1024
"""Token cap of a request under a budget for which nobody chose one: without a cap its cost would have no limit."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What will be sent for a request, and why.

    Attributes:
        request: what was asked for.
        task: its key.
        proposal: what the policy wants.
        compiled: what is sent and every difference to what was wanted.
        capabilities: what the model is known to accept.
        planned: the planning call made for this request, if there was one.
        would_plan: the planning call that would come first (only in a decision made without network).
        rejected: fields the provider refused during this request.
    """

    request: Request
    task: TaskKey
    proposal: Proposal
    compiled: Compiled
    capabilities: Capabilities
    planned: Planned | None = None
    would_plan: CallSpec | None = None
    rejected: tuple[str, ...] = ()

    @property
    def payload(self) -> dict[str, Any]:
        """The request body as it is sent."""
        return {**self.request.body, **self.compiled.wire}

    def sends(self, field: str) -> bool:
        """Whether a decoding parameter is among those sent."""
        return getattr(self.compiled.sent, field, None) is not None

    @property
    def plan_cost(self) -> Decimal | None:
        """USD spent on planning for this request; None if unknown."""
        return Decimal(0) if self.planned is None else self.planned.cost


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

    def decide(self, request: Request) -> Decision:
        """Decide, with a planning call if the policy needs one and none is stored.

        Raises:
            ConfigError: a task name that is not usable, or an unknown price under a budget.
        """
        facts, planned = self._facts.recall(request), None
        if self._policy.missing(facts) == "plan":
            plan, planned = self._facts.plan(request, facts.task)
            facts = facts.learn("plan", plan)
        return self._decision(request, facts, planned)

    async def adecide(self, request: Request) -> Decision:
        """`decide` for asyncio; store work runs in threads."""
        facts, planned = await asyncio.to_thread(self._facts.recall, request), None
        if self._policy.missing(facts) == "plan":
            plan, planned = await self._facts.aplan(request, facts.task)
            facts = facts.learn("plan", plan)
        return await asyncio.to_thread(self._decision, request, facts, planned)

    def foresee(self, request: Request) -> Decision:
        """Decide without network: where a planning call would come first, the decision shows what its failure leads to."""
        facts = self._facts.recall(request)
        would_plan = self._policy.missing(facts) == "plan" and self._facts.may_plan(request)
        decision = self._decision(request, facts.learn("plan", facts.plan), None)
        return replace(decision, would_plan=self._facts.spec(request, facts.task) if would_plan else None)

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
        return replace(
            decision,
            capabilities=capabilities,
            compiled=self._compile(decision.request, decision.proposal, capabilities),
        )

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
        capabilities = self._capabilities(self._learned.learned(self.endpoint, self.model))
        return replace(
            decision,
            capabilities=capabilities,
            compiled=self._compile(decision.request, decision.proposal, capabilities),
            rejected=(*decision.rejected, refused),
        )

    def _decision(self, request: Request, facts: Facts, planned: Planned | None) -> Decision:
        proposal = self._policy.propose(facts)
        if proposal is None:
            proposal = Proposal(params=DecodingParams(n=facts.task.aggregation.n), source="default")
        capabilities = self._capabilities(self._learned.learned(self.endpoint, self.model))
        return Decision(
            request=request,
            task=facts.task,
            proposal=proposal,
            compiled=self._compile(request, proposal, capabilities),
            capabilities=capabilities,
            planned=planned,
        )

    def _compile(self, request: Request, proposal: Proposal, capabilities: Capabilities) -> Compiled:
        defaults = self._defaults
        if self._books.budgets and defaults.max_tokens is None:
            defaults = defaults.replace(max_tokens=min(FALLBACK_MAX_TOKENS, self._bounds.max_tokens))
        free = partial(
            compile_params,
            caller=request.caller,
            proposal=proposal,
            defaults=defaults,
            capabilities=capabilities,
            bounds=replace(self._bounds, n=max(self._bounds.n, request.aggregation.n)),
        )
        wanted = free()
        if not self._books.budgets:
            return wanted
        # The fields sent count as prompt in a quote, so what is affordable is measured with them in place.
        prompt = prompt_token_bound({**request.body, **wanted.wire})
        affordable = self._books.affordable_tokens(model=self.model, prompt_tokens=prompt)
        return free(allowance=Allowance(completion_tokens=affordable))
