"""Doors: one per model, what each accepts, what is sent, and under which key it is kept."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.cache import cache_key
from selfreg_sdk.config import Settings
from selfreg_sdk.errors import ConfigError, UnknownPriceError
from selfreg_sdk.money import Budget
from selfreg_sdk.payload import Payload
from selfreg_sdk.prices import Prices
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.store import Store
from selfreg_sdk.tuner.journal.doors import Doors, SpaceNarrowed, open_doors
from selfreg_sdk.tuner.journal.sending import compiled
from tests.tuner.journaled import MODEL, OTHER, PRICES

URL = "http://127.0.0.1:9/v1"
CAP = {"study:s": Budget.parse("1")}


@pytest.fixture
def shared() -> Any:
    with Store.open(":memory:") as store:
        yield Runtime.on(store)


def doors(shared: Runtime, *models: str, **given: Any) -> Doors:
    options = {"shared": shared, "budgets": CAP, "prices": PRICES, "settings": Settings(base_url=URL), **given}
    return open_doors(models or (MODEL, OTHER), **options)


def test_each_model_has_one_door_over_one_client(shared: Runtime) -> None:
    with doors(shared, MODEL, OTHER, MODEL) as found:
        assert list(found) == [MODEL, OTHER]
        assert found[MODEL].channel is found[OTHER].channel
        assert found[MODEL].endpoint == URL
        assert found.prices[OTHER].output_per_token == Decimal("0.000004")
        assert "missing" not in found
        with pytest.raises(ConfigError, match="'missing' was not announced; there are fake-model, other-model"):
            found["missing"]


def test_key_and_url_are_found_as_the_chat_model_finds_them(shared: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREG_BASE_URL", "http://localhost:7/v1")
    with doors(shared, settings=None) as found:
        assert found[MODEL].endpoint == "http://localhost:7/v1"
    with doors(shared, settings=None, base_url=URL) as found:
        assert found[MODEL].endpoint == URL


def test_a_price_that_nobody_knows_is_an_error_before_the_first_call(shared: Runtime) -> None:
    with pytest.raises(UnknownPriceError, match="fake-model"):
        doors(shared, prices=Prices())
    with pytest.raises(ConfigError, match="no model"):
        open_doors((), shared=shared, budgets=CAP)


def test_what_is_learned_counts_from_the_next_look_on(shared: Runtime) -> None:
    with doors(shared) as found:
        door = found[MODEL]
        before = door.capabilities
        shared.learned.learn(URL, MODEL, "temperature", "rejected")
        assert door.capabilities is before
        assert door.compiled({"model": MODEL, "temperature": 0.5}).wire["temperature"] == 0.5
        found.relearn()
        assert "temperature" not in door.compiled({"model": MODEL, "temperature": 0.5}).wire
        assert "temperature" in found.capabilities[OTHER].accepted


def test_several_samples_at_once_are_asked_for_where_the_model_takes_them(shared: Runtime) -> None:
    with doors(shared) as found:
        door = found[MODEL]
        plain = door.compiled({"model": MODEL})
        assert door.takes_n
        assert door.at_once(plain) > 1000
        door.learn("n", "ignored")
        assert (door.takes_n, door.at_once(plain)) == (False, 1)
        found.relearn()
        assert (door.takes_n, found[OTHER].takes_n) == (False, True)


def test_n_that_would_change_the_temperature_is_not_sent(shared: Runtime) -> None:
    """The samples of a configuration are the same whether they are asked for together or one by one."""
    with doors(shared, "kimi-k2", server="moonshot", prices=free("kimi-k2")) as found:
        (door,) = found.values()
        floor = door.capabilities.n_needs_temperature
        assert floor is not None
        cold, warm = ({"model": door.model, "temperature": value} for value in (floor / 2, floor))
        assert door.compiled(cold).wire["temperature"] == floor / 2
        assert door.at_once(door.compiled(cold)) == 1
        assert door.at_once(door.compiled(warm)) > 1


def free(model: str) -> Prices:
    from selfreg_sdk.prices import PriceOverride

    return Prices({model: PriceOverride(free=True)})


def test_only_decoding_parameters_are_sent_and_never_without_a_cap(shared: Runtime) -> None:
    with doors(shared) as found:
        door = found[MODEL]
        sent = door.compiled({"model": MODEL, "prompt": "p", "n": 4, "temperature": 0.5, "stop": ["\n"]})
        assert sent.wire == {"temperature": 0.5, "stop": ["\n"], "max_tokens": 1024}
        assert door.compiled({"model": MODEL, "max_tokens": 100_000, "n": 300}).wire == {"max_tokens": 100_000}
        with pytest.raises(ConfigError, match="'best_of' is not a decoding parameter"):
            door.compiled({"model": MODEL, "best_of": 3})


def test_a_model_that_thinks_gets_room_for_it(shared: Runtime) -> None:
    with doors(shared, "o3", server="openai", prices=free("o3")) as found:
        (door,) = found.values()
        assert compiled({"model": "o3"}, door.capabilities).sent.max_tokens == 8 * 1024


def test_a_key_is_of_the_request_and_the_endpoint_and_of_draws_alone(shared: Runtime) -> None:
    payload = Payload({"model": MODEL, "messages": [{"role": "user", "content": "é"}], "max_tokens": 4})
    with doors(shared) as found, doors(shared, settings=Settings(base_url="http://127.0.0.1:10/v1")) as elsewhere:
        key = found[MODEL].key(payload)
        assert key == found[MODEL].key(Payload(dict(reversed(payload.items()))))
        others = [
            elsewhere[MODEL].key(payload),
            found[MODEL].key(payload.replace({"max_tokens": 5})),
            found[MODEL].key(payload.replace({"temperature": 1})),
            found[MODEL].key(payload.replace({"temperature": 1.0})),
            cache_key(payload, endpoint=URL),
        ]
        assert len({key, *others}) == 1 + len(others)


def test_a_narrowed_space_survives_a_process_boundary() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(SpaceNarrowed(model="m", setting="top_p")))
    assert (error.model, error.setting) == ("m", "top_p")
