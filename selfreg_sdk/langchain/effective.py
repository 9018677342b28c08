"""What is sent for a call, as LangChain's traces and caches see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.language_models import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.outputs import ChatResult

from policies import DecodingParams
from selfreg_sdk.aggregate import plain
from selfreg_sdk.answering import describe
from selfreg_sdk.decision import Decision
from selfreg_sdk.langchain.call import Call
from selfreg_sdk.langchain.inner import InnerChannel
from selfreg_sdk.langchain.results import with_record


def tracing_params(
    call: Call | None,
    explicit: DecodingParams,
    *,
    inner: BaseChatModel | None,
    stop: list[str] | None,
    kwargs: Mapping[str, Any],
) -> LangSmithParams:
    """LangSmith's parameters: what is sent where it is decided, else what the caller insists on.

    A setting of the inner model's own counts only where it is known that nothing replaces it.

    Args:
        call: the call, if there is one.
        explicit: what the caller insists on in every call.
        inner: the inner model, if there is one.
        stop, kwargs: of the call.
    """
    decision = None if call is None else call.decision
    params = LangSmithParams(ls_model_type="chat")
    if inner is not None and decision is not None:
        params |= inner._get_ls_params(stop=stop)
    insisted = explicit if call is None else call.request.caller
    sent = insisted if decision is None else decision.compiled.sent
    for name, kinds in (("temperature", (int, float)), ("max_tokens", int)):
        value = getattr(sent, name)
        if call is None and isinstance(kwargs.get(name), kinds):
            value = kwargs[name]
        if value is not None:
            params[f"ls_{name}"] = value  # type: ignore[literal-required]  # the two names are among its keys
    if stopping := stop or list(sent.stop or ()):
        params["ls_stop"] = stopping
    return params


def invocation_params(call: Call | None) -> dict[str, Any]:
    """What traces show of a decided call beside its arguments."""
    if call is None or call.decision is None:
        return {}
    proposal = call.decision.proposal
    return {
        **call.decision.compiled.wire,
        "selfreg_source": proposal.source,
        "selfreg_config_version": proposal.config_version,
    }


def cache_identity(call: Call, *, output_version: str | None) -> str:
    """What LangChain's response cache tells answers to the same messages apart by: what is sent, and nothing else.

    Where a task, a plan or a policy leads to the same parameters on the same model, answers are shared; where one of
    them leads to others, never. So the decision comes first and the key after it: the first call of a task may plan before
    the cache is asked, later ones do not. Around an inner model the key is the one LangChain would take for that model with
    the parameters in place. How samples become one answer is part of it.
    """
    decision = call.decide()
    how, channel = decision.aggregation, call.channel
    sent: Any
    if isinstance(channel, InnerChannel):
        sent = channel.identity(decision.payload)
    else:
        sent = {name: value for name, value in decision.payload.items() if name != "messages"}
    parts = {
        "endpoint": channel.endpoint,
        "sent": sent,
        "aggregation": str(how),
        "chooses": _name(call.scorer) if how.kind in ("any", "best") else None,
        "ballots": _ballots(call, decision) if how.kind == "vote" else None,
        "output_version": output_version,
    }
    return json.dumps(parts, sort_keys=True, default=repr)


def from_cache(answer: ChatResult, call: Call) -> ChatResult:
    """An answer of LangChain's cache with the record of this call: nothing was paid but a plan, if one was made."""
    decision = call.decide()
    plan_cost = None if decision.plan_cost is None else str(decision.plan_cost)
    record = describe(decision) | {
        "cost_usd": plan_cost,
        "plan_cost_usd": plan_cost,
        "attempts": 0,
        "request_id": decision.request.id,
        "flags": ["langchain_cache"],
    }
    before = answer.generations[0].message.response_metadata.get("selfreg") or {}
    record |= {name: before[name] for name in _OF_SAMPLES if name in before}
    return with_record(answer, record)


_OF_SAMPLES = ("samples", "samples_of", "waves", "votes", "abstained", "decided_early")
"""Parts of a record that tell how the answer came about, whenever that was."""


def _ballots(call: Call, decision: Decision) -> Any:
    tuned = decision.proposal.notes.get("ballot")
    return tuned if call.vote_key is None and tuned is not None else _name(call.vote_key or plain)


def _name(function: Callable[..., Any] | None) -> str | None:
    """A name that stays the same between processes; functions without one have their address."""
    name = getattr(function, "__qualname__", "<")
    return repr(function) if "<" in name else f"{getattr(function, '__module__', '')}.{name}"
