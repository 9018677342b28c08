"""Which step of which agent a model call is, as the name of a task: requests of one step share one configuration.

A name reads like a path::

    support/start+tools             agent "support" reads a question and may call tools
    support/after:search+tools      the tool "search" has just answered
    triage/support/start            the agent runs as, or inside, the node "triage" of a larger graph
    support/continued               the last word was a model's: its own, or that of the agent before it
    support/start+format            it must answer in a schema
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.config import get_config

from selfreg_sdk.langchain.requests import PLAN, TASK

_LONGEST = 160
"""Characters of a task name; a longer one is cut and told apart by a hash."""

_AMBIGUOUS = str.maketrans({"|": "-", "/": "-", "\n": " ", "\r": " "})


def run_config() -> Mapping[str, Any]:
    """The config of the running graph; empty outside one."""
    try:
        return get_config()
    except RuntimeError:
        return {}


@contextmanager
def named(task: str) -> Iterator[None]:
    """Let selfreg's models inside the block answer for ``task``, and plan it also where tools or formats are given.

    In the metadata of the config, as a user would say it, and not among the request's settings: those would travel on to
    whatever model a middleware further in puts in place of ours, and to its provider.
    """
    config = var_child_runnable_config.get() or RunnableConfig()
    metadata = {PLAN: True, **(config.get("metadata") or {}), TASK: task}
    token = var_child_runnable_config.set({**config, "metadata": metadata})
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def step_name(request: ModelRequest[Any], agent: str | None = None) -> str:
    """The task name of an agent's model call.

    Args:
        request: the call.
        agent: name of the agent; None takes the one given to ``create_agent``, else "agent".
    """
    metadata = run_config().get("metadata") or {}
    who = agent or metadata.get("lc_agent_name") or "agent"
    path = [metadata.get(TASK), *_outer_nodes(metadata.get("langgraph_checkpoint_ns") or "")]
    parts = [str(part).translate(_AMBIGUOUS) for part in (*path, who) if part]
    distinct = [part for part, following in zip(parts, [*parts[1:], None], strict=True) if part != following]
    name = "/".join([*distinct, _situation(request).translate(_AMBIGUOUS)])
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _outer_nodes(namespace: str) -> Iterator[str]:
    """Names of the nodes around the agent's own: "triage:<id>|1|model:<id>" is inside "triage"."""
    for part in namespace.split("|")[:-1]:
        if not part.isdigit():  # a number counts graphs that one node called
            yield part.rpartition(":")[0] or part


def _situation(request: ModelRequest[Any]) -> str:
    """What has just happened, and what the model may do about it."""
    tools: set[str] = set()
    for message in reversed(request.messages):
        if not isinstance(message, ToolMessage):
            break
        tools.add(message.name or "tool")
    if tools:
        step = f"after:{','.join(sorted(tools))}"
    else:
        step = "continued" if request.messages and isinstance(request.messages[-1], AIMessage) else "start"
    offered = "+tools" if request.tools else ""
    return step + offered + ("+format" if request.response_format is not None else "")
