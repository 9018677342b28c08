"""Puts the parts of a regulated model together, from what a user gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies import Bounds, Capabilities, DecodingParams, Policy, default_chain, resolve
from selfreg_sdk.answering import Answering
from selfreg_sdk.booking import Books
from selfreg_sdk.calls import Calls, Retry
from selfreg_sdk.channel import Channel
from selfreg_sdk.facts import FactFinder
from selfreg_sdk.money import Budget
from selfreg_sdk.planner import Planner
from selfreg_sdk.prices import Prices
from selfreg_sdk.regulator import Regulator
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.vendors import Vendor


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model that answers or plans.

    Attributes:
        model: its id.
        endpoint: where it answers, without secrets.
        base_url: for prices; None for the vendor's own.
        vendor: whose rules apply.
        profile: its LangChain profile, if there is one.
        narrow: what its client cannot carry is taken away from what it accepts, given what was learned of it.
    """

    model: str
    endpoint: str
    base_url: str | None
    vendor: Vendor
    profile: Mapping[str, Any] | None = None
    narrow: Callable[[Capabilities, Mapping[str, str]], Capabilities] | None = None

    def capabilities(self, learned: Mapping[str, str]) -> Capabilities:
        """What the model accepts, given what was learned of it."""
        known = resolve(
            self.model,
            vendor=self.vendor.rules,
            profile=self.profile,
            api_version=self.vendor.api_version,
            learned=learned,
        )
        return known if self.narrow is None else self.narrow(known, learned)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user chose; every field has the default of `ChatSelfReg`."""

    budgets: Mapping[str, Budget] = field(default_factory=dict)
    prices: Prices | Path | None = None
    retry: Retry = Retry()
    policy: Policy | None = None
    bounds: Bounds = Bounds()
    defaults: DecodingParams = DecodingParams()
    cached: bool = False


def assemble(
    target: Target, choices: Choices, shared: Runtime, *, planner: tuple[Target, Channel[Any, Any]] | None
) -> Answering:
    """Everything that answers requests to ``target``.

    Args:
        target: the answering model.
        choices: the user's.
        shared: store, meter and cache.
        planner: the planning model and how it is reached; None to never plan.
    """
    prices = choices.prices if isinstance(choices.prices, Prices) else Prices(choices.prices)

    def calls(to: Target) -> Calls:
        books = Books(
            meter=shared.meter,
            prices=prices,
            cache=shared.cache,
            budgets=choices.budgets,
            base_url=to.base_url,
            provider=None if to.base_url else to.vendor.prices,
        )
        return Calls(books, retry=choices.retry)

    plans = None
    if planner is not None:
        planning, channel = planner
        plans = Planner(
            calls(planning), channel, model=planning.model, learned=shared.learned, capabilities=planning.capabilities
        )
    answers = calls(target)
    regulator = Regulator(
        endpoint=target.endpoint,
        books=answers.books,
        facts=FactFinder(model=target.model, configs=shared.configs, planner=plans, most=choices.bounds.n),
        learned=shared.learned,
        policy=choices.policy or default_chain(choices.defaults),
        defaults=choices.defaults,
        bounds=choices.bounds,
        capabilities=target.capabilities,
    )
    return Answering(regulator, answers, cached=choices.cached)
