"""From the fields of a `ChatSelfReg` to the parts that answer its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage

from selfreg_sdk.adapters import own_samples, single_attempt, takes_samples
from selfreg_sdk.answering import Answering
from selfreg_sdk.assembly import Choices, Target, assemble
from selfreg_sdk.channel import Channel
from selfreg_sdk.client import Client
from selfreg_sdk.config import Settings, load_settings
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.langchain.inner import InnerChannel, inner_endpoint, inner_model_id
from selfreg_sdk.money import Budget
from selfreg_sdk.runtime import runtime
from selfreg_sdk.vendors import vendor_of_class, vendor_of_url
from selfreg_sdk.wire.connection import Timeouts

if TYPE_CHECKING:
    from selfreg_sdk.chat_model import ChatSelfReg

Planning = tuple[Target, Channel[Any, Any]]
MakeChannel = Callable[[Sequence[BaseMessage], Mapping[str, Any]], Channel[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The parts behind one `ChatSelfReg`.

    Attributes:
        target: the answering model.
        answering: answers requests to it.
        channel: makes the channel of one request from its messages and further arguments.
        other: the same for another model of the endpoint, over the same store and connections; None around an inner model.
    """

    target: Target
    answering: Answering
    channel: MakeChannel
    other: Callable[[str], Setup] | None = None


def set_up(chat: ChatSelfReg) -> Setup:
    """Put the parts together; opens the store, connects to nothing.

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
    shared = runtime(settings.store)
    if chat.inner is not None:
        target, channel, planner = _around(chat.inner, chat.planner)
        answering = assemble(target, choices, shared, planner=planner)
        return Setup(target=target, answering=answering, channel=channel)
    client = _client(chat, settings)

    def on(model: str | None) -> Setup:
        target, planner = _endpoint(chat, settings, client, model)
        answering = assemble(target, choices, shared, planner=planner)
        return Setup(target=target, answering=answering, channel=lambda messages, kwargs: client, other=on)

    return on(settings.model)


def _around(inner: BaseChatModel, planner: str | BaseChatModel) -> tuple[Target, MakeChannel, Planning | None]:
    """Around a LangChain model."""
    if (samples := own_samples(inner)) > 1:
        raise ConfigError(
            f"inner has n={samples}: say aggregation='any of {samples}' instead, so that they are counted"
        )
    model = single_attempt(inner)
    target = _inner_target(model)

    def channel(messages: Sequence[BaseMessage], kwargs: Mapping[str, Any]) -> Channel[Any, Any]:
        return InnerChannel(model, messages, kwargs=kwargs)

    if isinstance(planner, BaseChatModel):
        return target, channel, _planning(planner)
    if planner not in ("auto", "off"):
        raise ConfigError(f"planner={planner!r}: around an inner model, use 'auto', 'off' or a chat model")
    return target, channel, None if planner == "off" else (target, InnerChannel(model))


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


def _planning(model: BaseChatModel) -> Planning:
    planner = single_attempt(model)
    return _inner_target(planner), InnerChannel(planner)


def _inner_target(inner: BaseChatModel) -> Target:
    endpoint = inner_endpoint(inner)
    return Target(
        model=inner_model_id(inner),
        endpoint=endpoint,
        base_url=endpoint if "://" in endpoint else None,
        vendor=vendor_of_class(type(inner), base_url=endpoint),
        profile=inner.profile,
        one_sample=not takes_samples(inner),
    )
