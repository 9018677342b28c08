from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import DecodingParams
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.prices import Prices
from selfreg_sdk.tuner.scoring.rule import Rule
from selfreg_sdk.tuner.search.dimensions import Alternatives, Choice, Float, Int
from selfreg_sdk.tuner.task.file import load_task, parse_task
from selfreg_sdk.tuner.task.metric import NumericScorer, PythonScorer
from selfreg_sdk.tuner.task.spec import TaskSpec
from tests.tuner.written import DATA, DIMENSIONS, SCORERS, TASK, refused, task


def space(**written: Any) -> Any:
    return task(space=written).spec.varied


# What a file says


def test_a_whole_file() -> None:
    read = load_task(DATA / "sums.yaml")
    spec = read.spec
    assert [example.id for example in read.examples] == ["a", "b", "c", "d"]
    assert [prompt.name for prompt in read.prompts] == ["plain", "worked"]
    assert read.prompt("worked").render(read.examples[0]) == [
        {"role": "system", "content": 'Work it out, then write {"sum": N}.'},
        {"role": "user", "content": "2 + 2"},
    ]
    assert read.space == {
        "model": Choice(("small", "large")),
        "prompt": Choice(("plain", "worked")),
        "temperature_or_top_p": Alternatives(({"temperature": Float(0, 1.5)}, {"top_p": Float(0.1, 1)})),
        "n": Int(1, 10, log=True),
        "max_tokens": Int(16, 256, log=True),
        "stop": Choice((None, ["\n\n"])),
    }
    assert (spec.metric.name, spec.metric.scorer) == ("vote", NumericScorer(kind="numeric"))
    assert spec.metric.metric().aggregation == "vote"
    assert spec.baseline.params() == DecodingParams(temperature=0.7, n=1, max_tokens=256)
    assert (spec.inference_budget, spec.budget) == (Decimal("0.003"), Decimal("0.30"))
    assert (spec.method, spec.seed, spec.workers) == ("pool", 7, 4)
    assert [len(part) for part in (read.split.search, read.split.holdout, read.split.test)] == [3, 1, 0]
    assert read.prices is not None
    assert Prices(read.prices).lookup("small", base_url=spec.base_url).output_per_token == Decimal("4e-7")


def test_the_short_forms() -> None:
    read = load_task(DATA / "reviews.yaml")
    assert (read.spec.models, read.spec.metric.scorer.kind, read.spec.method) == (("small",), "exact", "ecooptigen")
    assert len(read.examples) == 3
    assert read.prompts[0].messages == (("user", "Review: {review}\n\nIs its mood good or bad?"),)
    assert read.space["temperature"] == Choice((0.0, 0.5, 1.0))
    assert task(metric={"name": "mean", "scorer": "my.scores:length"}).spec.metric.scorer == PythonScorer(
        kind="python", function="my.scores:length"
    )


@pytest.mark.parametrize("name", ["sums", "reviews"])
def test_what_was_written_can_be_stored_and_read_again(name: str) -> None:
    spec = load_task(DATA / f"{name}.yaml").spec
    assert TaskSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec


def test_files_are_named_relative_to_the_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(load_task(DATA / "sums.yaml").examples) == 4
    assert len(parse_task(TASK | {"examples": "sums.jsonl"}, folder=DATA).examples) == 4
    assert len(parse_task(TASK | {"examples": str(DATA / "sums.jsonl")}).examples) == 4


def test_the_default_space_follows_the_metric() -> None:
    assert task().spec.varied.dimensions() == {
        "temperature_or_top_p": Alternatives(({"temperature": Float(0, 1.5)}, {"top_p": Float(0.1, 1)})),
        "n": Int(1, 10, log=True),
        "max_tokens": Int(64, 1024, log=True),
    }
    assert task(metric="first").space["n"] == Choice((1,))
    assert space(temperature=1).dimensions() == {
        "temperature": Choice((1.0,)),
        "n": Choice((1,)),
        "max_tokens": Choice((1024,)),
    }


@pytest.mark.parametrize(("name", "written", "read"), DIMENSIONS)
def test_every_way_to_write_a_dimension(name: str, written: object, read: object) -> None:
    assert space(**{name: written}).dimensions()[name] == read


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"temperature": [1, 0]}, ["space.temperature", "empty range", "choices: [1.0, 0.0]"]),
        ({"temperature": [1, 1]}, ["empty range"]),
        ({"temperature": [0, 3]}, ["temperature=3", "less than or equal to 2"]),
        ({"temperature": Float(0.0, 3.0)}, ["temperature=3.0", "less than or equal to 2"]),
        ({"temperature": True}, ["temperature=True", "bool"]),
        ({"temperature": "nan"}, ["temperature='nan'", "finite"]),
        ({"temperature": {"low": 0}}, ["'low' is not a dimension", "'choices: [...]', or 'low', 'high'"]),
        ({"temperature": {"low": 0, "high": 1, "log": True}}, ["logarithmic"]),
        ({"temperature": {"low": 0, "high": 1, "log": "yes"}}, ["log='yes'"]),
        ({"temperature": []}, ["empty list"]),
        ({"temperature": [0, 0, 0]}, ["only once"]),
        ({"top_p": [0, 1]}, ["top_p=0", "greater than 0"]),
        ({"n": [1.5, 3]}, ["n=1.5", "integer"]),
        ({"n": 0}, ["n=0"]),
        ({"max_tokens": [None, 5]}, ["null", "costs at most"]),
        ({"stop": ""}, ["stop"]),
        ({"stop": [""]}, ["['']", "write texts"]),
        ({"stop": []}, ["no stop sequence"]),
        ({"stop": {"low": 1, "high": 2}}, ["write 'choices: [...]'"]),
        ({"reasoning_effort": "some"}, ["reasoning_effort='some'", "'minimal'"]),
        ({"temperature_or_top_p": {"temperature": [0, 1]}}, ["temperature_or_top_p", "'top_p' is missing"]),
        (
            {"temperature": 1, "temperature_or_top_p": {"temperature": 1, "top_p": 1}},
            ["temperature_or_top_p and temperature contradict"],
        ),
        ({"temprature": 1}, ["space: unknown key 'temprature'; did you mean 'temperature'?"]),
        ({"seed": 1}, ["unknown key 'seed'"]),
    ],
)
def test_what_is_wrong_with_a_space_is_said(written: dict[str, Any], words: list[str]) -> None:
    said = refused(space=written)
    assert all(word in said for word in ["task: space", *words]), said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": None}, ["'name' is missing"]),
        ({"name": "a|b"}, ["name", "'a|b'"]),
        ({"exmples": []}, ["unknown key 'exmples'; did you mean 'examples'?"]),
        ({"examples": 3}, ["examples", "name of a file"]),
        ({"examples": []}, ["examples", "no examples"]),
        ({"examples": [{"question": "a", "answer": "b"}, 3]}, ["examples[1]", "dictionary"]),
        ({"examples": [{"question": "a", "answer": "b"}]}, ["nothing to search on", "holdout"]),
        ({"examples": [{"question": "a"}, {"question": "b"}]}, ["no field 'answer'", "question", "name the right one"]),
        ({"examples": {"file": "none.csv"}}, ["none.csv", "cannot be read"]),
        ({"examples": {"file": "x.csv", "limit": 0}}, ["examples.limit: 0", "greater"]),
        ({"examples": {"file": "x.csv", "formt": "csv"}}, ["examples", "did you mean 'format'?"]),
        ({"answer": "question"}, ["'default' fills in {question}, the expected answer"]),
        ({"prompts": "{question"}, ["prompt 'default'", "a lone '{'"]),
        ({"prompts": "{topic}"}, ["{topic}", "question, answer"]),
        ({"prompts": {}}, ["prompts"]),
        ({"prompts": {"file": "none.txt"}}, ["none.txt", "cannot be read"]),
        ({"prompts": {"file": "none.txt", "a": "x"}}, ["'file' is no name"]),
        ({"prompts": {"a": [{"role": "robot", "content": "x"}]}}, ["prompts.a[0].role", "'robot' is not one of"]),
        ({"prompts": {"a": [{"role": "user"}]}}, ["prompts.a[0]", "one of 'content' and 'file'"]),
        ({"models": []}, ["models"]),
        ({"models": ["a", "a"]}, ["'a' is named twice"]),
        ({"base_url": "localhost"}, ["base_url", "http://localhost:8000/v1"]),
        ({"metric": "first", "space": {"n": [1, 5]}}, ["'first' takes one answer", "space.n"]),
        ({"metric": "mean", "baseline": {"n": 5}}, ["'mean' takes one answer", "baseline.n"]),
        ({"metric": "vot"}, ["metric: 'vot' is not one of", "'vote'"]),
        ({"metric": {"name": "success", "mode": "min"}}, ["metric", "always maximised"]),
        ({"metric": {"name": "best", "vote_key": "a:b"}}, ["vote_key is for"]),
        ({"metric": {"name": "vote", "scorer": "regx"}}, ["metric.scorer", "'regx' is not one of 'exact'"]),
        ({"metric": {"name": "vote", "scorer": {}}}, ["metric.scorer", "'kind' is missing"]),
        ({"metric": {"name": "vote", "scorer": {"kind": "exact", "ignorecase": 1}}}, ["did you mean 'ignore_case'?"]),
        ({"metric": {"name": "vote", "scorer": {"kind": "regex", "pattern": "("}}}, ["not a regular expression"]),
        ({"metric": {"name": "vote", "scorer": "os.system('x'):y"}}, ["metric.scorer", "names no function"]),
        ({"metric": {"name": "vote", "scorer": {"kind": "json_schema"}}}, ["one of 'schema' and 'file'"]),
        ({"baseline": {"temperature": 3}}, ["baseline.temperature", "3"]),
        ({"baseline": {"model": "big"}}, ["the model 'big' is not one of small"]),
        ({"baseline": {"prompt": "x"}}, ["the prompt 'x' is not one of default"]),
        ({"budget": "1 EUR"}, ["budget", "'EUR' is not USD"]),
        ({"budget": "1 USD/day"}, ["budget", "period"]),
        ({"inference_budget": -0.1}, ["inference_budget", "negative"]),
        ({"budget": True}, ["budget", "True"]),
        ({"method": "magic"}, ["method", "'pool'"]),
        ({"seed": -1}, ["seed"]),
        ({"seed": True}, ["seed", "bool"]),
        ({"workers": 0}, ["workers"]),
        ({"holdout": 1}, ["holdout"]),
        ({"holdout": 0.5, "test": 0.5}, ["nothing to search on"]),
    ],
)
def test_what_is_wrong_with_a_task_is_said(changes: dict[str, Any], words: list[str]) -> None:
    said = refused(**changes)
    assert all(word in said for word in ["task: ", *words]), said


def test_all_problems_are_told_at_once() -> None:
    lines = refused(workers=0, models=[], budget="1 EUR", baseline={"a": 1, "b": 2}).splitlines()
    assert len(lines) == 5
    many = refused(prompts={f"p{number}": [] for number in range(20)}).splitlines()
    assert (len(many), many[-1]) == (11, "and 10 more")


@pytest.mark.parametrize(
    ("written", "amount"),
    [(0.3, "0.3"), (1, "1"), ("0.30 USD", "0.30"), (0.00001, "0.00001"), (Decimal("0.1"), "0.1")],
)
def test_amounts_are_exact(written: object, amount: str) -> None:
    assert task(budget=written).spec.budget == Decimal(amount)


def test_scorers_that_compare_nothing_need_no_answer() -> None:
    rows = [{"question": "a"}, {"question": "b"}]
    for scorer in ("m:f", {"kind": "regex", "pattern": "^yes"}, {"kind": "judge", "rubric": "It is kind."}):
        task(examples=rows, metric={"name": "best", "scorer": scorer})
    grouped = {"name": "best", "scorer": {"kind": "regex", "pattern": "is (.*)"}}
    assert "no field 'answer'" in refused(examples=rows, metric=grouped)


@pytest.mark.parametrize(("written", "rule"), SCORERS)
def test_scorers_are_the_ones_that_were_named(written: Any, rule: Rule | None) -> None:
    assert task(metric={"name": "best", "scorer": written}).rule == rule


def test_a_schema_may_stand_in_a_file(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    (tmp_path / "form.json").write_text('{"type": "object", "required": ["sum"]}')
    scorer = {"kind": "json_schema", "file": "form.json"}
    read = parse_task(TASK | {"metric": {"name": "best", "scorer": scorer}}, folder=tmp_path)
    assert read.rule is not None
    assert [read.rule(text, read.examples[0]) for text in ('{"sum": 3}', "{}")] == [1.0, 0.0]
    (tmp_path / "form.json").write_text('{"type": 3}')
    with pytest.raises(ConfigError, match="not valid"):
        parse_task(TASK | {"metric": {"name": "best", "scorer": scorer}}, folder=tmp_path)
    (tmp_path / "form.json").write_text("{")
    with pytest.raises(ConfigError, match=r"form\.json' is not JSON"):
        parse_task(TASK | {"metric": {"name": "best", "scorer": scorer}}, folder=tmp_path)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(sorted(TaskSpec.model_fields)), value=anything)
def test_whatever_is_written_is_a_task_or_a_clear_refusal(key: str, value: object) -> None:
    said = None
    try:
        made = parse_task(TASK | {key: value})
    except ConfigError as error:
        said = str(error)
    assert made.split.search if said is None else said.startswith(("task: ", "task, example "))
