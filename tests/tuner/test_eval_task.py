"""`eval_task` on the whole stack: which configuration is meant, on which examples, what is paid, and what is found again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.runtime import Runtime, runtime
from selfreg_sdk.store.configs import ConfigRecord
from selfreg_sdk.store.studies import Studies
from selfreg_sdk.tuner.eval_task import Evaluation, aeval_task, eval_task
from selfreg_sdk.tuner.examples.examples import make_examples
from tests.fake_provider import FakeProvider, Payload, RejectParam
from tests.tuner.tuning import PRICES, QUICK, answers, task, world

GOOD = {"model": "large", "temperature": 0.5, "max_tokens": 32, "n": 3}


@pytest.fixture
def served() -> Iterator[FakeProvider]:
    with world() as running:
        yield running


@pytest.fixture
def shared() -> Runtime:
    return runtime(None)


def scored(provider: FakeProvider, config: Any, *, changes: dict[str, Any] | None = None, **given: Any) -> Evaluation:
    reached = {"base_url": provider.base_url, "api_key": "k", "prices": PRICES, "retry": QUICK}
    return eval_task(task(**{"holdout": 0.4, **(changes or {})}), config, **reached, **given)


def version(shared: Runtime, **changes: Any) -> int:
    """A tuned version in the store."""
    given = {
        "task_key": "sums|large|tuned",
        "model": "large",
        "aggregation": "vote of 3",
        "params": {"temperature": 0.5, "max_tokens": 32, "n": 3},
        "provenance": {"kind": "tuned", "prompt": "default", "messages": [["user", "What is {question}?"]]},
    }
    return shared.configs.add_version(ConfigRecord(**{**given, **changes}))


def test_a_configuration_is_scored_with_its_cost_and_against_others(served: FakeProvider, shared: Runtime) -> None:
    found = scored(served, GOOD, against=["baseline", {**GOOD, "n": 1}])
    ours, (base, single) = found.measured, found.others

    assert ours.config == {**GOOD, "prompt": "default"}
    assert base.config["temperature"] == 1.5
    assert (found.part, ours.examples, ours.wanted, ours.ending) == ("unseen", 12, 12, "done")
    assert ours.low < ours.score < ours.high
    assert found.comparisons[0].verdict == "better"
    assert {one.together for one in found.comparisons} == {2}
    # The first of three samples is the single one's, which is paid once; alone each would cost what it costs.
    assert ours.cost > single.cost > base.cost
    assert found.spent == served.billed.usd < Decimal(str(12 * (ours.cost + base.cost + single.cost)))
    assert found.spent == sum(row.cost or 0 for row in shared.meter.ledger())


def test_a_version_is_scored_as_it_runs(served: FakeProvider, shared: Runtime) -> None:
    found = scored(served, version(shared))
    assert found.measured.config == {**GOOD, "prompt": "default"}
    assert all(payload["temperature"] == 0.5 for payload in served.payloads)
    assert scored(served, str(version(shared))).measured.score == found.measured.score


def test_a_version_asks_by_the_prompt_it_was_tuned_with(served: FakeProvider, shared: Runtime) -> None:
    provenance = {
        "kind": "tuned",
        "prompt": "default",
        "messages": [["system", "Add."], ["user", "What is {question}?"]],
    }
    found = scored(served, version(shared, provenance=provenance))
    assert found.measured.config["prompt"] == "default of version 1"
    assert served.payloads[0]["messages"][0] == {"role": "system", "content": "Add."}


def test_the_same_evaluation_is_found_again_and_costs_nothing(served: FakeProvider) -> None:
    first = scored(served, GOOD)
    asked = len(served.requests)
    again = scored(served, GOOD)
    assert (again.measured, again.study) == (first.measured, first.study)
    assert (again.spent, len(served.requests)) == (Decimal(0), asked)


def test_another_repeat_draws_other_samples(served: FakeProvider) -> None:
    first, other = (scored(served, GOOD, repeat=number) for number in (0, 1))
    assert (other.spent, len(served.requests)) == (first.spent, 24)


def test_what_it_costs_does_not_depend_on_who_paid(served: FakeProvider) -> None:
    """The single sample was drawn with the three: it costs nothing now, and in use what one sample costs."""
    three = scored(served, GOOD)
    single = scored(served, {**GOOD, "n": 1})
    assert single.spent == 0
    assert three.measured.cost == pytest.approx(float(three.spent) / 12)
    assert single.measured.cost < three.measured.cost
    assert single.measured.cost * 3 > three.measured.cost  # the prompt is paid once for all three


def test_it_ends_where_the_money_ends(served: FakeProvider) -> None:
    """Not before the worst case of the next example, with both configurations, is more than what is left."""
    hot = {**GOOD, "temperature": 1.0}
    found = scored(served, hot, against=["baseline"], budget="0.0006 USD")
    assert found.measured.ending == "money"
    assert 0 < found.measured.examples == found.others[0].examples < 12
    assert found.spent == served.billed.usd < Decimal("0.0006")
    more = scored(served, hot, against=["baseline"], budget="0.01 USD")
    assert (more.study, more.measured.ending, more.measured.examples) == (found.study, "done", 12)
    assert served.billed.usd == found.spent + more.spent


def test_the_study_stands_in_the_store(served: FakeProvider, shared: Runtime) -> None:
    found = scored(served, GOOD)
    study = Studies(shared.store).get(found.study)
    assert (study.state, study.task_key, study.spec["method"]) == ("finished", "sums", "eval")
    assert "k" not in {str(value) for value in study.spec.values()}


def test_a_judge_is_paid_under_the_same_budget_and_no_part_of_a_requests_cost(shared: Runtime) -> None:
    def reply(payload: Payload) -> Any:
        judging = payload["model"] == "judge"
        return json.dumps({"reason": "so", "verdict": "half right"}) if judging else answers(payload)

    scorer = {"kind": "judge", "rubric": "The sum is right.", "model": "judge"}
    with FakeProvider(reply=reply) as provider:
        found = scored(
            provider, {"model": "small", "max_tokens": 32}, changes={"metric": {"name": "best", "scorer": scorer}}
        )
    drawn = sum((row.cost or Decimal(0) for row in shared.meter.ledger() if row.purpose == "trial"), Decimal(0))
    assert (found.measured.score, found.measured.examples) == (0.5, 12)
    assert found.spent == provider.billed.usd > drawn
    assert found.measured.cost * 12 == pytest.approx(float(drawn))


CASCADE = {
    "cascade": [
        {"model": "small", "params": {"temperature": 0.5, "max_tokens": 32}, "aggregation": "vote of 3"},
        {"model": "large", "params": {"temperature": 0.5, "max_tokens": 32}, "aggregation": "first"},
    ],
    "filter": {"kind": "agreement", "at_least": 1.0},
}


def test_a_cascade_is_scored_as_it_runs_beside_others(served: FakeProvider, shared: Runtime) -> None:
    small, large = ({"model": name, "temperature": 0.5, "max_tokens": 32} for name in ("small", "large"))
    found = scored(served, CASCADE, against=[{**small, "n": 3}, large])
    cascade, (first, second) = found.measured, found.others
    assert [stage["model"] for stage in cascade.config["cascade"]] == ["small", "large"]
    assert [one.examples for one in (cascade, first, second)] == [12, 12, 12]
    assert first.cost < cascade.cost < first.cost + second.cost
    passed = {one.example: len(one.scores) == 3 for one in cascade.outcomes}
    assert set(passed.values()) == {True, False}
    assert cascade.values == {name: (first if passed[name] else second).values[name] for name in passed}

    provenance = {"kind": "tuned", "cascade": CASCADE}
    stored = version(shared, task_key="sums|*|tuned", aggregation="first", provenance=provenance)
    again = scored(served, stored)
    assert (again.measured.score, again.measured.cost) == (cascade.score, cascade.cost)
    assert again.spent == 0


# -- on which examples -------------------------------------------------------------------------------------------------


def test_on_which_part(served: FakeProvider, tmp_path: Path) -> None:
    cheap = {"model": "small", "max_tokens": 32}
    assert scored(served, cheap, on="holdout").measured.examples == 12
    searched = scored(served, cheap, on="search")
    assert searched.measured.examples == 18
    assert "a search may have seen these examples" in searched.notes[0]
    assert scored(served, cheap, changes={"holdout": 0}).part == "all"
    assert scored(served, cheap, changes={"test": 0.2}).measured.examples == 18

    own = make_examples([{"question": "1 + 1", "answer": "2"}, {"question": "2 + 2", "answer": "4"}])
    assert scored(served, cheap, on=own).measured.examples == 2
    (tmp_path / "more.jsonl").write_text('{"question": "3 + 3", "answer": "6"}\n')
    assert scored(served, cheap, on=tmp_path / "more.jsonl").measured.wanted == 1


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("test", "sets no examples aside as 'test'"),
        ("tests", "not one of unseen, search"),
        ([], "holds no examples"),
        (make_examples([{"question": "1 + 1"}]), "no field 'answer'"),
        (make_examples([{"answer": "2"}]), "no such field"),
    ],
)
def test_examples_that_cannot_be_used_are_refused(served: FakeProvider, on: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scored(served, GOOD, on=on)
    assert not served.requests


# -- which configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (99, "99 does not exist"),
        ("winner", "'winner' is no configuration"),
        (True, "True is no configuration"),
        ({"temperature": 1}, "names no model"),
        ({"model": "large", "prompt": "other"}, "'other' is not one of default"),
        ({"model": "large", "temperatur": 1}, "temperatur"),
        ({"model": "large", "temperature": 9}, "temperature"),
        ({"model": "unpriced"}, "unpriced"),
        ({"cascade": [], "filter": "agreement"}, "no cascade"),
        ({**CASCADE, "prompt": "other"}, "'other' is not one of default"),
    ],
)
def test_what_is_no_configuration_is_refused_before_the_first_call(
    served: FakeProvider, config: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        scored(served, config)
    assert not served.requests


def test_a_version_that_makes_another_answer_of_its_samples_is_refused(served: FakeProvider, shared: Runtime) -> None:
    best = version(shared, aggregation="best of 3")
    with pytest.raises(ConfigError, match="makes 'best of 3' its answer, which the metric 'vote'"):
        scored(served, best)
    single = version(shared, aggregation="first", params={"temperature": 0.0, "max_tokens": 32})
    assert scored(served, single).measured.config["n"] == 1


def test_several_prompts_must_be_told_apart(served: FakeProvider) -> None:
    prompts = {"short": "What is {question}?", "long": "Add up: What is {question}?"}
    with pytest.raises(ConfigError, match="several prompts"):
        scored(served, GOOD, changes={"prompts": prompts})
    assert scored(served, {**GOOD, "prompt": "short"}, changes={"prompts": prompts}).measured.examples == 12


def test_a_setting_that_the_model_refuses_is_left_out_and_named(served: FakeProvider) -> None:
    served.rules += [RejectParam(param="temperature")]
    found = scored(served, GOOD)
    assert found.measured.examples == 12
    assert "temperature" not in served.payloads[-1]
    assert "large: temperature=0.5 is sent as None" in found.notes[0]


async def test_inside_a_loop_it_is_awaited(served: FakeProvider) -> None:
    with pytest.raises(ConfigError, match="await aeval_task"):
        scored(served, GOOD)
    heard: list[int] = []
    found = await aeval_task(
        task(),
        GOOD,
        base_url=served.base_url,
        api_key="k",
        prices=PRICES,
        workers=2,
        on_progress=lambda so_far: heard.append(so_far[0].examples),
    )
    assert heard[-1] == found.measured.examples == 9
    assert len(heard) == 2
