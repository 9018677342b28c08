"""A tuning from a task to versions in the store, over real HTTP, store and ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.runtime import Runtime, runtime
from selfreg_sdk.store.configs import ConfigRecord
from selfreg_sdk.store.studies import Studies
from selfreg_sdk.tuner.study.results import Progress, Tuned
from selfreg_sdk.tuner.study.saving import frontier_in
from selfreg_sdk.tuner.tune import dry_run, tune
from selfreg_sdk.versions import tuned_key
from tests.fake_provider import FakeProvider
from tests.tuner.tuning import PRICES, access, task, world

SMALL = {"budget": "0.008 USD", "holdout": 0.34}


@dataclass(frozen=True, kw_only=True)
class Done:
    """A tuning that has ended."""

    provider: FakeProvider
    given: dict[str, Any]
    tuned: Tuned
    progress: list[Progress]

    @property
    def shared(self) -> Runtime:
        return runtime(self.given["store"])

    def version(self, key: str) -> ConfigRecord:
        found = self.shared.configs.current(key)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    progress: list[Progress] = []
    with world() as provider:
        options = access(provider, tmp_path_factory.mktemp("tune"))
        tuned = tune(task(**SMALL), on_progress=progress.append, **options)
        yield Done(provider=provider, given=options, tuned=tuned, progress=progress)


def test_it_finds_what_there_is_to_find(done: Done) -> None:
    tuned = done.tuned
    assert tuned.verdict == "use the winner", tuned.reason
    assert tuned.winner is not None
    assert tuned.winner.config["temperature"] == 0.5
    assert tuned.winner.cost <= 0.0002
    assert tuned.winner.low is not None
    assert tuned.winner.high is not None
    assert 0 <= tuned.winner.low <= tuned.winner.score <= tuned.winner.high <= 1
    assert tuned.winner.examples > 10
    assert tuned.winner.seconds is not None
    assert set(tuned.per_model) == {"small", "large"}
    assert tuned.per_model[tuned.winner.config["model"]] == tuned.winner
    costs = [point.cost for point in tuned.frontier]
    assert costs == sorted(costs)
    assert any(point.config == tuned.winner.config for point in tuned.frontier)


def test_the_winner_is_checked_on_examples_that_the_search_never_saw(done: Done) -> None:
    tuned = done.tuned
    assert tuned.measured is not None
    assert tuned.baseline is not None
    assert tuned.checked is not None
    assert tuned.measured.examples == tuned.baseline.examples == 10
    assert tuned.checked.difference == pytest.approx(tuned.measured.score - tuned.baseline.score)
    assert tuned.baseline.config["temperature"] == 1.5


def test_what_was_billed_is_what_was_counted_and_within_the_total(done: Done) -> None:
    billed = done.provider.billed.usd
    (status,) = done.shared.meter.status(["study:sums"])
    assert billed == status.spent == done.tuned.spent <= Decimal("0.008")
    assert status.held == 0


def test_the_versions_are_where_chatselfreg_looks(done: Done) -> None:
    tuned, winner = done.tuned, done.tuned.winner
    assert winner is not None
    model = winner.config["model"]
    best = done.version(tuned_key("sums"))
    own = done.version(tuned_key("sums", model))
    assert (own.id, best.parent_id) == (tuned.versions[model], tuned.versions[model])
    for version in (best, own):
        assert version.model == model
        assert version.aggregation == winner.aggregation
        assert {"model": model, "prompt": "default", **version.params} == dict(winner.config)
        assert version.score == winner.score
        assert version.cost_usd == tuned.spent
        assert version.provenance["kind"] == "tuned"
        assert version.provenance["messages"] == [["user", "What is {question}?"]]
        assert version.provenance["ballot"] == {"kind": "numeric"}
        assert version.provenance["held_out"]["examples"] == 10
        assert version.provenance["base_url"] == done.provider.base_url
        assert "sk-test" not in str(version)
    (other,) = {"small", "large"} - {model}
    assert done.shared.configs.current(tuned_key("sums", other)) is None, "nothing was checked of it"
    assert done.shared.configs.current(tuned_key("sums", other), "staging") is not None


def test_progress_is_told_and_only_grows(done: Done) -> None:
    phases = [progress.phase for progress in done.progress]
    assert list(dict.fromkeys(phases)) == ["search", "check", "done"]
    spent = [progress.spent for progress in done.progress]
    assert spent == sorted(spent)
    assert spent[-1] == done.tuned.spent
    last = done.progress[-1]
    assert last.best == done.tuned.winner
    assert last.requests == len(done.provider.payloads)
    assert last.samples == sum(payload.get("n") or 1 for payload in done.provider.payloads)


def test_a_finished_study_is_returned_at_no_cost_and_leaves_pointers_alone(done: Done) -> None:
    key, calls = tuned_key("sums"), done.provider.billed.calls
    before = done.shared.configs.list()
    used = done.version(key)
    other = done.shared.configs.add_version(replace(used, id=None, params={"n": 1}))
    done.shared.configs.point(key, "production", other)
    try:
        again = tune(task(**SMALL), resume=True, **done.given)
    finally:
        done.shared.configs.point(key, "production", used.id or 0)

    assert done.provider.billed.calls == calls
    assert (again.winner, again.verdict, again.versions) == (done.tuned.winner, done.tuned.verdict, done.tuned.versions)
    assert len(done.shared.configs.list()) == len(before) + 1


def test_the_study_says_what_it_was_and_what_came_of_it(done: Done) -> None:
    study = Studies(done.shared.store).get("sums")
    assert study.state == "finished"
    assert study.spec["models"] == ["small", "large"]
    assert study.outcome is not None
    assert study.outcome["verdict"] == "use the winner"
    assert frontier_in(study.outcome) == done.tuned.frontier


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"examples": task()["examples"][:12]}, "another examples"),
        ({"models": ["small"]}, 'models: \\["small", "large"\\] before, \\["small"\\] now'),
        ({"budget": "0.002 USD"}, "it can be raised, not lowered to 0.002 USD"),
    ],
)
def test_a_study_goes_on_only_with_what_it_was_begun_with(done: Done, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tune(task(**SMALL | changes), **done.given)


def test_resume_says_whether_a_study_has_to_be_there(done: Done) -> None:
    with pytest.raises(ConfigError, match="study 'sums' exists; leave resume out"):
        tune(task(**SMALL), resume=False, **done.given)
    with pytest.raises(ConfigError, match="there is no study 'other' in this store; it has 'sums'"):
        tune(task(**SMALL), resume=True, name="other", **done.given)


def test_a_dry_run_sends_nothing_and_begins_nothing(done: Done) -> None:
    calls = len(done.provider.requests)
    quote = dry_run(
        task(**SMALL), name="new", store=done.given["store"], base_url=done.provider.base_url, prices=PRICES
    )

    assert len(done.provider.requests) == calls
    assert Studies(done.shared.store).find("new") is None
    assert (quote.examples, quote.holdout, quote.configurations) == (20, 10, 2 * 4 * 3)
    assert quote.worst == Decimal("0.008")
    assert quote.aside == Decimal("0.0016")
    assert set(quote.first) == {"small", "large"}
    assert all(0 < worst < Decimal("0.001") for worst in quote.first.values())
    assert quote.baseline == {"model": "small", "prompt": "default", "temperature": 1.5, "max_tokens": 32, "n": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": None}, "nothing says what the tuning may cost in all; give budget="),
        ({"budget": "0 USD"}, "buys nothing"),
        ({"inference_budget": None, "method": "ecooptigen"}, "give inference_budget='0.002 USD'"),
        ({"inference_budget": "0 USD"}, "lets no request through"),
        (
            {"examples": [*task()["examples"], {"question": "1 + 7", "answer": "9"}]},
            "prompt 'default' asks the same for both; fill in the field",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(provider: FakeProvider, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tune(task(**changes), base_url=provider.base_url, prices=PRICES)
    assert not provider.requests


async def test_inside_an_event_loop_it_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match="await atune"):
        tune(task())
