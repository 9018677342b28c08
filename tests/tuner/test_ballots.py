"""What a vote compares at run time is what it compared while the task was tuned."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Aggregation
from selfreg_sdk.aggregate import ballot_of, plain, ranking
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.scoring.metrics import elected, metric
from selfreg_sdk.tuner.scoring.scoring import Scoring
from selfreg_sdk.tuner.study.ballots import ballot_spec, vote_key_of
from selfreg_sdk.tuner.task.file import Task, parse_task

RULES: dict[str, Any] = {
    "exact": {"kind": "exact", "ignore_case": True, "ignore_punctuation": True},
    "numeric": {"kind": "numeric", "percent": "share"},
    "regex": {"kind": "regex", "pattern": r"\b(\w)\s*$", "ignore_case": True},
    "json_schema": {"kind": "json_schema", "schema": {"type": ["object", "number"]}, "compare": True},
    "code": {"kind": "code", "tests": "tests"},
}
ANSWERS = [
    "4",
    "so 4.0",
    " 4 ",
    "five",
    "5",
    "Five!",
    "50%",
    ".5",
    '{"a": 4}',
    '```json\n{"a":4}\n```',
    "x = 4\n",
    "",
    " \n",
    "no idea",
    "No idea.",
]


def task_of(metric_of: dict[str, Any], folder: Path | None = None) -> Task:
    examples = [{"question": f"{i}?", "answer": str(i), "tests": "assert True"} for i in range(8)]
    return parse_task(
        {
            "name": "sums",
            "examples": examples,
            "prompts": "Add: {question}",
            "models": ["m"],
            "metric": {"name": "vote", **metric_of},
        },
        folder=folder,
    )


TASKS = {name: task_of({"scorer": rule}) for name, rule in RULES.items()}


@pytest.mark.parametrize("name", RULES)
async def test_every_rule_votes_at_run_time_as_it_voted_while_it_was_tuned(name: str) -> None:
    task = TASKS[name]
    assert task.rule is not None
    spec = json.loads(json.dumps(ballot_spec(task)))  # as it comes out of the store
    key, flags = vote_key_of(spec)
    assert flags == ()
    scoring = Scoring(task.rule)
    for text in ANSWERS:
        assert ballot_of(text, key) == (await scoring.score(text, task.examples[4])).ballot


@settings(max_examples=60)
@given(st.sampled_from(sorted(RULES)), st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=9))
def test_the_sample_that_wins_is_the_one_the_metric_values(name: str, texts: list[str]) -> None:
    task = TASKS[name]
    assert task.rule is not None
    ballots = [None if not text.strip() else task.rule.ballot(text, task.examples[0]) for text in texts]
    scores = [float(place) for place in range(len(texts))]
    vote = Aggregation(kind="vote", n=len(texts))

    winner = ranking(texts, vote, vote_key=vote_key_of(ballot_spec(task))[0])[0]
    assert winner == elected(ballots)
    assert metric("vote").of(scores, ballots) == scores[winner]


def test_a_schema_in_a_file_and_a_function_are_found_again(tmp_path: Path) -> None:
    (tmp_path / "form.json").write_text('{"type": "object"}')
    spec = ballot_spec(task_of({"scorer": {"kind": "json_schema", "file": "form.json"}}, tmp_path))
    assert spec == {"kind": "json_schema", "schema": {"type": "object"}}

    (tmp_path / "ends_of_mine.py").write_text("def end(text):\n    return text[-1:] or None\n")
    spec = ballot_spec(task_of({"vote_key": "ends_of_mine:end"}, tmp_path))
    assert "ends_of_mine" not in sys.modules
    key, _ = vote_key_of(spec)
    assert (key("abc"), key("")) == ("c", None)


def test_who_scores_by_calls_or_code_votes_by_the_text() -> None:
    for scorer in ({"kind": "judge", "rubric": "good"}, "scores:mine"):
        spec = ballot_spec(task_of({"scorer": scorer}))
        assert spec is None
        assert vote_key_of(spec) == (plain, ())
    assert vote_key_of({"kind": "judge", "rubric": "good"}) == (plain, ())


def test_what_cannot_be_used_is_an_error_and_what_nobody_knows_is_flagged() -> None:
    with pytest.raises(ConfigError, match="not a regular expression"):
        vote_key_of({"kind": "regex", "pattern": "("})
    assert vote_key_of({"kind": "telepathy"}) == (plain, ("ballot_unknown",))
    assert vote_key_of({"kind": "exact", "mood": "good"}) == (plain, ("ballot_unknown",))
