"""What is decided about one request: what will be sent, how often, and why."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from policies import Aggregation, Capabilities, Compiled, Proposal, TaskKey
from selfreg_sdk.booking import CallSpec
from selfreg_sdk.facts import Request
from selfreg_sdk.payload import Payload
from selfreg_sdk.planner import Planned


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What will be sent for a request, and why.

    Attributes:
        model: the answering model.
        request: what was asked for.
        task: its key; how samples become the answer is part of it.
        proposal: what the policy wants.
        compiled: what is sent and every difference to what was wanted.
        capabilities: what the model is known to accept.
        planned: the planning call made for this request, if there was one.
        would_plan: the planning call that would come first (only in a decision made without network).
        plan_rests: it would, had planning this task not failed a short while ago (only in a decision made without network).
        rejected: fields the provider refused during this request.
    """

    model: str
    request: Request
    task: TaskKey
    proposal: Proposal
    compiled: Compiled
    capabilities: Capabilities
    planned: Planned | None = None
    would_plan: CallSpec | None = None
    plan_rests: bool = False
    rejected: tuple[str, ...] = ()

    @property
    def aggregation(self) -> Aggregation:
        """How samples become the answer: the caller's word, or that of the tuned configuration."""
        return self.task.aggregation

    @cached_property
    def one_by_one(self) -> bool:
        """Whether each sample takes a call of its own: several are needed, and the model does not take ``n``."""
        return self.aggregation.n > 1 and self.compiled.sent.n is None and self._refuses_n

    @property
    def samples(self) -> int:
        """How many are drawn, unless the answer is certain before."""
        return self.aggregation.n if self.one_by_one else self.compiled.sent.n or 1

    @property
    def _refuses_n(self) -> bool:
        return any(
            change.field == "n" and change.why in ("capability", "conflict") for change in self.compiled.adjustments
        )

    @property
    def payload(self) -> Payload:
        """The request body as it is sent."""
        return self.request.payload.replace(self.compiled.wire)

    @cached_property
    def call(self) -> CallSpec:
        """The paid call that carries it out, made once: its prompt is measured for the decision and for its reservation."""
        sent = self.compiled.sent
        return CallSpec(
            model=self.model,
            payload=self.payload,
            params=self.compiled.wire,
            max_tokens=sent.max_tokens,
            n=sent.n or 1,
            task_key=self.task.text,
            request_id=self.request.id,
            config_version=self.proposal.config_version,
        )

    def sends(self, field: str) -> bool:
        """Whether a decoding parameter is among those sent."""
        return getattr(self.compiled.sent, field, None) is not None

    @property
    def plan_cost(self) -> Decimal | None:
        """USD spent on planning for this request; None if unknown."""
        return Decimal(0) if self.planned is None else self.planned.cost
