"""From a task to what scores its answers: its rule, a judge on the paid-call path, or the user's own function."""

from __future__ import annotations

from collections.abc import Mapping

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.functions import load_function
from selfreg_sdk.tuner.journal.doors import Door
from selfreg_sdk.tuner.measuring.measured import Range
from selfreg_sdk.tuner.scoring.judge import SCALE, Judge, Judging
from selfreg_sdk.tuner.scoring.scoring import Ballot, Scorer, Scoring
from selfreg_sdk.tuner.task.file import Task
from selfreg_sdk.tuner.task.metric import JudgeScorer, PythonScorer


def judge_model(task: Task, scorer: Scorer | None = None) -> str | None:
    """The model that judges, by ``scorer`` in place of the task's if given; None where none does."""
    asked = task.spec.metric.scorer
    if scorer is not None or not isinstance(asked, JudgeScorer):
        return None
    return asked.model or task.spec.models[0]


def scoring_of(task: Task, doors: Mapping[str, Door], *, scorer: Scorer | None = None) -> Scoring:
    """How the answers of a task are scored, and what a vote over them compares. Code of the user's is imported here.

    Args:
        task: it.
        doors: by model; a judge's must be among them, and what it costs counts under that door's budgets.
        scorer: a function of answer and example in place of the task's; sync or async.

    Raises:
        ConfigError: a function cannot be found or called as it must be, a field that the judge is to see is missing in an
            example, or the judge's model has no door.
    """
    asked, ballot = task.spec.metric.scorer, _ballot(task)
    if scorer is not None:
        scoring = Scoring(scorer, ballot=ballot)
    elif isinstance(asked, JudgeScorer):
        scoring = Scoring(_judge(task, asked, doors), ballot=ballot)
    elif isinstance(asked, PythonScorer):
        function = load_function(asked.function, folder=task.folder, arguments=2)
        scoring = Scoring(function, ballot=ballot, timeout=asked.seconds, name=asked.function)
    else:
        assert task.rule is not None  # every other kind is a rule
        scoring = Scoring(task.rule, ballot=ballot)
    scoring.check(task.examples)
    return scoring


def span_of(task: Task, scorer: Scorer | None = None) -> Range | None:
    """The range of the task's metric, with ``scorer`` in place of its own if given; None where a function may return any
    number.
    """
    if task.spec.metric.metric().rate:
        return 0.0, 1.0
    free = scorer is not None or isinstance(task.spec.metric.scorer, PythonScorer)
    return task.spec.metric.range if free else (0.0, 1.0)


def _judge(task: Task, asked: JudgeScorer, doors: Mapping[str, Door]) -> Judge:
    model = judge_model(task) or ""
    if model not in doors:
        raise ConfigError(
            f"task {task.spec.name!r}: no door is open to its judge, {model!r}; open one beside its models'"
        )
    judging = Judging(
        rubric=asked.rubric,
        scale=SCALE if asked.scale is None else asked.scale,
        show=asked.show,
        max_tokens=asked.max_tokens,
    )
    return doors[model].judge(judging, task_key=task.spec.name)


def _ballot(task: Task) -> Ballot | None:
    """The user's function from an answer to its ballot, as scorers call it."""
    if task.spec.metric.vote_key is None:
        return None
    key = load_function(task.spec.metric.vote_key, folder=task.folder, arguments=1)

    def ballot(answer: str, example: Example) -> str | None:
        return key(answer)  # type: ignore[no-any-return]  # scoring checks what it is

    return ballot
