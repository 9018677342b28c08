"""The planning call in LangChain's traces: a model run of its own, nested in the run of the answer it is made for.

Managers of model runs hand out no children, and a stream is made without any manager at all, so what the plan's run needs
from its parent is gathered here: who listens, and under which run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.callbacks.base import BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, LLMResult

from selfreg_sdk.booking import CallSpec
from selfreg_sdk.langchain.messages import usage_metadata
from selfreg_sdk.planner import Planned

RunManager = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun

PLAN_RUN = "selfreg plan"
"""Name of the run, and what stands under "lc_source" in its metadata."""

_TAGS = ["nostream", "selfreg:plan"]
"""The first keeps the run out of LangGraph's message streams."""

_SERIALIZED = {"lc": 1, "type": "not_implemented", "id": ["selfreg_sdk", "planner", "Planner"], "name": PLAN_RUN}


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The run of the answer, as far as a run inside it needs to know.

    Attributes:
        run_id: of the answer's run.
        handlers: who listens to it; a model's own listeners hear of its plans too, because they are its calls.
        tags: inherited by runs inside it.
        metadata: likewise.
    """

    run_id: UUID
    handlers: Sequence[BaseCallbackHandler]
    tags: Sequence[str] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, manager: BaseCallbackManager | RunManager, run_id: UUID | None = None) -> Parent:
        """What a manager knows.

        Args:
            manager: of the run itself, or the one that will start it.
            run_id: of the run, where the manager is the one that will start it.
        """
        return cls(
            run_id=manager.run_id if run_id is None else run_id,  # type: ignore[union-attr]  # given where it has none
            handlers=manager.handlers,
            tags=manager.inheritable_tags,
            metadata=manager.inheritable_metadata,
        )


class PlanRun:
    """Shows one planning call; a `selfreg_sdk.planner.PlanWatch`."""

    def __init__(self, parent: Parent, *, provider: str) -> None:
        """Nothing happens until the call starts.

        Args:
            parent: the run of the answer.
            provider: LangSmith's name for who plans.
        """
        self._parent = parent
        self._provider = provider
        self._run: CallbackManagerForLLMRun | None = None
        self._arun: AsyncCallbackManagerForLLMRun | None = None
        self._model = ""

    def started(self, spec: CallSpec) -> None:
        """Start the run."""
        messages, about = self._begin(spec)
        manager = CallbackManager(**self._heirs())
        (self._run,) = manager.on_chat_model_start(_SERIALIZED, [messages], **about)

    def ended(self, planned: Planned) -> None:
        """End it; a reply that holds no plan is still a reply, and its tokens count."""
        if self._run is None:
            return
        if planned.error is None:
            self._run.on_llm_end(self._result(planned))
        else:
            self._run.on_llm_error(planned.error, response=LLMResult(generations=[]))

    async def astarted(self, spec: CallSpec) -> None:
        """`started` for asyncio."""
        messages, about = self._begin(spec)
        manager = AsyncCallbackManager(**self._heirs())
        (self._arun,) = await manager.on_chat_model_start(_SERIALIZED, [messages], **about)

    async def aended(self, planned: Planned) -> None:
        """`ended` for asyncio."""
        if self._arun is None:
            return
        if planned.error is None:
            await self._arun.on_llm_end(self._result(planned))
        else:
            await self._arun.on_llm_error(planned.error, response=LLMResult(generations=[]))

    def _heirs(self) -> dict[str, Any]:
        """Who listens to the run; its own tags and metadata go no further down."""
        about = {
            "lc_source": "selfreg_plan",
            "ls_provider": self._provider,
            "ls_model_name": self._model,
            "ls_model_type": "chat",
            "ls_integration": "langchain_chat_model",
        }
        return {
            "handlers": list(self._parent.handlers),
            "inheritable_handlers": [],
            "parent_run_id": self._parent.run_id,
            "tags": [*dict.fromkeys([*self._parent.tags, *_TAGS])],
            "metadata": {**_without_settings(self._parent.metadata), **about},
        }

    def _begin(self, spec: CallSpec) -> tuple[list[BaseMessage], dict[str, Any]]:
        self._model = spec.model
        sent = {name: value for name, value in spec.payload.items() if name != "messages"}
        return convert_to_messages(spec.payload["messages"]), {
            "invocation_params": sent,
            "options": {"stop": None},
            "name": PLAN_RUN,
            "batch_size": 1,
        }

    def _result(self, planned: Planned) -> LLMResult:
        # The plan, not the reply it was read from: that may quote the prompt, which nobody asked to have repeated.
        message = AIMessage(
            content="" if planned.plan is None else planned.plan.to_json(),
            usage_metadata=None if planned.usage is None else usage_metadata(planned.usage),
            response_metadata={"model_name": self._model, "selfreg_plan": _told(planned)},
        )
        return LLMResult(generations=[[ChatGeneration(message=message)]])


def _told(planned: Planned) -> dict[str, Any]:
    cost = None if planned.cost is None else str(planned.cost)
    return {"cost_usd": cost, "problem": planned.problem}


def _without_settings(metadata: dict[str, Any]) -> dict[str, Any]:
    """Without the answer's own decoding settings, which LangChain lets runs inside it inherit."""
    return {name: value for name, value in metadata.items() if not name.startswith("ls_")}
