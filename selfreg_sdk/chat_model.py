"""ChatSelfReg: a LangChain chat model that decides its own decoding parameters.

Alone it talks to any OpenAI-compatible endpoint; with ``inner`` it regulates another LangChain chat model. Everything it
decides, sends and pays goes through `selfreg_sdk.answering`; this file only speaks LangChain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError

from policies import FIELDS, Aggregation, Bounds, DecodingParams, Policy
from selfreg_sdk.aggregate import Scorer, VoteKey, plain
from selfreg_sdk.booking import Books
from selfreg_sdk.calls import Retry
from selfreg_sdk.client import Client
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.explanation import Explanation, explain
from selfreg_sdk.langchain.call import CALL, Call
from selfreg_sdk.langchain.calling import Calling, Stop
from selfreg_sdk.langchain.effective import invocation_params, tracing_params
from selfreg_sdk.langchain.profiles import profile_of
from selfreg_sdk.langchain.requests import argument_error, of_config, read_aggregation, read_params, read_request
from selfreg_sdk.langchain.schemas import Schema, Tool, ToolChoice
from selfreg_sdk.langchain.setup import CONNECTING, HARMLESS, Setup, inherit, set_up
from selfreg_sdk.langchain.tools import Method, with_schema, with_tools
from selfreg_sdk.prices import Prices
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.wire.connection import Timeouts
from selfreg_sdk.wire.transport import TransportName

if TYPE_CHECKING:
    from langchain_core.prompts import ChatPromptTemplate


class ChatSelfReg(Calling, BaseChatModel):
    """A chat model whose decoding parameters are planned, tuned or learned instead of hand-picked.

    Give a ``model`` (of OpenAI, or of any compatible ``base_url``), or an ``inner`` LangChain chat model. Decoding parameters
    given here or per call are explicit: they win and are sent as they are.

    Per call, ``config={"metadata": {"selfreg_task": "triage"}}`` names the task; requests of one task share one configuration.
    Without a name, the system prompt (or the prompt itself) tells the task.

    A planning call is a run of its own inside the run of the answer, with usage of its own. Calls with tools or formats of an
    answer are not planned unless they say ``selfreg_plan=True``; a stored configuration shapes them all the same. LangChain's
    response cache is keyed on what is sent, so the decision comes first and the cache is asked after it.

    Raises:
        ConfigError: something given cannot work; the message names the value.
    """

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, populate_by_name=True, hide_input_in_errors=True
    )

    model: str | None = None
    """Model id as the endpoint knows it; with ``inner`` it is the inner model's."""
    base_url: str | None = None
    """OpenAI-compatible endpoint; None is OpenAI's."""
    api_key: SecretStr | None = None
    """Key of the endpoint; never stored, logged or hashed."""
    inner: BaseChatModel | None = None
    """A LangChain model to regulate instead of calling an endpoint. What a policy decides replaces its own settings."""

    budget: str | int | Decimal | None = None
    """Hard cap, "2.00 USD", "0.50 USD/day" or "20 USD/month": a call whose worst case does not fit is not sent."""
    budget_name: str | None = None
    """Every call under this name in the same store counts against the cap, over processes and restarts."""
    store: str | Path | None = Field(None, repr=False, exclude=True)
    """SQLite path or database URL; None is SELFREG_STORE or the user's data folder."""
    prices: Prices | Path | None = None
    """Price overrides for models the price list does not know."""

    task: str | None = None
    """Name of the task of all calls, unless a call names its own."""
    aggregation: str | Aggregation = "first"
    """How samples become the answer: "first", "vote of 5", "any of 8", "best of 4". Said by nobody, it is as the task was tuned."""
    scorer: Scorer | None = None
    """Text to score, for "best" and "any"."""
    vote_key: VoteKey = plain
    """Text to ballot, for "vote"; None abstains. Said by nobody, it is as the task was tuned, else the text."""

    planner: str | BaseChatModel = "auto"
    """Who plans: "auto" = the model itself, "off" = nobody, a model id of the same endpoint, or another chat model."""
    policy: Policy | None = None
    """Decides instead of the usual chain: tuned configuration, else plan, else defaults."""
    bounds: Bounds = Bounds()
    """What a policy may choose."""
    defaults: DecodingParams = DecodingParams()
    """Apply where neither caller nor policy has a wish."""
    server: str | None = None
    """What serves ``base_url`` ("vllm", "ollama", "selfreg"), if it takes more than the protocol names."""
    transport: TransportName = "auto"
    """The library that speaks HTTP to the endpoint: "aiohttp", "openai", or the faster one that is installed."""
    timeouts: Timeouts | None = None
    timeout: float | None = None
    """Seconds one attempt may take; short for ``Timeouts(total=...)``. Around an inner model, its own client's hold."""
    retry: Retry = Retry()
    max_retries: int | None = None
    """Short for ``Retry(attempts=1 + max_retries)``."""
    streaming: bool = False
    """Stream even where one answer is asked for, as LangChain's other models do."""
    cache_answers: bool = False
    """Answer identical requests from the store, and keep answers there."""
    default_headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Sent with every request; treated as secret."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    n: int | None = None
    stop: tuple[str, ...] | list[str] | str | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    _explicit: DecodingParams = PrivateAttr()
    _how: Aggregation = PrivateAttr()
    _ready: Setup = PrivateAttr()
    _others: dict[str, Setup] = PrivateAttr(default_factory=dict)
    _profile_is_ours: bool = PrivateAttr(default=False)
    _identity: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as exc:
            raise argument_error(exc, type(self).model_fields) from None
        self._settle()

    def _settle(self, *, shared: Runtime | None = None, client: Client | None = None) -> None:
        """Check what was given together, and set up what answers, over a store and connections that are open already."""
        given = {name: value for name in FIELDS if (value := getattr(self, name)) not in (None, [], ())}
        self._explicit = read_params(given)
        self._how = read_aggregation(self.aggregation)
        if self.model is not None and self.inner is not None:
            raise ConfigError("give either model=<id> or inner=<LangChain chat model>, not both")
        self._check_scorer(self._how)
        inherit(self)
        self._ready, self._others = set_up(self, shared=shared, client=client), {}
        if self.profile is None:
            self.profile, self._profile_is_ours = profile_of(self._ready.target.capabilities({})), True
        self._identity = {**self._identifying_params, "_type": self._llm_type}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with ``update``, as pydantic makes it; what is updated takes effect, or is a `ConfigError`.

        It shares the open store, and the connections where they stay the same.
        """
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("_serialized", None)  # what LangChain's traces show of a model is kept with it
        if update and not HARMLESS.issuperset(update):
            if "profile" not in update and (self._profile_is_ours or "inner" in update):
                copy.profile, copy._profile_is_ours = copy._resolve_model_profile(), False
            shared = None if "store" in update else self._ready.shared
            copy._settle(shared=shared, client=None if CONNECTING.intersection(update) else self._ready.client)
        return copy

    # -- for users ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_task(cls, task: str, *, store: str | Path | None = None, **given: Any) -> Self:
        """The configuration that won the tuning of a task: its model, its endpoint, and per call its parameters and votes.

        ``llm.tuned_prompt | llm`` is the whole pipeline as it was tuned.

        Args:
            task: name of the task.
            store: where it was tuned; None as for the constructor.
            given: arguments of the constructor, which win; the API key is found as usual.

        Raises:
            ConfigError: nothing was tuned under this name, or an argument that cannot work.
        """
        from selfreg_sdk.langchain.tuned import given_by, opened, winner  # templates take long to import

        if given.get("inner") is not None:
            return cls(task=task, store=store, **given)
        stored = winner(task, opened(store))
        if stored.provenance.get("cascade") is not None:
            from selfreg_sdk.langchain.cascade import cascade_of  # a chat model itself, and more

            return cast(Self, cascade_of(stored, task=task, store=store, **given))
        return cls(task=task, store=store, **(given_by(stored) | given))

    @property
    def tuned_prompt(self) -> ChatPromptTemplate:
        """The prompt that this model's task was tuned with, for ``llm.tuned_prompt | llm``.

        Raises:
            ConfigError: the task has no name, or was not tuned for this model.
        """
        from selfreg_sdk.langchain.tuned import prompt_of, winner

        if self.task is None:
            raise ConfigError("no task is named, so no prompt was tuned for it: pass task=<the name of the tuned task>")
        return prompt_of(winner(self.task, self._ready.shared, model=self._ready.target.model))

    def explain(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Explanation:
        """What would be sent for ``input``, why, and at most at what cost; takes what ``invoke`` takes, sends nothing."""
        messages = self._convert_input(input).to_messages()
        call = self._read(messages, kwargs.pop("stop", None), of_config(config, kwargs))
        return explain(call.setup.answering, call.request)

    @property
    def books(self) -> Books:
        """Budgets, prices and the ledger behind this model."""
        return self._ready.answering.calls.books

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: ToolChoice = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools it may call: as ChatOpenAI binds them, and around an inner model as that one does."""
        given = {"tool_choice": tool_choice, "strict": strict, "parallel_tool_calls": parallel_tool_calls}
        return with_tools(self, tools, given, kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Method | None = None,
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """This model answering with objects of ``schema``: instances of a pydantic class, else dicts.

        Args:
            schema: pydantic class, TypedDict or JSON schema with a title; None for any JSON object ("json_mode").
            method: None is "json_schema", and around an inner model what that one prefers.
            include_raw: answer with the message as well: {"raw", "parsed", "parsing_error"}.
            strict: follow the schema exactly; None does so for pydantic classes with "json_schema".

        Raises:
            ConfigError: a schema or a combination that cannot work.
            Refused: while answering; the model declined. With ``include_raw`` it is the "parsing_error".
        """
        return with_schema(self, schema, method=method, include_raw=include_raw, strict=strict, kwargs=kwargs)

    # -- what LangChain asks ------------------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "selfreg" if self.inner is None else self.inner._llm_type

    @property
    def _identifying_params(self) -> dict[str, Any]:
        target = self._ready.target
        return {
            "model_name": target.model,
            "endpoint": target.endpoint,
            "task": self.task,
            "aggregation": str(self._how),
            "policy": repr(self.policy),
            "planner": self.planner if isinstance(self.planner, str) else self.planner._identifying_params,
            "bounds": repr(self.bounds),
            "defaults": self.defaults.set_fields(),
            "inner": None if self.inner is None else self.inner._identifying_params,
            **self._explicit.set_fields(),
        }

    def _get_invocation_params(self, stop: Stop = None, **kwargs: Any) -> dict[str, Any]:
        call = kwargs.pop(CALL, None)
        return {**self._identity, **invocation_params(call), "stop": stop, **kwargs}

    def _get_ls_params(self, stop: Stop = None, **kwargs: Any) -> LangSmithParams:
        """What is sent, as far as it is known before the call; `explain` tells the rest, and the record of the answer."""
        call, model = kwargs.pop(CALL, None), kwargs.get("model")
        params = tracing_params(call, self._explicit, inner=self.inner, stop=stop, kwargs=kwargs)
        params["ls_model_name"] = model if isinstance(model, str) else self._ready.target.model
        params["ls_provider"] = self._ready.provider
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        return None if self.inner is None else self.inner.profile

    def _read(self, messages: list[BaseMessage], stop: Stop, kwargs: Mapping[str, Any]) -> Call:
        setup = self._for_model(kwargs.get("model"))
        request, passed = read_request(
            messages,
            stop,
            setup.spelled(kwargs),
            model=setup.target.model,
            explicit=self._explicit,
            task=self.task,
            aggregation=self._how,
            fixed="aggregation" in self.model_fields_set,
        )
        self._check_scorer(request.aggregation)
        return Call(
            setup=setup,
            messages=messages,
            request=request,
            passed=passed,
            scorer=self.scorer,
            vote_key=self.vote_key if "vote_key" in self.model_fields_set else None,
            blocks=self.output_version == "v1",
        )

    def _for_model(self, model: object) -> Setup:
        """The parts behind a call that names ``model``; None names none."""
        setup = self._ready
        if model in (None, setup.target.model):
            return setup
        if setup.other is None or not isinstance(model, str):
            raise ConfigError(f"model={model!r}: the inner model is {setup.target.model!r}; make another ChatSelfReg")
        return self._others.get(model) or self._others.setdefault(model, setup.other(model))

    def _check_scorer(self, how: Aggregation) -> None:
        if how.kind == "best" and self.scorer is None:
            raise ConfigError("aggregation 'best' needs a scorer: pass scorer=<function from text to number>")
