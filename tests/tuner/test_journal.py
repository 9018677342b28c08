"""The journal: what is bought once is found ever after, sample by sample, and costs what it did cost."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from selfreg_sdk.errors import ConfigError, StoreError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.journal.journal import Journal
from selfreg_sdk.tuner.scoring.scoring import Mark, Scoring
from selfreg_sdk.tuner.search.drawing import DrawStep, Sample, adrive
from tests.fake_provider import FakeProvider, IgnoreParam, RejectParam, fewer_choices, no_usage
from tests.tuner.journaled import EXAMPLES, MODEL, OTHER, counted, desk, length, opened, quickly, texts, wish


async def test_what_was_bought_is_found_at_no_further_cost() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        wishes = [wish(number, count=3) for number in range(12)]
        async with desk(provider.base_url, store) as first:
            bought = await quickly(first.buy(*wishes, mark=True))
            assert await quickly(first.buy(*wishes, mark=True)) == bought
        async with desk(provider.base_url, store) as second:
            assert await quickly(second.buy(*reversed(wishes), mark=True)) == bought[::-1]
            assert sum(one.cost for one in bought) == provider.billed.usd == second.spent
        assert provider.billed.calls == 12
        assert len({text for one in bought for text in texts(one)}) == 36
        assert all(one.fate == "bought" and one.seconds is not None for one in bought)
        assert [mark.score for one in bought for mark in one.marks or ()] == [
            float(len(text)) for one in bought for text in texts(one)
        ]


async def test_a_sample_says_where_it_is_whether_it_was_cut_and_what_it_took() -> None:
    with FakeProvider(reply=lambda payload: ["short", "x" * 100]) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            (both,) = await quickly(one.buy(wish(count=2)))
            (alone,) = await quickly(one.buy(wish(1, count=1)))
            assert both.drawn is not None
            assert alone.drawn is not None
            assert [sample.cut for sample in both.drawn.samples] == [False, True]
            assert [sample.at for sample in both.drawn.samples] == [(one.rows[0].id.key, 0), (one.rows[0].id.key, 1)]
            assert (alone.drawn.samples[0].tokens, both.drawn.samples[0].tokens) == (2, None)
            assert (both.drawn.prompt_tokens, both.drawn.output_tokens, alone.drawn.output_tokens) == (6, 18, 2)
            assert both.drawn.cost == both.cost == Decimal("6") * Decimal("0.4e-6") + 18 * Decimal("1.6e-6")


async def test_other_portions_of_the_same_samples_are_served_from_what_is_there() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            whole = await quickly(one.buy(wish(count=4)))
            parts = await quickly(one.buy(wish(start=1, count=2), wish(start=3, count=3), wish(start=0, count=1)))
            assert [text for part in parts for text in texts(part)] == [
                *texts(whole[0])[1:3],
                texts(whole[0])[3],
                "sample 4",
                "sample 5",
                texts(whole[0])[0],
            ]
            assert [payload.get("n") for payload in provider.payloads] == [4, 2]
            assert [part.cost > 0 for part in parts] == [False, True, False]
            assert parts[0].drawn is not None
            assert parts[0].drawn.output_tokens == 4  # half of a reply of 8


async def test_wishes_for_one_key_in_one_batch_are_drawn_once() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            same = await quickly(one.buy(wish(count=1), wish(count=3), wish(count=1), wish(start=1, count=1)))
            assert [len(texts(part)) for part in same] == [1, 3, 1, 1]
            assert same[0] == same[2]
            assert texts(same[1])[:2] == texts(same[0]) + texts(same[3])
        assert sum(payload.get("n", 1) for payload in provider.payloads) == 3


async def test_another_study_finds_the_replies_and_pays_nothing() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with (
            desk(provider.base_url, store, study="one") as one,
            desk(provider.base_url, store, study="two") as two,
        ):
            (paid,) = await quickly(one.buy(wish(count=3), mark=True))
            (found,) = await quickly(two.buy(wish(count=3), mark=True))
            assert texts(found) == texts(paid)
            assert (found.cost, found.seconds, found.marks) == (0, paid.seconds, paid.marks)
            assert (two.spent, provider.billed.calls) == (0, 1)
            (more,) = await quickly(two.buy(wish(start=0, count=4)))
            assert texts(more)[:3] == texts(paid)
            assert provider.payloads[-1].get("n") is None


async def test_a_seed_differs_from_request_to_request_and_is_kept_under_one_key() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            one.doors[MODEL].takes_n = False
            await quickly(one.buy(wish(count=3, seed=40), wish(1, start=7, count=1, seed=40)))
            assert sorted(payload["seed"] for payload in provider.payloads) == [40, 41, 42, 47]
            assert len({row.id.key for row in one.rows}) == 2


@pytest.mark.parametrize("rule", [IgnoreParam(param="n"), RejectParam(param="n")])
async def test_an_endpoint_without_n_is_asked_in_parallel(rule: IgnoreParam | RejectParam) -> None:
    with FakeProvider(reply=counted(), rules=(rule,), latency=0.2) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            started = asyncio.get_running_loop().time()
            (bought,) = await quickly(one.buy(wish(count=6)))
            assert asyncio.get_running_loop().time() - started < 6 * 0.2 + 2
            assert len(set(texts(bought))) == 6
            assert not one.doors[MODEL].takes_n
            calls = len(provider.payloads)
            await quickly(one.buy(wish(1, count=3)))
            assert [payload.get("n") for payload in provider.payloads[calls:]] == [None] * 3
            assert one.shared.learned.learned(provider.base_url, MODEL)["n"] in ("ignored", "rejected")
            assert one.spent == provider.billed.usd


async def test_fewer_choices_than_asked_for_are_made_up_for() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        provider.script(fewer_choices(3))
        async with desk(provider.base_url, store) as one:
            (bought,) = await quickly(one.buy(wish(count=8)))
            assert len(set(texts(bought))) == 8
            assert [payload.get("n") for payload in provider.payloads] == [8, 5]
            assert one.doors[MODEL].takes_n


async def test_a_reply_that_does_not_say_what_it_used_counts_as_it_is_charged() -> None:
    with FakeProvider() as provider, opened() as store:
        provider.script(no_usage())
        async with desk(provider.base_url, store) as one:
            (bought,) = await quickly(one.buy(wish(count=2)))
            assert bought.drawn is not None
            assert bought.drawn.output_tokens == 2 * 16
            assert bought.cost == one.spent == one.journal.worst(wish().config, wish().messages, 2)


async def test_models_are_reached_by_doors_of_their_own() -> None:
    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            await quickly(one.buy(wish(), wish(model=OTHER)))
            assert sorted(payload["model"] for payload in provider.payloads) == [MODEL, OTHER]
            with pytest.raises(ConfigError, match="'third' was not announced"):
                await one.buy(wish(model="third"))
            with pytest.raises(ConfigError, match="temperature=3"):
                await one.buy(wish(temperature=3))


async def test_marks_wait_until_somebody_asks_for_them() -> None:
    asked: list[str] = []

    def score(answer: str, example: Example) -> float:
        asked.append(answer)
        return length(answer, example)

    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store, scoring=Scoring(score)) as one:
            first, second = await quickly(one.buy(wish(count=2), wish(start=2, count=2)))
            assert (first.marks, asked) == (None, [])
            assert first.drawn is not None
            assert second.drawn is not None
            samples = [*second.drawn.samples[:1], *first.drawn.samples]
            marks = await quickly(one.journal.mark(EXAMPLES[0], samples))
            assert marks == [Mark(score=float(len(sample.text)), ballot=sample.text) for sample in samples]
            assert len(asked) == 4  # what was drawn together is marked together
            assert await quickly(one.journal.mark(EXAMPLES[0], samples)) == marks
            assert (await quickly(one.buy(wish(count=2), mark=True)))[0].marks == tuple(marks[1:])
            assert len(asked) == 4
        assert provider.billed.calls == 2


async def test_only_samples_of_the_journal_can_be_marked() -> None:
    with FakeProvider() as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            with pytest.raises(ConfigError, match="does not say where it is"):
                await one.journal.mark(EXAMPLES[0], [Sample(text="x")])
            with pytest.raises(ConfigError, match=r"sample 3 of 'k'\.\.\. was not bought"):
                await one.journal.mark(EXAMPLES[0], [Sample(text="x", at=("k", 3))])


async def test_the_samples_of_one_step_are_bought_together() -> None:
    def search():  # type: ignore[no-untyped-def]
        return (yield DrawStep(requests=tuple(wish(number) for number in range(20))))

    with FakeProvider(reply=counted()) as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            finds: list[int] = []
            find = one.journal._worker.rows.find
            one.journal._worker.rows.find = lambda keys: finds.append(1) or find(keys)  # type: ignore[method-assign,func-returns-value]
            drawn = await quickly(adrive(search(), one.journal.draws, length, parallel=32))  # type: ignore[arg-type]
            assert len({sample.text for one in drawn for sample in one.samples}) == 40
            assert len(finds) == 1


async def test_replies_that_were_deleted_are_no_reason_to_pay_again_unasked() -> None:
    with FakeProvider() as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            await quickly(one.buy(wish()))
            with store.write() as connection:
                connection.exec_driver_sql("DELETE FROM response")
            with pytest.raises(StoreError, match="not in the store any more"):
                await quickly(one.buy(wish()))
        assert provider.billed.calls == 1


async def test_nothing_asked_is_nothing_done() -> None:
    with FakeProvider() as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            assert await one.buy() == []
            assert await one.journal.mark(EXAMPLES[0], []) == []
            with pytest.raises(ConfigError, match="parallel=0"):
                await one.journal.purchase([wish()], mark=False, parallel=0)


async def test_a_journal_that_could_not_work_is_refused() -> None:
    with FakeProvider() as provider, opened() as store:
        async with desk(provider.base_url, store) as one:
            parts = {"shared": one.shared, "study": one.study}
            with pytest.raises(ConfigError, match="without a door"):
                Journal(**parts, doors={})
            with pytest.raises(ConfigError, match="lease_seconds=0"):
                Journal(**parts, doors=one.doors, lease_seconds=0)
            with pytest.raises(ConfigError, match="cannot mark samples"):
                await Journal(**parts, doors=one.doors).purchase([wish()], mark=True, parallel=1)
