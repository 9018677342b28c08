"""How the tuner reaches the models of a task: for each a door, behind which every call is paid, under the same budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from policies import Capabilities, Compiled
from selfreg_sdk.assembly import Target
from selfreg_sdk.booking import Books
from selfreg_sdk.cache import cache_key
from selfreg_sdk.calls import Calls, Retry
from selfreg_sdk.client import Client
from selfreg_sdk.config import Settings, load_settings
from selfreg_sdk.errors import ConfigError, SelfregError
from selfreg_sdk.money import Budget
from selfreg_sdk.payload import Payload
from selfreg_sdk.prices import Price, Prices
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.store.capabilities import LearnedCapabilities, Outcome
from selfreg_sdk.tuner.journal.sending import compiled
from selfreg_sdk.tuner.scoring.judge import Judge, Judging
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.vendors import vendor_of_url
from selfreg_sdk.wire.connection import Timeouts


class SpaceNarrowed(SelfregError):
    """A model refused a setting that the search varies; it is remembered, and nothing was paid for the refusal.

    Call `Doors.relearn`, make the space anew from what the models accept, and search again on the same journal.

    Attributes:
        model: which one.
        setting: the request field it does not take.
    """

    def __init__(self, *, model: str, setting: str) -> None:
        self.model, self.setting = model, setting
        super().__init__(f"model {model!r} does not take {setting!r}; the search goes on without it")

    def __reduce__(self) -> tuple[object, ...]:
        return (_narrowed, (self.model, self.setting))


def _narrowed(model: str, setting: str) -> SpaceNarrowed:
    return SpaceNarrowed(model=model, setting=setting)


@dataclass(kw_only=True, eq=False)
class Door:
    """One model, reached and paid.

    What the model accepts is looked up when the door is opened and stays the same until `Doors.relearn`, so that a search does
    not change under way because somebody else learned something.

    Attributes:
        model: its id.
        channel: sends requests.
        calls: pays them.
        price: what its tokens cost.
        target: whose rules apply.
        learned: what endpoints refused before.
        takes_n: several samples may be asked for in one request; turns False when the endpoint shows that they may not.
        capabilities: what the model accepts.
    """

    model: str
    channel: Client
    calls: Calls
    price: Price
    target: Target
    learned: LearnedCapabilities
    takes_n: bool = False
    capabilities: Capabilities = field(init=False)

    def __post_init__(self) -> None:
        self.relearn()

    @property
    def endpoint(self) -> str:
        """Where it answers, without secrets."""
        return self.target.endpoint

    def relearn(self) -> None:
        """Look up anew what the model accepts; reads the store."""
        self.capabilities = self.target.capabilities(self.learned.learned(self.endpoint, self.model))
        self.takes_n = self.capabilities.support("n") == "accepted"

    def learn(self, setting: str, outcome: Outcome, detail: str = "") -> None:
        """Remember that the endpoint refuses or ignores a request field; writes to the store."""
        if setting == "n":
            self.takes_n = False
        self.learned.learn(self.endpoint, self.model, setting, outcome, detail)

    def compiled(self, config: Point) -> Compiled:
        """One sample of a configuration, as the model takes it.

        Raises:
            ConfigError: a setting that is no decoding parameter.
        """
        return compiled(config, self.capabilities)

    def at_once(self, config: Compiled) -> int:
        """Samples that one request may ask for."""
        floor, temperature = self.capabilities.n_needs_temperature, config.sent.temperature
        if not self.takes_n or (floor is not None and temperature is not None and temperature < floor):
            return 1
        most = self.capabilities.ranges.get("n")
        return _ANY_NUMBER if most is None else int(most.high)

    def key(self, payload: Payload) -> str:
        """The name of a request for any number of samples, the same in every study; never that of a cached chat reply."""
        return cache_key({"draw": payload}, endpoint=self.endpoint)

    def judge(self, judging: Judging, *, task_key: str = "") -> Judge:
        """The model as a scorer, paid under the same budgets."""
        return Judge(
            self.calls,
            self.channel,
            model=self.model,
            judging=judging,
            learned=self.learned,
            capabilities=self.target.capabilities,
            task_key=task_key,
        )


class Doors(Mapping[str, Door]):
    """Model to door, over one client; close it when done."""

    def __init__(self, doors: Mapping[str, Door], client: Client) -> None:
        self._doors = dict(doors)
        self._client = client

    @property
    def capabilities(self) -> Mapping[str, Capabilities]:
        """Model to what it accepts."""
        return {model: door.capabilities for model, door in self._doors.items()}

    @property
    def prices(self) -> Mapping[str, Price]:
        """Model to price."""
        return {model: door.price for model, door in self._doors.items()}

    def relearn(self) -> None:
        """Look up anew what all models accept; reads the store: not for event loops."""
        for door in self._doors.values():
            door.relearn()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop, and all others."""
        await self._client.aclose()

    def __getitem__(self, model: str) -> Door:
        try:
            return self._doors[model]
        except KeyError:
            raise ConfigError(f"model {model!r} was not announced; there are {', '.join(self._doors)}") from None

    def __contains__(self, model: object) -> bool:
        return model in self._doors

    def __iter__(self) -> Iterator[str]:
        return iter(self._doors)

    def __len__(self) -> int:
        return len(self._doors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_doors(
    models: Sequence[str],
    *,
    shared: Runtime,
    budgets: Mapping[str, Budget],
    prices: Prices | None = None,
    base_url: str | None = None,
    settings: Settings | None = None,
    server: str | None = None,
    retry: Retry = Retry(),
    client: Client | None = None,
) -> Doors:
    """Open a door for each model; connects to nothing, reads the store.

    Args:
        models: ids as the endpoint knows them, judges among them.
        shared: the open store.
        budgets: every call must fit under all of them; a study's own is named "study:NAME".
        prices: None takes those of the settings' file, or the table.
        base_url: the endpoint; None takes the settings', as `ChatSelfReg` does.
        settings: None reads them as `ChatSelfReg` does: file, environment, ``base_url``.
        server: what is serving, for hosts nobody knows.
        client: connections that exist already; None makes one.

    Raises:
        UnknownPriceError: of one of the models; a search without prices cannot keep a cap.
        ConfigError: no model, or settings that cannot work.
    """
    if not models:
        raise ConfigError("no model is given; name at least one")
    settings = settings or load_settings(base_url=base_url)
    found = client or Client(
        base_url=settings.base_url,
        api_key=settings.api_key,
        timeouts=Timeouts(connect=settings.connect_timeout, idle=settings.idle_timeout, total=settings.total_timeout),
        transport=settings.transport,
    )
    vendor = vendor_of_url(settings.base_url, server=server)
    books = Books(
        meter=shared.meter,
        prices=prices or Prices(settings.prices),
        cache=shared.cache,
        budgets=dict(budgets),
        base_url=settings.base_url,
        provider=None if settings.base_url else vendor.prices,
    )
    calls = Calls(books, retry=retry)
    doors = {
        model: Door(
            model=model,
            channel=found,
            calls=calls,
            price=books.prices.lookup(model, base_url=books.base_url, provider=books.provider),
            target=Target(model=model, endpoint=found.endpoint, base_url=settings.base_url, vendor=vendor),
            learned=shared.learned,
        )
        for model in dict.fromkeys(models)
    }
    return Doors(doors, found)


_ANY_NUMBER = 1 << 30
