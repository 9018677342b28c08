"""What lets a cheap answer pass, and that nothing else does."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.cascade.config import CascadeConfig, Stage
from selfreg_sdk.tuner.task.filters import Answers, Filter, Verdict, agreement, parse_filter, reaches


def answers(*texts: str | None, ballots: tuple[str | None, ...] | None = None, chosen: int = 0) -> Answers:
    return Answers(texts=texts, ballots=texts if ballots is None else ballots, chosen=chosen)


def filter_of(written: Any, folder: Path | None = None) -> Filter:
    return Filter(parse_filter(written), folder=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "odd_filters.py").write_text(
        "import asyncio, time\n"
        "def short(answer): return len(answer) < 5\n"
        "def share(answers): return len(set(answers)) / len(answers)\n"
        "async def later(answer):\n    await asyncio.sleep(0)\n    return answer == 'yes'\n"
        "def raising(answer): raise KeyError(answer)\n"
        "def words(answer): return 'yes'\n"
        "def nothing(answer): return float('nan')\n"
        "def endless(answer): time.sleep(5)\n"
        "async def waiting(answer): await asyncio.sleep(60)\n"
        "def leaving(answer): raise SystemExit(1)\n"
        "def two(answer, example): return 1\n"
    )
    return tmp_path


@given(st.lists(st.one_of(st.none(), st.sampled_from("abc")), min_size=1, max_size=9))
def test_agreement_is_the_share_of_the_most_frequent(ballots: list[str | None]) -> None:
    most = max((ballots.count(ballot) for ballot in "abc"), default=0)
    assert agreement(ballots) == most / len(ballots)


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_share_is_reached_however_it_was_computed(part: int, whole: int) -> None:
    part = min(part, whole)
    assert reaches(part / whole, part * (1 / whole))
    assert reaches(part * (1 / whole), part / whole)
    assert not reaches((part - 0.01) / whole, part / whole)


@pytest.mark.parametrize(
    ("written", "good", "bad"),
    [
        ("agreement", answers("4", "4", "5"), answers("4", "3", "5")),
        (
            {"kind": "agreement", "at_least": 0.5},
            answers("a", "b", ballots=("1", "1")),
            answers("a", "a", "a", ballots=("1", "2", "3")),
        ),
        ({"kind": "agreement", "at_least": 0.5}, answers(None, "4"), answers(None, None, "4")),
        ({"kind": "regex", "pattern": "the answer is"}, answers("no", "so the answer is 4", chosen=1), answers("no")),
        ({"kind": "regex", "pattern": "YES", "ignore_case": True}, answers("yes"), answers("no")),
        ({"kind": "regex", "pattern": "x(y)?"}, answers("x"), answers("y")),
        ("json_schema", answers('Here: ```json\n{"a": 1}\n```'), answers("none")),
        (
            {"kind": "json_schema", "schema": {"type": "object", "required": ["a"]}},
            answers('{"a": 1}'),
            answers('{"b": 1}'),
        ),
        ("code", answers("```python\nx = 1\n```"), answers("```python\nx = 1 / 0\n```")),
        (
            {"kind": "code", "tests": ["assert f(2) == 4"]},
            answers("def f(x): return x * x"),
            answers("def f(x): return x + 3"),
        ),
        ("odd_filters:short", answers("yes"), answers("a long answer")),
        ("odd_filters:later", answers("yes"), answers("no")),
        (
            {"kind": "python", "function": "odd_filters:share", "of": "answers", "at_least": 0.7},
            answers("a", "b", None),
            answers("a", "a", "a"),
        ),
    ],
)
async def test_what_passes_and_what_does_not(written: Any, good: Answers, bad: Answers, folder: Path) -> None:
    gate = filter_of(written, folder)
    for asked, passes in ((good, True), (bad, False)):
        verdict = await gate.apasses(asked)
        assert verdict.passed is passes
        assert verdict.problem is None
        assert verdict == await asyncio.to_thread(gate.passes, asked)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raising", "raised KeyError: 'yes'"),
        ("words", "returned 'yes', no number but str; return a finite float"),
        ("nothing", "returned nan, no finite number; return a finite float"),
        ("endless", "took more than 0.2 seconds; it still runs in its thread, which nothing can stop"),
        ("waiting", "took more than 0.2 seconds; it was cancelled"),
        ("leaving", "raised SystemExit: 1"),
    ],
)
async def test_a_function_that_fails_lets_nothing_pass(function: str, said: str, folder: Path) -> None:
    gate = filter_of({"kind": "python", "function": f"odd_filters:{function}", "seconds": 0.2}, folder)
    began = time.monotonic()
    assert await gate.apasses(answers("yes")) == Verdict(passed=False, level=None, problem=said)
    assert await asyncio.to_thread(gate.passes, answers("yes")) == Verdict(passed=False, level=None, problem=said)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("written", [{"kind": "regex", "pattern": "."}, "json_schema", "code", "odd_filters:short"])
async def test_an_answer_without_text_never_passes(written: Any, folder: Path) -> None:
    verdict = await filter_of(written, folder).apasses(answers(None, "x"))
    assert verdict == Verdict(passed=False, level=None, problem="there is no text")


def test_levels_come_of_one_measurement(folder: Path) -> None:
    gate = filter_of({"kind": "agreement", "at_least": [1, 0.5, 0.5]})
    assert gate.levels == (0.5, 1.0)
    half = answers("a", "a", "b", "c")
    assert [gate.at(level).passes(half).passed for level in gate.levels] == [True, False]
    assert gate.at(1.0).levels == (1.0,)
    assert gate.levels == (0.5, 1.0)  # the first stays as it was
    assert filter_of({"kind": "regex", "pattern": "x"}).at(1.0).levels == (1.0,)


def test_a_filter_is_written_so_that_another_machine_reads_it(tmp_path: Path) -> None:
    (tmp_path / "form.json").write_text('{"type": "object", "required": ["a"]}')
    for written in (
        {"kind": "json_schema", "file": "form.json"},
        {"kind": "agreement", "at_least": [0.6, 0.8]},
        {"kind": "regex", "pattern": "x", "ignore_case": True},
        {"kind": "code", "tests": ["assert x"], "seconds": 2.5},
    ):
        gate = filter_of(written, tmp_path)
        again = filter_of(gate.written())
        assert again.spec == gate.spec
        assert "file" not in gate.written()
        for asked in (answers('{"a": 1}'), answers('{"b": 1}'), answers("x = 1")):
            assert again.passes(asked) == gate.passes(asked)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"kind": "regex", "pattern": "("}, "is not a regular expression"),
        ({"kind": "json_schema", "schema": {"type": "objekt"}}, "the schema is not valid"),
        ({"kind": "json_schema", "schema": {}, "file": "x"}, "write one of them"),
        ({"kind": "json_schema", "file": "nowhere.json"}, "cannot be read"),
        ({"kind": "code", "tests": ["x = ("]}, "is not Python"),
        ({"kind": "agreement", "at_least": 1.2}, "less than or equal to 1"),
        ({"kind": "agreement", "at_least": []}, "an empty list names no level"),
        ({"kind": "agreement", "atleast": 1}, "did you mean 'at_least'"),
        ("agreeing", "is not one of"),
        ("nowhere_at_all:f", "there is no module"),
        ("odd_filters:two", "cannot be called with 1 arguments"),
    ],
)
def test_what_cannot_work_is_said(written: Any, said: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        filter_of(written, folder)


def test_a_cascade_is_written_and_read() -> None:
    cascade = CascadeConfig(
        first=Stage.of({"model": "small", "prompt": "p", "temperature": 0.7, "n": 3}, "vote of 3"),
        second=Stage.of({"model": "large", "stop": ["END"], "n": 1}, "first"),
        gate=filter_of({"kind": "agreement", "at_least": 0.6}),
    )
    again = CascadeConfig.read(cascade.written())
    assert (again.first, again.second, again.written()) == (cascade.first, cascade.second, cascade.written())
    assert cascade.first.config == {"model": "small", "temperature": 0.7, "n": 3}
    assert "folder" not in cascade.written()
    assert str(cascade) == "small, unless agreement 0.6: large"
    for broken in (
        None,
        {},
        {"cascade": [1, 2], "filter": "agreement"},
        {**cascade.written(), "filter": {"kind": "x"}},
    ):
        with pytest.raises(ConfigError):
            CascadeConfig.read(broken)
    with pytest.raises(ConfigError, match="cannot be sent"):
        Stage.of({"model": "small", "temperature": 9}, "first")


def test_a_function_is_found_again_where_it_was_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage.of({"model": "small"}, "first")
    written = CascadeConfig(first=stage, second=stage, gate=filter_of("odd_filters:short", folder)).written()
    monkeypatch.delitem(sys.modules, "odd_filters")  # another process
    assert CascadeConfig.read(written).gate.passes(answers("yes")).passed
    monkeypatch.delitem(sys.modules, "odd_filters")
    with pytest.raises(ConfigError, match="there is no module"):
        CascadeConfig.read({**written, "folder": str(folder / "moved")})
