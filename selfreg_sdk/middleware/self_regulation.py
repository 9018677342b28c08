"""SelfRegulationMiddleware: every step of an agent gets decoding settings of its own."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ContextT,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
    ResponseT,
)
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.types import Command

from policies import FIELDS, Bounds, Policy
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.langchain.regulate import Options, is_regulated, regulate
from selfreg_sdk.middleware.models import Wrappers, chat_of, original, planned_by
from selfreg_sdk.middleware.steps import named, step_name
from selfreg_sdk.prices import Prices

_REGULATED = frozenset(FIELDS) - {"n", "stop", "seed"}
"""What a policy may choose for a step of an agent: an agent takes one answer, and stop and seed are its author's."""


class SelfRegulationState(AgentState[ResponseT]):
    """Agent state with what was decided in the current run."""

    selfreg_steps: NotRequired[Annotated[dict[str, Any], UntrackedValue, PrivateStateAttr]]
    """Task name of a step to the record of its latest answer; not checkpointed, neither input nor output."""


class SelfRegulationMiddleware(AgentMiddleware[SelfRegulationState[ResponseT], ContextT, ResponseT]):
    """Decides the decoding settings of each step of an agent: planned on first sight, kept in the store from then on.

    Put it **last** in ``middleware=[...]``: only the innermost one sees the model that a router or fallback finally picked.
    It works with any chat model; ``model_settings`` of the request and arguments bound by others win over what it decides.
    What was decided stands in the answer's ``response_metadata["selfreg"]`` and, for the current run, in the private state
    ``selfreg_steps``.

    Args:
        agent: name of the agent in task names; None takes the one given to ``create_agent``.
        task: names the task of a request instead of the usual "agent/after:tool" (`selfreg_sdk.middleware.steps`).
        planner: who plans, as `ChatSelfReg` takes it; None leaves a `ChatSelfReg` its own, others plan for themselves.
        policy: decides instead of the usual chain: tuned configuration, else plan, else defaults.
        bounds: what a policy may choose.
        store: where configurations and the ledger are kept.
        prices: price overrides.
        max_retries: how often selfreg repeats a call that failed; 0 leaves that to a retry middleware.

    The last five are for models that are not `ChatSelfReg` yet.

    Raises:
        ConfigError: an argument cannot work.
    """

    state_schema = SelfRegulationState  # type: ignore[assignment]  # as its docs have it

    def __init__(
        self,
        *,
        agent: str | None = None,
        task: Callable[[ModelRequest[Any]], str] | None = None,
        planner: str | BaseChatModel | None = None,
        policy: Policy | None = None,
        bounds: Bounds = Bounds(),
        store: str | Path | None = None,
        prices: Prices | Path | None = None,
        max_retries: int | None = None,
    ) -> None:
        super().__init__()
        if agent is not None and not agent.strip():
            raise ConfigError(f"agent={agent!r}: give a name, or None for that of create_agent")
        if task is not None and not callable(task):
            raise ConfigError(f"task={task!r}: give a function from a ModelRequest to a task name")
        self._task: Callable[[ModelRequest[Any]], str] = task or partial(step_name, agent=agent)
        self._planner = planner
        self._options: Options = {
            "planner": "auto" if planner is None else planner,
            "policy": policy,
            "bounds": bounds,
            "store": store,
            "prices": prices,
            "max_retries": max_retries,
        }
        self._models = Wrappers(self._regulated)
        self._warned = False

    def wrap_model_call(
        self, request: ModelRequest[ContextT], handler: Callable[[ModelRequest[ContextT]], ModelResponse[ResponseT]]
    ) -> ModelResponse[ResponseT] | ExtendedModelResponse[ResponseT]:
        """Answer the step with settings of its own."""
        model = self._models.of(original(request.model))
        if not _open(model, request.model_settings):
            return handler(request)
        with named(task := self._task(request)):
            return self._noted(task, request, handler(request.override(model=model)))

    async def awrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], Awaitable[ModelResponse[ResponseT]]],
    ) -> ModelResponse[ResponseT] | ExtendedModelResponse[ResponseT]:
        """`wrap_model_call` for asyncio."""
        model = await self._models.aof(original(request.model))
        if not _open(model, request.model_settings):
            return await handler(request)
        with named(task := self._task(request)):
            return self._noted(task, request, await handler(request.override(model=model)))

    def _regulated(self, model: BaseChatModel) -> BaseChatModel:
        if not is_regulated(model):
            return regulate(model, **self._options)
        return model if self._planner is None else planned_by(model, self._planner)

    def _noted(
        self, task: str, request: ModelRequest[ContextT], response: ModelResponse[ResponseT]
    ) -> ModelResponse[ResponseT] | ExtendedModelResponse[ResponseT]:
        """The response, and what was decided for it as a state update."""
        answer = next((message for message in response.result if isinstance(message, AIMessage)), None)
        record = None if answer is None else answer.response_metadata.get("selfreg")
        if record is None:
            self._warn()
            return response
        known: Any = request.state.get("selfreg_steps") or {}
        return ExtendedModelResponse(response, Command(update={"selfreg_steps": {**known, task: record}}))

    def _warn(self) -> None:
        """Say once that somebody else answered: a middleware after this one replaced the model or the answer."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                "a step of the agent was not answered by the regulated model: "
                "put SelfRegulationMiddleware last in middleware=[...]",
                stacklevel=2,
            )


def _open(model: BaseChatModel, settings: dict[str, Any]) -> bool:
    """Whether the model takes, and the request leaves open, anything that a policy may choose."""
    chat = chat_of(model)
    if chat is None:
        return False
    fixed = set(settings) | ({"max_tokens"} if "max_completion_tokens" in settings else set())
    return bool(_REGULATED & chat._ready.target.capabilities({}).accepted - fixed)
