"""A LangChain model that regulates itself and stays what it is: an instance of its own provider's class.

Some features ask for the class of a model (Anthropic's prompt caching, the strict tools of OpenAI), and lose a wrapper without a
word. Here the class is a subclass of the provider's whose calls go through `ChatSelfReg` around the provider.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, cast

from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.runnables.utils import AnyConfigurableField, Input, Output
from pydantic import PrivateAttr

from policies import FIELDS, Aggregation, Bounds, DecodingParams, Policy
from selfreg_sdk.adapters.ways import field_for
from selfreg_sdk.aggregate import Scorer, VoteKey
from selfreg_sdk.booking import Books
from selfreg_sdk.calls import Retry
from selfreg_sdk.chat_model import ChatSelfReg
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.explanation import Explanation
from selfreg_sdk.langchain.call import CALL, Call
from selfreg_sdk.langchain.calling import Calling, Stop
from selfreg_sdk.langchain.identity import inner_model_id
from selfreg_sdk.langchain.requests import TASK
from selfreg_sdk.prices import Prices

M = TypeVar("M", bound=BaseChatModel)


class Options(TypedDict, total=False):
    """What `ChatSelfReg` takes around an inner model, with the same meaning."""

    task: str | None
    budget: str | int | Decimal | None
    budget_name: str | None
    store: str | Path | None
    prices: Prices | Path | None
    aggregation: str | Aggregation
    scorer: Scorer | None
    vote_key: VoteKey
    planner: str | BaseChatModel
    policy: Policy | None
    bounds: Bounds
    defaults: DecodingParams
    retry: Retry
    max_retries: int | None
    cache_answers: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    max_tokens: int | None
    n: int | None
    stop: list[str] | str | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    reasoning_effort: str | None
    verbosity: str | None


def regulate(model: M, **options: Unpack[Options]) -> M:
    """A copy of ``model`` that decides its own decoding parameters: still an instance of its class, with its fields.

    Tools, structured output and everything else are the provider's own; its calls are planned, counted and recorded as those of
    ``ChatSelfReg(inner=model)``, and so are `explain`, `books` and the record in ``response_metadata["selfreg"]``. ``model``
    itself is never changed.

    Args:
        model: any LangChain chat model.
        options: what `ChatSelfReg` takes around an inner model.

    Raises:
        ConfigError: an option that cannot work, or a model that is regulated already.
    """
    check_options(options)
    return regulated(model, Regulation(options=options))


@dataclass(frozen=True, kw_only=True, eq=False)
class Regulation:
    """What a regulated model keeps beside its provider's fields; replaced as a whole, so that copies may share it.

    Attributes:
        options: the user's.
        named_by_run: the name of a run is the name of its task, where no task is named.
        chat: decides and pays; made on first use.
        fields: the provider's fields that ``chat`` was made around.
        others: the same for the other models that calls have named.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    named_by_run: bool = False
    chat: ChatSelfReg | None = field(default=None, repr=False)
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    others: dict[str, ChatSelfReg] = field(default_factory=dict, repr=False)

    def with_options(self, **more: Any) -> Regulation:
        """The same with further options; budgets and facts stay those of this one."""
        chat = self.chat and self.chat.model_copy(update=more)
        return replace(self, options={**self.options, **more}, chat=chat, others={})

    def around(self, provider: BaseChatModel) -> Regulation:
        """The same around ``provider``."""
        chat = self.chat.model_copy(update={"inner": provider}) if self.chat else None
        fields = {name: provider.__dict__.get(name) for name in type(provider).model_fields}
        return replace(self, chat=chat or ChatSelfReg(inner=provider, **self.options), fields=fields, others={})

    def __reduce__(self) -> tuple[Any, ...]:
        return _regulation, (dict(self.options), self.named_by_run)  # a store and connections are opened anew

    def __deepcopy__(self, memo: Any) -> Regulation:
        return self


def _regulation(options: Mapping[str, Any], named_by_run: bool) -> Regulation:
    return Regulation(options=options, named_by_run=named_by_run)


class Regulated(Calling):
    """What `regulate` puts before a provider's class: calls go through `ChatSelfReg`, all else is the provider's."""

    __slots__ = ()
    if TYPE_CHECKING:
        _selfreg: Regulation

    _stream_chat_model_events = _astream_chat_model_events = None  # a provider's own would pass us by

    @property
    def _chat(self) -> ChatSelfReg:
        """Decides and pays for this model's calls, around the provider with the fields it has now."""
        state, held = self._selfreg, self.__dict__
        if state.chat is None or any(held.get(name) is not value for name, value in state.fields.items()):
            state = self._selfreg = state.around(_as(provider_of(type(self)), self))
        return cast(ChatSelfReg, state.chat)

    def explain(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Explanation:
        """What would be sent for ``input``, why, and at most at what cost; see `ChatSelfReg.explain`."""
        return self._chat.explain(input, self._configured(config), **kwargs)

    @property
    def books(self) -> Books:
        """Budgets, prices and the ledger behind this model."""
        return self._chat.books

    # -- calls --------------------------------------------------------------------------------------------------------

    def _read(self, messages: list[BaseMessage], stop: Stop, kwargs: Mapping[str, Any]) -> Call:
        return self._asked(kwargs.get("model"))._read(messages, stop, kwargs)

    def _asked(self, model: object) -> ChatSelfReg:
        """Who answers a call that names ``model``; None names none."""
        chat = self._chat
        usual = cast(BaseChatModel, chat.inner)
        known, others = inner_model_id(usual), self._selfreg.others
        if not isinstance(model, str) or model == known:
            return chat
        if model not in others:
            place = next((name for name in type(usual).model_fields if getattr(usual, name, None) == known), None)
            if place is None:
                raise ConfigError(
                    f"model={model!r}: {type(usual).__name__} does not say in which field its model stands"
                )
            provider = usual.model_copy(update={place: model})
            provider.profile = provider._resolve_model_profile()
            others[model] = chat.model_copy(update={"inner": provider})
        return others[model]

    def _configured(self, config: RunnableConfig | None) -> RunnableConfig:
        config = super()._configured(config)
        run = config.get("run_name") if self._selfreg.named_by_run else None
        return (
            config
            if run is None
            else {**config, "metadata": {TASK: task_of_run(run), **(config.get("metadata") or {})}}
        )

    # -- what LangChain asks ------------------------------------------------------------------------------------------

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """No: what is loaded from JSON would be the provider alone, without budget and ledger."""
        return False

    def _get_invocation_params(self, stop: Stop = None, **kwargs: Any) -> dict[str, Any]:
        theirs = {name: value for name, value in kwargs.items() if name != CALL}
        ours = self._chat._get_invocation_params(stop, **kwargs)
        return {**super()._get_invocation_params(stop=stop, **theirs), **ours}

    def _get_ls_params(self, stop: Stop = None, **kwargs: Any) -> LangSmithParams:
        return self._chat._get_ls_params(stop, **kwargs)

    def configurable_fields(
        self, **kwargs: AnyConfigurableField
    ) -> RunnableSerializable[LanguageModelInput, AIMessage]:
        """As the provider's; a decoding parameter that a config sets is explicit and wins."""
        made = cast(RunnableConfigurableFields[LanguageModelInput, AIMessage], super().configurable_fields(**kwargs))
        return ConfigurableRegulated(default=made.default, fields=made.fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (provider_of(type(self)), self.__getstate__())


class ConfigurableRegulated(RunnableConfigurableFields[Input, Output]):
    """`RunnableConfigurableFields` makes models anew, from their fields alone; these stay regulated."""

    def _prepare(self, config: RunnableConfig | None = None) -> tuple[Any, RunnableConfig]:
        made, config = super()._prepare(config)
        if made is not self.default:
            given = {name for name, spec in self.fields.items() if spec.id in config.get("configurable", {})}
            found = {name: field_for(cast(Any, made), name) for name in FIELDS}
            explicit = {name: getattr(made, place) for name, place in found.items() if place in given}
            cast(Any, made)._selfreg = cast(Any, self.default)._selfreg.with_options(**explicit)
        return made, config


# -- from a provider to its regulated class and back --------------------------------------------------------------------


def regulated(model: M, regulation: Regulation) -> M:
    """A regulated copy of ``model``; the parts behind it are set up at once, so that what cannot work is said now.

    Raises:
        ConfigError: an option that cannot work, or a model that is regulated already.
    """
    if not isinstance(model, BaseChatModel):
        raise ConfigError(f"{model!r:.80} is no chat model; with_selfreg(...) takes chains of them")
    if is_regulated(model):
        raise ConfigError(f"{type(model).__name__} regulates itself already: give its options where it is made")
    made = _as(_regulated_class(type(model)), model)
    private = {**(made.__pydantic_private__ or {}), "_selfreg": regulation.around(_as(type(model), model))}
    object.__setattr__(made, "__pydantic_private__", private)
    return cast(M, made)


def is_regulated(model: BaseChatModel) -> bool:
    """Whether the calls of ``model`` go through selfreg already."""
    return isinstance(model, ChatSelfReg | Regulated)


def regulation_of(model: BaseChatModel) -> Regulation:
    """What a regulated model keeps beside its provider's fields."""
    return cast(Regulated, model)._selfreg


def task_of_run(name: str) -> str | None:
    """The task that the name of a run stands for: in one line, without the sign that separates the parts of a key."""
    return " ".join(name.replace("|", "/").split()) or None


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is no option.

    Raises:
        ConfigError: names it and the nearest that is.
    """
    known = Options.__annotations__
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "what belongs to the provider is said to its own class"
            raise ConfigError(f"unknown option {name!r}; {hint}")


def provider_of(kind: type) -> type[BaseChatModel]:
    """The provider's class behind a regulated one."""
    return next(base for base in kind.__mro__ if issubclass(base, BaseChatModel) and not issubclass(base, Regulated))


@cache
def _regulated_class(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    """The regulated subclass of a provider's class; it lives in the provider's module, where others look for whose it is."""
    body: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": f"Regulated{kind.__qualname__}",
        "__doc__": f"{kind.__name__} that decides its own decoding parameters.",
        "__annotations__": {"_selfreg": Regulation},
        "_selfreg": PrivateAttr(default_factory=Regulation),
    }
    # LangChain asks the class whether a model streams at all.
    if kind._stream is BaseChatModel._stream:
        body["_stream"] = BaseChatModel._stream
        if kind._astream is BaseChatModel._astream:
            body["_astream"] = BaseChatModel._astream
    made: Any = cast(Any, type(kind))(f"Regulated{kind.__name__}", (Regulated, kind), body)
    return cast(type[BaseChatModel], made)


def _revived(kind: type[BaseChatModel], state: dict[Any, Any]) -> BaseChatModel:
    """A pickled model."""
    made_class = _regulated_class(kind)
    made = made_class.__new__(made_class)
    made.__setstate__(state)
    return made


def _as(kind: type[BaseChatModel], model: BaseChatModel) -> BaseChatModel:
    """A copy of ``model`` as an instance of ``kind``: its fields and clients are shared, nothing is validated again."""
    made = copy.copy(model)
    made.__dict__.pop("_serialized", None)  # names the class it was made for
    object.__setattr__(made, "__class__", kind)
    if not issubclass(kind, Regulated) and made.__pydantic_private__ is not None:
        private = {name: value for name, value in made.__pydantic_private__.items() if name != "_selfreg"}
        object.__setattr__(made, "__pydantic_private__", private or None)
    return made
