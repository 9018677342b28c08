from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example, make_examples, shuffle, split
from selfreg_sdk.tuner.examples.files import read_examples

ROWS = [{"question": f"{number} + 1", "answer": str(number + 1)} for number in range(40)]


def refusal(*words: str) -> Any:
    """A ConfigError that says all of these."""
    return pytest.raises(ConfigError, match="(?s)" + "".join(f"(?=.*{word})" for word in words))


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


# Ids


def test_ids_are_taken_out_of_the_fields() -> None:
    first, second = make_examples([{"id": 7, "question": "a"}, {"id": "x", "question": "b"}])
    assert (first.id, first.fields) == ("7", {"question": "a"})
    assert second.id == "x"
    assert make_examples([{"key": "k", "id": 1}], id_field="key") == (Example(id="k", fields={"id": 1}),)


def test_ids_made_of_the_content_are_stable() -> None:
    (example,) = make_examples([{"question": "2 + 2", "answer": "4"}])
    assert example.id == "a7518966b6fa831f"
    assert example.id == make_examples([{"answer": "4", "question": "2 + 2"}])[0].id
    assert example.id != make_examples([{"question": "2 + 2", "answer": 4}])[0].id


def test_an_example_can_be_sent_to_another_process() -> None:
    (example,) = make_examples([{"question": "2 + 2", "tags": ["a", None, 1.5]}])
    digest = example.fingerprint
    assert pickle.loads(pickle.dumps(example)) == example
    assert pickle.loads(pickle.dumps(example)).fingerprint == digest


def test_the_caller_cannot_change_an_example_afterwards() -> None:
    row = {"question": "a"}
    (example,) = make_examples([row])
    row["question"] = "b"
    assert example.fields == {"question": "a"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["no examples"]),
        (["text"], ["example 1", "'text'", "mapping"]),
        ([{"question": "a"}, {}], ["example 2", "no fields"]),
        ([{"id": 1}], ["example 1", "no fields"]),
        ([{"id": 1, "q": "a"}, {"q": "b"}], ["example 2", "no field 'id'", "fields are q"]),
        ([{"id": 1, "q": "a"}, {"id": "1", "q": "b"}], ["example 2", "'1'", "at example 1", "of its own"]),
        ([{"id": True, "q": "a"}], ["example 1", "id True", "whole number"]),
        ([{"id": " ", "q": "a"}], ["example 1", "id ' '"]),
        ([{"id": None, "q": "a"}], ["example 1", "id None"]),
        ([{"q": "a"}, {"q": "b"}, {"q": "a"}], ["example 3", "same example as at example 1", "give each an id"]),
        ([{"q": float("nan")}], ["example 1", "finite"]),
        ([{"q": Path("x")}], ["example 1", "JSON serializable"]),
        ([{3: "a"}], ["example 1", "field name 3"]),
    ],
)
def test_what_is_wrong_with_an_example_is_said(rows: list[Any], words: list[str]) -> None:
    with refusal(*words):
        make_examples(rows)


# Order and split


@given(st.permutations(ROWS), st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.25, 0.5]), st.sampled_from([0.0, 0.2]))
def test_a_split_has_every_example_once_whatever_the_order(
    rows: list[dict[str, str]], seed: int, holdout: float, test: float
) -> None:
    found = split(make_examples(rows), seed=seed, holdout=holdout, test=test)
    assert found == split(make_examples(ROWS), seed=seed, holdout=holdout, test=test)
    together = [*found.search, *found.holdout, *found.test]
    assert sorted(example.id for example in together) == sorted(example.id for example in make_examples(ROWS))
    assert (len(found.holdout), len(found.test)) == (round(40 * holdout), round(40 * test))


def test_the_seed_decides_and_nothing_else() -> None:
    examples = make_examples(ROWS)
    one, two = (split(examples, seed=seed, holdout=0.5) for seed in (1, 2))
    assert one == split(examples, seed=1, holdout=0.5)
    assert {example.id for example in one.holdout} != {example.id for example in two.holdout}
    assert shuffle(examples, seed=1) == shuffle(examples[::-1], seed=1) != shuffle(examples, seed=2)
    assert shuffle(examples, seed=1) != examples


def test_a_limit_draws_instead_of_cutting() -> None:
    examples = make_examples(ROWS)
    drawn = shuffle(examples, seed=1, limit=10)
    assert len(drawn) == 10
    assert set(map(examples.index, drawn)) != set(range(10))
    assert shuffle(examples, seed=1, limit=100) == shuffle(examples, seed=1)
    with refusal("limit=0"):
        shuffle(examples, seed=1, limit=0)


def test_what_is_held_out_was_not_searched_on_under_another_id() -> None:
    twins = make_examples([{"id": number, "question": f"{number // 4}"} for number in range(40)])
    for seed in range(20):
        found = split(twins, seed=seed, holdout=0.3, test=0.2)
        says = [{example.fields["question"] for example in part} for part in (found.search, found.holdout, found.test)]
        assert not says[0] & says[1] and not says[0] & says[2] and not says[1] & says[2]  # noqa: PT018
    # The companion: by ids alone, twins fall on both sides.
    cut = shuffle(twins, seed=0)[::2], shuffle(twins, seed=0)[1::2]
    assert {example.fields["question"] for example in cut[0]} & {example.fields["question"] for example in cut[1]}


@pytest.mark.parametrize(
    ("count", "holdout", "test", "words"),
    [
        (1, 0.5, 0.0, ["1 examples", "nothing to search on", "holdout=0.5"]),
        (2, 0.4, 0.4, ["2 examples", "nothing to search on"]),
        (9, 1.0, 0.0, ["holdout=1.0"]),
        (9, 0.0, -0.1, ["test=-0.1"]),
    ],
)
def test_a_split_that_leaves_nothing_is_refused(count: int, holdout: float, test: float, words: list[str]) -> None:
    with refusal(*words):
        split(make_examples(ROWS[:count]), seed=0, holdout=holdout, test=test)


def test_a_small_share_still_holds_something_out() -> None:
    assert len(split(make_examples(ROWS[:3]), seed=0, holdout=0.01).holdout) == 1


# Files

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
cells = text.filter(lambda cell: "\0" not in cell)
table = st.lists(
    st.fixed_dictionaries({"a": cells, "b": cells}), min_size=1, unique_by=lambda row: (row["a"], row["b"])
)


@given(rows=table, delimiter=st.sampled_from(",;\t|"), bom=st.booleans())
def test_csv_comes_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], delimiter: str, bom: bool
) -> None:
    file = tmp_path_factory.mktemp("csv") / "rows.csv"
    with file.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as out:
        writer = csv.DictWriter(out, ["a", "b"], delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    assert [example.fields for example in read_examples(file)] == rows
    assert [example.fields for example in read_examples(file, delimiter=delimiter)] == rows


@given(rows=table, ends=st.sampled_from(["\n", "\r\n", "\n\n"]), bom=st.booleans(), escaped=st.booleans())
def test_jsonl_comes_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], ends: str, bom: bool, escaped: bool
) -> None:
    file = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    content = ends.join(json.dumps(row, ensure_ascii=escaped) for row in rows)
    file.write_bytes(content.encode("utf-8-sig" if bom else "utf-8"))
    assert [example.fields for example in read_examples(file)] == rows


def test_cells_are_text_and_lines_are_remembered(tmp_path: Path) -> None:
    file = written(tmp_path, "x.csv", 'id,zip\r\n1,007\r\n\r\n2,"a\r\nb"\r\n')
    assert [example.fields["zip"] for example in read_examples(file)] == ["007", "a\r\nb"]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("question,answer\nA or B; or C; or D?,B\n", ["question", "answer"]),
        ("question;answer\nA, B, C or D?;B\nNone, or all?;C\n", ["question", "answer"]),
        ('"a;b",c\n"1;2",3\n', ["a;b", "c"]),
        ("question\nwhy?\n", ["question"]),
        ('question\n"why, oh why?"\n', ["question"]),
        ("a|b,c\n1|2,3\n4|5,6,7\n", ["a", "b,c"]),  # only | splits every row alike
    ],
)
def test_the_delimiter_is_found(tmp_path: Path, content: str, columns: list[str]) -> None:
    examples = read_examples(written(tmp_path, "x.csv", content))
    assert [list(example.fields) for example in examples] == [columns] * len(examples)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", "", ["x.csv", "holds no examples", "column names"]),
        ("x.csv", "a,b\n", ["x.csv", "holds no examples"]),
        ("x.csv", "a,b\n1,2\n\n3\n", ["line 4", "no cell for column 'b'", "2 columns"]),
        ("x.csv", "a,b\n1,2,3\n", ["line 2", "3 cells for 2 columns", "quotes"]),
        ("x.csv", "a,,b\n1,2,3\n", ["line 1", "column 2 has no name"]),
        ("x.csv", "a, a\n1,2\n", ["line 1", "two columns are called 'a'"]),
        ("x.csv", 'a,b\n1,"2\n3,4\n', ["line 2", "unexpected end of data", "quotes"]),
        ("x.csv", 'a,b\n1,2\n"3"4,5\n', ["line 3", "quotes"]),
        ("x.csv", "a;b,c\n1;2,3\n", ["line 1", "',' and ';'", "delimiter"]),
        ("x.csv", "a,b\n1," + "x" * 200_000 + "\n", ["line 2", "131072 characters", "JSON lines"]),
        ("x.csv", "id,b\n1,2\n3,4\n1,5\n", ["line 4", "'1'", "line 2"]),
        ("x.csv", b"a,b\n1,2\n3,\xff\n", ["x.csv", "line 3", "not UTF-8;", "save"]),
        ("x.csv", "a,b\n1,2\n".encode("utf-16"), ["x.csv", "UTF-16", "save"]),
        ("x.jsonl", "\n \n", ["x.jsonl", "holds no examples", "one JSON object a line"]),
        ("x.jsonl", '{"a": 1}\n{"a": }\n', ["line 2, column 7", "one JSON object a line"]),
        ("x.jsonl", '[\n{"a": 1}\n]\n', ["line 1", "without the list"]),
        ("x.jsonl", '[{"a": 1}]\n', ["line 1", "a list"]),
        ("x.jsonl", '{"a": 1}\n3\n', ["line 2", "3", "mapping"]),
        ("x.jsonl", '{"a": NaN}\n', ["line 1", "NaN"]),
        ("x.jsonl", '{"a": 1, "b": 2, "b": 3}\n', ["line 1", "'b' stands twice"]),
        ("x.jsonl", "[" * 100_000 + "\n", ["line 1", "recursion"]),
        ("x.jsonl", '{"a": ' + "9" * 5000 + "}\n", ["line 1", "digits"]),
        ("x.txt", "a\n", ["x.txt", "no format", "set format"]),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_remedy(
    tmp_path: Path, name: str, content: str | bytes, words: list[str]
) -> None:
    with refusal(*words):
        read_examples(written(tmp_path, name, content))


def test_files_that_are_not_there_and_options_that_do_not_fit(tmp_path: Path) -> None:
    with refusal("none.csv", "cannot be read", "No such file"):
        read_examples(tmp_path / "none.csv")
    with refusal("home.csv", "not expanded"):
        read_examples(Path("~/home.csv"))
    with refusal("cannot be read", "directory"):
        read_examples(tmp_path, format="csv")
    file = written(tmp_path, "x.data", "a:b\n1:2\n")
    assert read_examples(file, format="csv", delimiter=":")[0].fields == {"a": "1", "b": "2"}
    with refusal("delimiter='::'", "one character"):
        read_examples(file, format="csv", delimiter="::")
    with refusal("delimiter=';'", "CSV files only"):
        read_examples(file, format="jsonl", delimiter=";")
    with refusal("line 2", "no field 'key'", "fields are a, b"):
        read_examples(file, format="csv", delimiter=":", id_field="key")
