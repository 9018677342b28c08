from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Aggregation, TaskKey, task_key

aggregations = st.just(Aggregation()) | st.builds(
    Aggregation, kind=st.sampled_from(["any", "vote", "best"]), n=st.integers(1, 9999)
)


def key(*messages: tuple[str, str], **changes: Any) -> TaskKey:
    return task_key(**({"name": None, "messages": messages, "model": "m", "aggregation": Aggregation()} | changes))


@given(aggregation=aggregations)
def test_an_aggregation_reads_what_it_writes(aggregation: Aggregation) -> None:
    assert Aggregation.parse(str(aggregation)) == aggregation
    assert Aggregation.parse(aggregation) is aggregation


def test_parse_is_tolerant_of_case_and_space() -> None:
    assert Aggregation.parse("  Vote   OF 5 ") == Aggregation(kind="vote", n=5)
    assert Aggregation.parse("first") == Aggregation()


@pytest.mark.parametrize("text", ["", "vote", "vote 5", "any of", "best of many", "5", "vote of -1", "vote of 99999"])
def test_parse_names_the_text_and_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="write 'first', 'vote of N'") as caught:
        Aggregation.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Aggregation.parse("vote of 0"), "n=0 must be at least 1"),
        (lambda: Aggregation.parse("first of 3"), "uses one sample, got n=3"),
        (lambda: Aggregation(kind="first", n=2), "uses one sample, got n=2"),
        (lambda: Aggregation(kind="mean", n=2), "kind='mean' must be one of"),  # type: ignore[arg-type]
    ],
)
def test_a_senseless_aggregation_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_explicit_name_wins_over_the_messages() -> None:
    named = key(("system", "a"), name="triage")
    assert named == key(("system", "b"), name="triage")
    assert (named.task, named.explicit) == ("triage", True)
    assert str(named) == "triage|m|first"


@pytest.mark.parametrize("name", ["", "  ", "a|b", "a\nb"])
def test_an_ambiguous_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="task name") as caught:
        key(name=name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_with_a_system_message_the_user_turns_are_variables(role: str) -> None:
    one = key((role, "You classify tickets."), ("user", "my printer burns"))
    assert one == key((role, "You classify tickets."), ("user", "refund?"), ("assistant", "x"), ("user", "and now?"))
    assert one != key((role, "You classify cats."), ("user", "my printer burns"))
    assert not one.explicit


def test_every_system_message_counts_and_so_does_their_order() -> None:
    assert key(("system", "a"), ("system", "b")) != key(("system", "a"))
    assert key(("system", "a"), ("system", "b")) != key(("system", "b"), ("system", "a"))
    assert key(("system", "a"), ("system", "b")) != key(("system", "ab"))


def test_without_a_system_message_the_first_user_message_is_the_template() -> None:
    assert key(("user", "What is 12 + 345?")) == key(("user", "What is 7 + 8?"), ("user", "Sure?"))
    assert key(("user", "What is 12 + 345?")) != key(("user", "What is 12 - 345?"))


def test_digits_of_a_system_message_are_part_of_the_task() -> None:
    assert key(("system", "Answer in 1 line.")) != key(("system", "Answer in 9 lines."))


def test_model_and_aggregation_are_part_of_the_key() -> None:
    base = key(("user", "x"))
    other_model, other_use = (
        key(("user", "x"), model="m2"),
        key(("user", "x"), aggregation=Aggregation.parse("any of 3")),
    )
    assert len({base, other_model, other_use}) == len({str(base), str(other_model), str(other_use)}) == 3
    assert base.task == other_model.task == other_use.task


@given(messages=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=20))))
def test_any_messages_give_a_short_printable_key(messages: list[tuple[str, str]]) -> None:
    found = key(*messages)
    assert found.task.startswith("auto-")
    assert len(found.task) == 21
    assert found == key(*messages)


def test_keys_are_the_same_in_every_process() -> None:
    """They are stored: no salted hash may enter them."""
    program = (
        "from policies import Aggregation, task_key;"
        "print(task_key(name=None, messages=[('user', 'hä?')], model='m', aggregation=Aggregation()))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == str(key(("user", "hä?"))) == "auto-0818497eabcc7339|m|first"
