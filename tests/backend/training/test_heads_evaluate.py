"""An exam counts what it should, rules are tuned where they may be, and differences have the intervals they claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from local_backend.heads import Heads, HeadsConfig
from local_backend.tiny.tokenizer import make_tokenizer
from local_backend.training.evaluation import baselines as standing
from local_backend.training.evaluation.baselines import Where, baselines
from local_backend.training.evaluation.evaluate import Exam, Method, Result, TaskResult, difference, oracle
from local_backend.training.evaluation.tasks import Prompt, Task, right, right_and_different, right_once, tasks_of
from tests.backend.training.training_parts import HIDDEN, random_model

TOKENIZER = make_tokenizer(context=64)
A = TOKENIZER.convert_tokens_to_ids("a")
B = TOKENIZER.convert_tokens_to_ids("b")
END = TOKENIZER.eos_token_id


def says_a(_: Any, answer: str) -> bool:
    return answer == "a"


def exam(*, n: int = 1, samples: int | None = None, score: Any = None) -> Exam:
    check = says_a
    task = Task(
        name="letters",
        prompts=[Prompt(ids=(1, 20 + place), record=place) for place in range(6)],
        score=score or right(check),
        n=n,
        max_tokens=1,
        check=check,
    )
    return Exam(base=random_model(vocabulary=len(TOKENIZER)), tokenizer=TOKENIZER, tasks=[task], samples=samples)


def coin(_: Tensor, logits: Tensor) -> Tensor:
    """a or b, evenly."""
    out = torch.full_like(logits, -torch.inf)
    out[:, [A, B]] = 0.0
    return out


COIN = Method(name="coin", decode=coin)
ALWAYS = Method(
    name="a", decode=lambda hidden, logits: coin(hidden, logits).index_fill(1, torch.tensor([B]), -torch.inf)
)


def test_an_exam_counts_single_answers_and_sets() -> None:
    texts: list[list[str]] = []

    def score(_: Any, samples: Sequence[str]) -> float:
        texts.append(list(samples))
        return float("a" in samples)

    found = exam(n=3, samples=8, score=score).measure(COIN).tasks["letters"]
    # Two disjoint sets of 3 of each prompt's 8 answers.
    assert [len(each) for each in texts] == [3] * 12
    by_prompt = [texts[at : at + 2] for at in range(0, 12, 2)]
    assert found.scores == tuple(np.mean(["a" in each for each in sets]) for sets in by_prompt)
    assert all(0 < share < 1 for share in found.right)
    assert found.right_once == tuple(float(share > 0) for share in found.right)
    assert found.different == tuple(2 / 8 for _ in range(6))
    assert found.tokens == (1.0,) * 6


def test_pass_at_one_is_the_share_and_pass_at_k_is_once() -> None:
    many = exam(samples=64).measure(COIN)
    assert many.mean(lambda task: task.right) == pytest.approx(0.5, abs=0.1)
    assert many.mean(lambda task: task.right_once) == 1
    assert exam(samples=64).measure(ALWAYS).mean(lambda task: task.right) == 1


def test_the_first_answers_do_not_depend_on_how_many_follow() -> None:
    seen: list[list[str]] = []

    def remember(_: Any, samples: Sequence[str]) -> float:
        seen.append(list(samples))
        return 0.0

    for samples in (4, 8):
        exam(n=4, samples=samples, score=remember).measure(COIN)
    assert seen[:6] == seen[6::2]


def test_greedy_draws_one_for_all() -> None:
    found = exam(n=2, samples=6).measure(Method.sampler("temperature=0")).tasks["letters"]
    assert found.different == (1 / 6,) * 6
    assert all(share in (0.0, 1.0) for share in found.right)


def test_neutral_heads_are_plain_sampling() -> None:
    neutral = Heads.neutral(HeadsConfig(hidden_size=HIDDEN))
    judge = exam(samples=8)
    assert (
        judge.measure(Method.heads(neutral, "")).tasks == judge.measure(Method.sampler("temperature=1,top_p=1")).tasks
    )
    assert judge.decisions(neutral) == (1.0, 1.0)


def result(name: str, **scores: Sequence[float]) -> Result:
    tasks = {}
    for task, values in scores.items():
        each = tuple(values)
        tasks[task] = TaskResult(scores=each, right=each, right_once=each, different=each, tokens=each)
    return Result(name=name, tasks=tasks)


def test_every_task_has_the_same_weight() -> None:
    assert result("", long=[0.0] * 9, short=[1.0]).score == pytest.approx(0.5)


def test_the_oracle_takes_the_best_of_each_task() -> None:
    found = oracle([result("cold", x=[1.0, 1.0], y=[0.0, 0.2]), result("hot", x=[0.0, 0.9], y=[0.5, 0.3])])
    assert found.tasks["x"].scores == (1.0, 1.0)
    assert found.tasks["y"].scores == (0.5, 0.3)


def test_the_interval_is_that_of_a_paired_bootstrap_within_tasks() -> None:
    random = np.random.default_rng(0)
    ours = [result("", x=random.random(30), y=random.random(50)) for _ in range(2)]
    theirs = [result("", x=random.random(30) - 0.1, y=random.random(50))]
    mean, low, high = difference(ours, theirs)
    gaps = [
        np.mean([each.tasks[name].scores for each in ours], axis=0) - np.array(theirs[0].tasks[name].scores)
        for name in "xy"
    ]
    assert mean == pytest.approx(np.mean([gap.mean() for gap in gaps]))
    drawn = [np.mean([random.choice(gap, len(gap)).mean() for gap in gaps]) for _ in range(4000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)
    # Pairs matter: the same numbers paired with themselves differ by nothing.
    assert difference(theirs, theirs) == (0, 0, 0)


def test_baselines_are_tuned_on_validation_and_the_oracle_on_the_test() -> None:
    worth = {
        ("validation", "temperature=0.2,top_p=1"): (0.9, 0.1),
        ("validation", "temperature=1.4,top_p=1"): (0.1, 0.8),
        ("test", "temperature=0.2,top_p=1"): (0.5, 0.1),
        ("test", "temperature=1.4,top_p=1"): (0.2, 0.9),
    }
    asked: list[tuple[Where, str]] = []

    def measure(where: Where, settings: Sequence[str]) -> list[Result]:
        found = []
        for setting in settings:
            asked.append((where, setting))
            x, y = worth.get(("validation" if where == "validation" else "test", setting), (0.3, 0.3))
            found.append(result(setting, x=[x, x], y=[y, y]))
        return found

    static = ("temperature=0.2,top_p=1", "temperature=1.4,top_p=1")
    found = {
        each.name: each for each in baselines(measure, mean=(0.71, 0.9), static=static, rules={"EDT": ("edt=1:0.1",)})
    }
    # The validation's favourite, though it is the worse one on the test.
    assert found[f"{standing.BEST} (temperature=0.2,top_p=1)"].score == pytest.approx(0.3)
    assert found[standing.ORACLE].score == pytest.approx((0.5 + 0.9) / 2)
    assert f"{standing.MEAN} (temperature=0.71,top_p=0.90)" in found
    assert {
        "greedy (temperature=0)",
        "default (temperature=1,top_p=1)",
        "T*(logits) (t_star)",
        "EDT (edt=1:0.1)",
    } <= set(found)
    assert {setting for where, setting in asked if where == "validation"} == {*static, "edt=1:0.1"}


def test_every_grid_can_be_parsed() -> None:
    for setting in (*standing.STATIC, *(each for those in standing.RULES.values() for each in those)):
        Method.sampler(setting)


def test_aims() -> None:
    answers = ["a", "b", "a c", "a"]

    def starts(_: Any, answer: str) -> bool:
        return answer.startswith("a")

    assert right(starts)(None, answers) == 0.75
    assert right_once(starts)(None, ["b", "a"]) == 1
    assert right_once(starts)(None, ["b", "b"]) == 0
    # Right are {a}, {a, c}, {a}: distances 1/2, 0 and 1/2.
    assert right_and_different(starts)(None, answers) == pytest.approx(0.75 / 3)
    assert right_and_different(starts)(None, ["a", "b"]) == 0


def test_records_say_which_task_they_are_of() -> None:
    prompts = [Prompt(ids=(1,), record={"task": name} if name else {}) for name in ("x", "", "x", "y")]
    found = tasks_of(prompts, right(says_a), n=1, max_tokens=4)
    assert {task.name: len(task.prompts) for task in found} == {"x": 2, "all": 1, "y": 1}
    with pytest.raises(ValueError, match="has no prompts"):
        Task(name="none", prompts=[], score=right(says_a), max_tokens=1)
