"""From the fields of a `ChatSelfReg` to the parts that answer its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage

from selfreg_sdk.adapters import Adapter, single_attempt
from selfreg_sdk.answering import Answering
from selfreg_sdk.assembly import Choices, Target, assemble
from selfreg_sdk.channel import Channel
from selfreg_sdk.client import Client
from selfreg_sdk.config import Settings, load_settings
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.langchain.inner import InnerChannel, inner_endpoint, inner_model_id
from selfreg_sdk.langchain.pace import Paced
from selfreg_sdk.money import Budget
from selfreg_sdk.runtime import Runtime, runtime
from selfreg_sdk.vendors import vendor_of_class, vendor_of_url
from selfreg_sdk.wire.connection import Timeouts

if TYPE_CHECKING:
    from selfreg_sdk.chat_model import ChatSelfReg

HARMLESS = frozenset(
    {"callbacks", "tags", "metadata", "verbose", "name", "cache", "output_version", "disable_streaming", "streaming"}
)
"""Fields of a chat model that only LangChain reads: a copy with others of these is answered by the same parts."""

CONNECTING = frozenset({"base_url", "api_key", "default_headers", "timeout", "timeouts", "transport", "inner"})
"""Fields that say how an endpoint is reached."""

Planning = tuple[Target, Channel[Any, Any]]
MakeChannel = Callable[[Sequence[BaseMessage], Mapping[str, Any]], Channel[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The parts behind one `ChatSelfReg`.

    Attributes:
        target: the answering model.
        answering: answers requests to it.
        channel: makes the channel of one request from its messages and further arguments.
        shared: the open store with everything on it.
        provider, planner_provider: LangSmith's names for who answers and who plans.
        spelled: the arguments of a call with its decoding parameters under their own names, as the inner model's may differ.
        client: reaches the endpoint; None around an inner model.
        other: the same for another model of the endpoint, over the same store and connections; None around an inner model.
    """

    target: Target
    answering: Answering
    channel: MakeChannel
    shared: Runtime
    provider: str
    planner_provider: str
    spelled: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    client: Client | None = None
    other: Callable[[str], Setup] | None = None


def set_up(chat: ChatSelfReg, *, shared: Runtime | None = None, client: Client | None = None) -> Setup:
    """Put the parts together; opens the store, connects to nothing.

    Args:
        chat: what was given.
        shared: a store that is open already, as a copy of a model has it.
        client: connections that exist already, likewise.

    Raises:
        ConfigError: something given cannot work.
    """
    settings = load_settings(
        model=chat.model,
        store=None if chat.store is None else str(chat.store),
        base_url=chat.base_url,
        api_key=chat.api_key,
        budget=None if chat.budget is None else Budget.parse(chat.budget),
        budget_name=chat.budget_name,
    )
    choices = Choices(
        budgets={} if settings.budget is None else {settings.budget_name: settings.budget},
        prices=chat.prices if chat.prices is not None else settings.prices,
        retry=chat.retry if chat.max_retries is None else replace(chat.retry, attempts=1 + chat.max_retries),
        policy=chat.policy,
        bounds=chat.bounds,
        defaults=chat.defaults,
        cached=chat.cache_answers or settings.store_content,
    )
    shared = shared or runtime(settings.store)
    if chat.inner is not None:
        return _around(chat, chat.inner, choices, shared)
    client = client or _client(chat, settings)

    def on(model: str | None) -> Setup:
        target, planner = _endpoint(chat, settings, client, model)
        return Setup(
            target=target,
            answering=assemble(target, choices, shared, planner=_paced(planner, chat)),
            channel=lambda messages, kwargs: client,
            shared=shared,
            provider=target.vendor.rules or "selfreg",
            planner_provider=_planner_provider(chat, target),
            client=client,
            other=on,
        )

    return on(settings.model)


def inherit(chat: ChatSelfReg) -> None:
    """Take over what LangChain does around the inner model, where nothing else was said: it is ours that LangChain calls."""
    inner = chat.inner
    if inner is None:
        return
    for name in ("rate_limiter", "cache", "output_version"):
        if getattr(chat, name) is None:
            setattr(chat, name, getattr(inner, name))
    if inner.disable_streaming and "disable_streaming" not in chat.model_fields_set:
        chat.disable_streaming = inner.disable_streaming
    if inner.tags:
        chat.tags = list(dict.fromkeys([*inner.tags, *(chat.tags or ())]))
    if inner.metadata:
        chat.metadata = {**inner.metadata, **(chat.metadata or {})}
    if chat.callbacks is None:
        chat.callbacks = inner.callbacks


def _around(chat: ChatSelfReg, inner: BaseChatModel, choices: Choices, shared: Runtime) -> Setup:
    """Around a LangChain model."""
    for name in ("base_url", "server", "default_headers"):
        if getattr(chat, name):
            raise ConfigError(f"{name}= is about an endpoint, but the inner model reaches its own: set it there")
    if chat.transport != "auto":
        raise ConfigError(f"transport={chat.transport!r}: the inner model brings its own client")
    adapter = Adapter(single_attempt(inner))
    target, channel, planner = _inner(adapter, chat.planner)
    target = replace(target, profile=chat.profile)  # the inner model's, unless another was given
    return Setup(
        target=target,
        answering=assemble(target, choices, shared, planner=_paced(planner, chat)),
        channel=channel,
        shared=shared,
        provider=_provider(inner) or target.vendor.rules or "selfreg",
        planner_provider=_planner_provider(chat, target),
        spelled=adapter.spelled,
    )


def _inner(adapter: Adapter, planner: str | BaseChatModel) -> tuple[Target, MakeChannel, Planning | None]:
    """A LangChain model that answers, and who plans for it."""
    if (samples := adapter.own_samples) > 1:
        raise ConfigError(
            f"inner has n={samples}: say aggregation='any of {samples}' instead, so that they are counted"
        )
    target = _inner_target(adapter)

    def channel(messages: Sequence[BaseMessage], kwargs: Mapping[str, Any]) -> Channel[Any, Any]:
        return InnerChannel(adapter, messages, kwargs=kwargs, endpoint=target.endpoint)

    if isinstance(planner, BaseChatModel):
        return target, channel, _planning(planner)
    if planner not in ("auto", "off"):
        raise ConfigError(f"planner={planner!r}: around an inner model, use 'auto', 'off' or a chat model")
    return target, channel, None if planner == "off" else (target, InnerChannel(adapter))


def _client(chat: ChatSelfReg, settings: Settings) -> Client:
    """Reaches the endpoint."""
    if chat.timeout is not None and chat.timeouts is not None:
        raise ConfigError(f"give either timeout={chat.timeout!r} or timeouts=, not both")
    total = settings.total_timeout if chat.timeout is None else chat.timeout
    return Client(
        base_url=settings.base_url,
        api_key=settings.api_key,
        timeouts=chat.timeouts or Timeouts(connect=settings.connect_timeout, idle=settings.idle_timeout, total=total),
        default_headers={name: value.get_secret_value() for name, value in chat.default_headers.items()},
        transport=settings.transport if chat.transport == "auto" else chat.transport,
    )


def _endpoint(
    chat: ChatSelfReg, settings: Settings, client: Client, answering: str | None
) -> tuple[Target, Planning | None]:
    """One model of an OpenAI-compatible endpoint, and who plans for it."""

    def target_of(model: str | None) -> Target:
        if model is None or not model.strip():
            raise ConfigError(
                f"model={model!r}: give model=<id as the endpoint knows it> or inner=<LangChain chat model>"
            )
        return Target(
            model=model,
            endpoint=client.endpoint,
            base_url=settings.base_url,
            vendor=vendor_of_url(settings.base_url, server=chat.server),
            profile=chat.profile if model == settings.model else None,
        )

    target = target_of(answering)
    if isinstance(chat.planner, BaseChatModel):
        return target, _planning(chat.planner)
    if chat.planner == "off":
        return target, None
    planner = settings.planner_model or answering if chat.planner == "auto" else chat.planner
    return target, (target_of(planner), client)


def _provider(model: BaseChatModel) -> str | None:
    """LangSmith's name for who is behind a LangChain model."""
    return model._get_ls_params().get("ls_provider")


def _planner_provider(chat: ChatSelfReg, target: Target) -> str:
    planner = chat.planner if isinstance(chat.planner, BaseChatModel) else chat.inner
    return (None if planner is None else _provider(planner)) or target.vendor.rules or "selfreg"


def _paced(planner: Planning | None, chat: ChatSelfReg) -> Planning | None:
    """A planning call waits for the rate limiter as an answer does: LangChain waits once a request, for the answer."""
    limiter = chat.planner.rate_limiter if isinstance(chat.planner, BaseChatModel) else chat.rate_limiter
    if planner is None or limiter is None:
        return planner
    target, channel = planner
    return target, Paced(channel, limiter)


def _planning(model: BaseChatModel) -> Planning:
    planner = Adapter(single_attempt(model))
    return _inner_target(planner), InnerChannel(planner)


def _inner_target(adapter: Adapter) -> Target:
    inner = adapter.model
    endpoint = inner_endpoint(inner)
    return Target(
        model=inner_model_id(inner),
        endpoint=endpoint,
        base_url=endpoint if "://" in endpoint else None,
        vendor=vendor_of_class(type(inner), base_url=endpoint),
        profile=inner.profile,
        narrow=adapter.narrow,
    )
