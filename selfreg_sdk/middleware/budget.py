"""BudgetMiddleware: hard caps on what an agent spends, per run, thread and user."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, get_args

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ContextT,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
    ResponseT,
    ToolCallRequest,
    hook_config,
)
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.runtime import Runtime as GraphRuntime
from langgraph.types import Command

from selfreg_sdk.ambient import Spending, ambient_budgets, spending_under
from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.langchain.regulate import Options
from selfreg_sdk.middleware.guard import only_counted_models
from selfreg_sdk.middleware.models import Wrappers, chat_of, counted
from selfreg_sdk.middleware.scopes import Caps, SoftLimit, UserOf, doubtful, used_up, usual_user
from selfreg_sdk.money import Budget
from selfreg_sdk.prices import Prices
from selfreg_sdk.runtime import runtime as open_runtime
from selfreg_sdk.store.location import locate

ExitBehavior = Literal["end", "error"]
Cap = str | int | Decimal | Budget


def _latest(_: Any, new: Any) -> Any:
    """Tools that run at the same time may each find a budget exhausted; one reason is enough."""
    return new


class BudgetState(AgentState[ResponseT]):
    """Agent state of the budgets; private, and kept by a checkpointer, so that a resumed run goes on under its own cap.

    A reducer has to stand last in ``Annotated``: LangGraph passes over one that does not.
    """

    selfreg_run: NotRequired[Annotated[str, PrivateStateAttr]]
    selfreg_over: NotRequired[Annotated[str | None, PrivateStateAttr, _latest]]


class BudgetMiddleware(AgentMiddleware[BudgetState[ResponseT], ContextT, ResponseT]):
    """Caps what an agent spends: per run, per thread, per user; a call whose worst case does not fit is not sent.

    Put it **first** in ``middleware=[...]``. Every paid call inside the agent's model and tool steps counts: answers, plans,
    retries, fallbacks, selfreg models inside tools, agents inside tools. Each is reserved at its worst case before it is
    sent, and settled at what the provider reports. Models that are not selfreg's are counted too and otherwise left as they
    are; what they may answer at most is shortened where less is affordable. Calls that other middleware makes between the
    steps (a summary before the model, for example) are outside: give their model a ``budget`` of its own.

    Args:
        run: cap of one run of the agent, like "0.05 USD"; a run that is interrupted and resumed is one run.
        thread: cap of all runs of one thread (``thread_id`` in the config).
        user: cap of all runs of one user, like "5 USD/day".
        user_of: names the user of a run; None takes ``user_id`` of the context or of the config.
        exit_behavior: "end" lets the agent stop with a last message that says which budget ended it; "error" raises
            `BudgetExceeded`.
        name: set before the names of the budgets; agents with the same name and store share the caps of thread and user.
        soft: part of a cap, like "0.8".
        on_soft: is told once for each budget that has reached it, with its name, USD used, and the cap.
        max_tokens: limit on the output of models that have none of their own; without any there is no worst case.
        uncounted: "error" refuses a LangChain model inside a step that selfreg does not count; "allow" lets it through,
            and then the caps do not hold for it.
        store: where money is counted; the models' own store has to be the same.
        prices: price overrides, for models that are not selfreg's.
        max_retries: how often selfreg repeats a failed call of such a model; 0 leaves that to a retry middleware.

    Raises:
        ConfigError: no cap, or an argument that cannot work.
    """

    state_schema = BudgetState  # type: ignore[assignment]  # as its docs have it

    def __init__(
        self,
        *,
        run: Cap | None = None,
        thread: Cap | None = None,
        user: Cap | None = None,
        user_of: UserOf | None = None,
        exit_behavior: ExitBehavior = "end",
        name: str = "",
        soft: str | Decimal = "0.8",
        on_soft: Callable[[str, Decimal, Decimal], None] | None = None,
        max_tokens: int = 1024,
        uncounted: Literal["error", "allow"] = "error",
        store: str | Path | None = None,
        prices: Prices | Path | None = None,
        max_retries: int | None = None,
    ) -> None:
        super().__init__()
        if exit_behavior not in get_args(ExitBehavior):
            raise ConfigError(f"exit_behavior={exit_behavior!r}: expected 'end' or 'error'")
        if uncounted not in ("error", "allow"):
            raise ConfigError(f"uncounted={uncounted!r}: expected 'error' or 'allow'")
        if max_tokens < 1:
            raise ConfigError(f"max_tokens={max_tokens!r} must be at least 1")
        run, thread, user = (None if cap is None else Budget.parse(cap) for cap in (run, thread, user))
        self._caps = Caps(
            run=run, thread=thread, user=user, user_of=user_of or usual_user, prefix=f"{name}/" if name else ""
        )
        self._exit = exit_behavior
        self._uncounted = uncounted
        if locate(store).memory:
            raise ConfigError(f"store={store!r}: the models' own would be another one; give a file or a database")
        self._meter = open_runtime(store).meter
        self._soft = None if on_soft is None else SoftLimit(soft, on_soft)
        options: Options = {"store": store, "prices": prices, "max_retries": max_retries}
        self._models = Wrappers(lambda model: counted(model, max_tokens=max_tokens, options=options))

    # -- between the steps --------------------------------------------------------------------------------------------

    def before_agent(self, state: BudgetState[ResponseT], runtime: GraphRuntime[ContextT]) -> dict[str, Any]:
        """Begin a run: it gets an id of its own, which a resumed run keeps because it does not begin again."""
        return {"selfreg_run": uuid.uuid4().hex, "selfreg_over": None}

    async def abefore_agent(self, state: BudgetState[ResponseT], runtime: GraphRuntime[ContextT]) -> dict[str, Any]:
        """`before_agent` for asyncio."""
        return self.before_agent(state, runtime)

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: BudgetState[ResponseT], runtime: GraphRuntime[ContextT]) -> dict[str, Any] | None:
        """End the run where a budget has ended it, or is used up, before a request is prepared."""
        over = state.get("selfreg_over")
        if over is None and (scopes := self._doubtful(state, runtime)):
            over = _none_left(used_up(self._meter, scopes))
        return _stopped(state, over)

    @hook_config(can_jump_to=["end"])
    async def abefore_model(
        self, state: BudgetState[ResponseT], runtime: GraphRuntime[ContextT]
    ) -> dict[str, Any] | None:
        """`before_model` for asyncio; the ledger is read in a thread."""
        over = state.get("selfreg_over")
        if over is None and (scopes := self._doubtful(state, runtime)):
            over = _none_left(await asyncio.to_thread(used_up, self._meter, scopes))
        return _stopped(state, over)

    # -- around the steps ---------------------------------------------------------------------------------------------

    def wrap_model_call(
        self, request: ModelRequest[ContextT], handler: Callable[[ModelRequest[ContextT]], ModelResponse[ResponseT]]
    ) -> ModelResponse[ResponseT] | ExtendedModelResponse[ResponseT]:
        """Answer the step under the budgets."""
        model = request.model if chat_of(request.model) else self._models.of(request.model)
        with self._spending(request.state, request.runtime) as spending:
            _check(model)
            try:
                response = handler(request.override(model=model))
            except BudgetExceeded as exc:
                return self._ended(spending, exc)
            return self._checked(spending, response)

    async def awrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], Awaitable[ModelResponse[ResponseT]]],
    ) -> ModelResponse[ResponseT] | ExtendedModelResponse[ResponseT]:
        """`wrap_model_call` for asyncio."""
        model = request.model if chat_of(request.model) else await self._models.aof(request.model)
        with self._spending(request.state, request.runtime) as spending:
            _check(model)
            try:
                response = await handler(request.override(model=model))
            except BudgetExceeded as exc:
                return self._ended(spending, exc)
            return self._checked(spending, response)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Let a tool, and the models and agents in it, spend under the same budgets."""
        with self._spending(request.state, request.runtime) as spending:
            try:
                answer = handler(request)
            except BudgetExceeded as exc:
                return self._answered(spending, exc, request)
            return self._checked_answer(spending, answer, request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """`wrap_tool_call` for asyncio."""
        with self._spending(request.state, request.runtime) as spending:
            try:
                answer = await handler(request)
            except BudgetExceeded as exc:
                return self._answered(spending, exc, request)
            return self._checked_answer(spending, answer, request)

    # -- how it is done -----------------------------------------------------------------------------------------------

    def _budgets(self, state: Mapping[str, Any], runtime: Any) -> dict[str, Budget]:
        # Only a hook that is called without its graph finds no run.
        return self._caps.budgets(state.get("selfreg_run") or uuid.uuid4().hex, runtime)

    @contextmanager
    def _spending(self, state: Mapping[str, Any], runtime: Any) -> Iterator[Spending]:
        with ExitStack() as stack:
            if self._uncounted == "error":
                stack.enter_context(only_counted_models())
            budgets = self._budgets(state, runtime)
            yield stack.enter_context(spending_under(budgets, ledger=self._meter))
            if self._soft is not None:
                self._soft.look(self._meter, budgets)

    def _doubtful(self, state: Mapping[str, Any], runtime: Any) -> dict[str, tuple[str, Budget]]:
        # Where the end is an error there is nothing to ask: the next call raises it, with what it would have needed.
        return {} if self._exit == "error" else doubtful(self._meter, self._budgets(state, runtime))

    def _ended(self, spending: Spending, exc: BudgetExceeded) -> ExtendedModelResponse[Any]:
        """The end of a run in place of an answer that does not fit."""
        if self._exit == "error" or not spending.owns(exc):
            raise exc
        over = _why(exc)
        return ExtendedModelResponse(
            ModelResponse(result=[AIMessage(content=over)]), Command(update={"selfreg_over": over, "jump_to": "end"})
        )

    def _checked(
        self, spending: Spending, response: ModelResponse[ResponseT]
    ) -> ModelResponse[ResponseT] | ExtendedModelResponse[ResponseT]:
        """The response, unless it only tells in words that a call did not fit: retries do that to every error."""
        exc = spending.refusal
        answered = any("selfreg" in message.response_metadata for message in response.result)
        return response if exc is None or answered else self._ended(spending, exc)

    def _answered(self, spending: Spending, exc: BudgetExceeded, request: ToolCallRequest) -> Command[Any]:
        """The end of a run in place of a tool's answer; the call gets one, since models refuse histories that lack it."""
        if self._exit == "error" or not spending.owns(exc):
            raise exc
        over, call = _why(exc), request.tool_call
        said = ToolMessage(content=over, tool_call_id=call["id"] or "", name=call["name"], status="error")
        return Command(update={"selfreg_over": over, "messages": [said]})

    def _checked_answer(
        self, spending: Spending, answer: ToolMessage | Command[Any], request: ToolCallRequest
    ) -> ToolMessage | Command[Any]:
        """The same for tools: what somebody between made an error message of is still the end of the run."""
        failed = isinstance(answer, ToolMessage) and answer.status == "error"
        return self._answered(spending, spending.refusal, request) if failed and spending.refusal else answer


_STOPPED = "The agent stopped:"


def _check(model: BaseChatModel) -> None:
    """Say at once, before anybody who repeats or replaces failed calls, what cannot be counted.

    Raises:
        ConfigError: the model counts in another store, or has no known price.
    """
    if (chat := chat_of(model)) is not None:
        ambient_budgets(chat.books.meter)
        chat.books.price(chat._ready.target.model)


def _none_left(found: tuple[str, Budget] | None) -> str | None:
    return None if found is None else f"{_STOPPED} budget {found[0]!r} of {found[1]} is used up."


def _why(exc: BudgetExceeded) -> str:
    return (
        f"{_STOPPED} budget {exc.scope!r} of {exc.cap} USD does not cover the next call "
        f"(spent {exc.spent} USD, held {exc.held} USD, needed up to {exc.wanted} USD)."
    )


def _stopped(state: Mapping[str, Any], over: str | None) -> dict[str, Any] | None:
    """The update that ends a run, with a last message if the model has not said why."""
    if over is None:
        return None
    messages = state.get("messages") or []
    told = bool(messages) and isinstance(messages[-1], AIMessage) and messages[-1].text == over
    return {"jump_to": "end", "messages": [] if told else [AIMessage(content=over)]}
