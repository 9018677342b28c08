"""Commands in prompts, and prompts at three levels: what stands where, what is held out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from local_backend.tiny.tokenizer import make_tokenizer
from local_backend.training.data import DataError
from local_backend.training.steering.commands import ENGLISH, LEVELS, Commands, Place, commanded, read_commands
from local_backend.training.steering.steer_config import SteerConfig
from local_backend.training.steering.triples import Triples, load_triples
from tests.backend.training.training_parts import random_model, write_lines

COMMANDS = Commands(
    training={"low": ("Calm.",), "normal": ("",), "high": ("Wild.", "Wilder.")},
    held_out={"low": ("Cold.",), "normal": ("", "Plain."), "high": ("Hot.",)},
)
TOKENIZER = make_tokenizer(context=128)


def conversation(prompt: str, answer: str = "Yes.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def triples(tmp_path: Path, records: list[Any], *, commands: Commands = COMMANDS, **changes: Any) -> Triples:
    data = write_lines(tmp_path / "data.jsonl", records)
    config = SteerConfig(heads="heads", data=data, out=tmp_path / "out", **changes)
    return load_triples(config, commands, random_model(vocabulary=len(TOKENIZER)), TOKENIZER)


def prompts(found: Triples, side: str) -> list[tuple[str, ...]]:
    return [tuple(TOKENIZER.decode(each.ids[: each.start]) for each in triple) for triple in getattr(found, side)]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("before", [("user", "One?"), ("assistant", "1"), ("user", "Calm. Two?")]),
        ("after", [("user", "One?"), ("assistant", "1"), ("user", "Two? Calm.")]),
        ("system", [("system", "Calm."), ("user", "One?"), ("assistant", "1"), ("user", "Two?")]),
    ],
)
def test_a_command_stands_in_the_last_words_of_the_user_or_in_the_system_message(
    place: Place, expected: list[tuple[str, str]]
) -> None:
    turns = [("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    messages = [{"role": role, "content": content} for role, content in turns]
    found = commanded({"messages": messages}, "Calm.", place)["messages"]
    assert [(each["role"], each["content"]) for each in found] == [*expected, turns[-1]]
    apart = commanded({"prompt": messages[:-1], "completion": messages[-1:]}, "Calm.", place)
    assert [*apart["prompt"], *apart["completion"]] == found
    assert commanded({"messages": messages}, "", place) == {"messages": messages}


def test_a_command_joins_the_system_message_that_is_there() -> None:
    record = {"messages": [{"role": "system", "content": "Be kind."}, *conversation("Hi")["messages"]]}
    assert commanded(record, "Calm.", "system")["messages"][0] == {"role": "system", "content": "Be kind. Calm."}
    assert len(commanded(record, "Calm.", "system")["messages"]) == 3


def test_a_prompt_of_plain_text_opens_or_ends_with_the_command() -> None:
    record = {"prompt": "Once upon a time", "completion": " there was"}
    assert commanded(record, "Wild.", "before") == {**record, "prompt": "Wild. Once upon a time"}
    assert commanded(record, "Wild.", "after") == {**record, "prompt": "Once upon a time Wild."}


@pytest.mark.parametrize(
    ("record", "place", "said"),
    [
        ({"inputs": {"p_ids": [1], "r_ids": [2]}}, "before", "token ids"),
        ({"prompt": "Once", "completion": " upon"}, "system", "no system message"),
        (
            {"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "before",
            "the user's",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}, {}]}, "before", "list, not text"),
    ],
)
def test_a_record_without_a_place_for_a_command_is_refused(record: dict[str, Any], place: Place, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        commanded(record, "Calm.", place)


def test_the_english_commands_are_many_and_apart() -> None:
    for level in LEVELS:
        known, new = set(ENGLISH.training[level]), set(ENGLISH.held_out[level])
        assert len(known) >= 5
        assert len(new) >= 3
        assert known & new <= {""}
    everywhere = [wording for level in LEVELS for wording in {*ENGLISH.training[level], *ENGLISH.held_out[level]}]
    assert len(everywhere) == len(set(everywhere))
    # Most prompts have no command: that is normal, and is trained as such.
    assert "" in ENGLISH.training["normal"]
    assert "" not in (*ENGLISH.training["low"], *ENGLISH.training["high"])


def test_commands_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "commands.json"
    path.write_text(json.dumps({"training": {"low": ["Ruhig."], "normal": [""], "high": ["Wild."]}}))
    assert read_commands(path) == Commands(
        training={"low": ("Ruhig.",), "normal": ("",), "high": ("Wild.",)}, held_out={}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no file of commands"),
        ("[]", "no file of commands"),
        ('{"training": {"low": [1]}}', "1 is no text"),
        ('{"training": {"low": ["a"], "high": ["b"]}}', "no wordings for normal"),
        (
            '{"training": {"low": ["a"], "normal": [""], "high": ["b"]}, "held_out": {"low": ["c"]}}',
            "held_out has no wordings for normal, high",
        ),
        (
            '{"training": {"low": ["a"], "normal": [""], "high": ["b"]},'
            ' "held_out": {"low": ["b"], "normal": [""], "high": ["c"]}}',
            "'b' is trained on and held out",
        ),
    ],
)
def test_a_wrong_file_of_commands_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "commands.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_commands(path)


def test_each_prompt_comes_at_three_levels_with_the_same_answer(tmp_path: Path) -> None:
    found = triples(tmp_path, [conversation(f"Number {n}?", f"It is {n}.") for n in range(20)], held_out=4)
    assert (len(found.training), len(found.known), len(found.new)) == (16, 4, 4)
    for triple, (low, normal, high) in zip(found.training, prompts(found, "training"), strict=True):
        assert len({bytes(each.ids[each.start :].numpy()) for each in triple}) == 1
        bare = normal.removeprefix("<s><|user|>")
        assert low == f"<s><|user|>Calm. {bare}"
        assert high in (f"<s><|user|>Wild. {bare}", f"<s><|user|>Wilder. {bare}")
    assert all(low.startswith("<s><|user|>Cold. ") for low, _, _ in prompts(found, "new"))
    assert len({each.line for triple in found.all for each in triple}) == 3 * len(found.all)


def test_held_out_prompts_occur_once_and_are_in_no_training(tmp_path: Path) -> None:
    # Each prompt five times, with different answers.
    records = [conversation(f"Number {n % 10}?", f"Answer {n}.") for n in range(50)]
    found = triples(tmp_path, records, held_out=100, variants=2)
    held = [normal for _, normal, _ in prompts(found, "known")]
    assert len(held) == len(set(held)) == 2  # a fifth of ten
    assert not set(held) & {normal for _, normal, _ in prompts(found, "training")}
    assert len(found.training) == 8 * 5 * 2
    again = triples(tmp_path, records, held_out=100, variants=2)
    assert prompts(again, "training") == prompts(found, "training")
    assert prompts(triples(tmp_path, records, held_out=100, seed=5), "known") != prompts(found, "known")


def test_without_held_out_wordings_there_is_nothing_to_say_of_new_ones(tmp_path: Path) -> None:
    plain = Commands(training=COMMANDS.training, held_out={})
    found = triples(tmp_path, [conversation(f"Number {n}?") for n in range(10)], commands=plain)
    assert (len(found.known), found.new) == (2, [])


def test_too_long_ones_are_left_out_and_counted(tmp_path: Path) -> None:
    records = [conversation(f"Number {n}?") for n in range(10)] + [conversation("x" * 100)]
    found = triples(tmp_path, records, held_out=1, max_length=60)
    assert found.dropped == 1
    assert len(found.training) + len(found.known) == 10


@pytest.mark.parametrize(
    ("records", "changes", "said"),
    [
        (["{"], {}, "line 1"),
        (["[]"], {}, "line 1: must be a JSON object"),
        ([conversation("Hi"), {"inputs": {}}], {}, "line 2: .*token ids"),
        ([conversation("Hi", "")], {}, "line 1: the completion is empty"),
        ([conversation("Hi")], {}, "give at least five"),
        # The embedded model's chat template shows no system messages.
        (
            [conversation(f"Number {n}?") for n in range(10)],
            {"place": "system"},
            "does not show commands placed 'system'",
        ),
    ],
)
def test_records_that_cannot_be_steered_are_named(
    tmp_path: Path, records: list[Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        triples(tmp_path, records, **changes)
