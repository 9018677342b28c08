"""Training on a reward: heads learn what is asked for, a stopped run goes on to the same weights, and what cannot work is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from local_backend.checkpoint.load import load_heads
from local_backend.config import SetupError
from local_backend.heads import Heads, HeadsConfig
from local_backend.tiny.tokenizer import make_tokenizer
from local_backend.training.evaluation.tasks import Prompt, Task
from local_backend.training.metrics import read_metrics
from local_backend.training.reinforce.reward import RewardStep, reward
from local_backend.training.reinforce.reward_config import RewardConfig
from tests.backend.training.training_parts import HIDDEN, random_model

TOKENIZER = make_tokenizer(context=64)
PROMPTS = [Prompt(ids=(1, 10 + place), record=place) for place in range(8)]


def model() -> Any:
    return random_model(vocabulary=len(TOKENIZER))


def same(_: Any, samples: Sequence[str]) -> float:
    """Two answers that agree are worth 1."""
    return float(len(set(samples)) < len(samples))


def different(_: Any, samples: Sequence[str]) -> float:
    return len(set(samples)) / len(samples)


def odd(_: Any, samples: Sequence[str]) -> float:
    """Arbitrary, but never the same for all."""
    return float(sum(map(ord, samples[0])) % 7)


def task(score: Any, *, n: int, name: str = "only") -> Task:
    return Task(name=name, prompts=PROMPTS, score=score, n=n, max_tokens=3)


def config(out: Path, **changes: Any) -> RewardConfig:
    small = {"steps": 6, "prompts": 8, "samples": 4, "learning_rate": 0.02, "width": 16}
    return RewardConfig(model="random", out=out, **{**small, **changes})


def decided(heads: Heads, base: Any) -> tuple[float, float]:
    """Mean T and P over some positions."""
    caught: list[torch.Tensor] = []
    handle = base.get_output_embeddings().register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    with torch.no_grad():
        logits = base(torch.arange(10, 42).view(4, 8)).logits
        handle.remove()
        temperature, top_p = heads(caught[0], logits)
    return float(temperature.mean()), float(top_p.mean())


def test_heads_learn_what_is_asked_for(tmp_path: Path) -> None:
    base = model()
    wanted = {"same": task(same, n=2), "different": task(different, n=4)}
    found = {}
    for name, each in wanted.items():
        steps: list[RewardStep] = []
        result = reward([each], base, TOKENIZER, config(tmp_path / name, steps=10), report=steps.append)
        assert result.finished
        found[name] = decided(result.heads, base)
        assert steps[-1].score >= steps[0].score
    # Agreement wants cold draws and a small nucleus, variety the opposite; heads begin at 1 and .95.
    assert found["same"][0] < 0.9
    assert found["same"][1] < found["different"][1]
    assert found["different"][0] > 1.05


def test_a_score_that_never_differs_teaches_nothing(tmp_path: Path) -> None:
    base = model()
    result = reward([task(lambda *_: 1.0, n=1)], base, TOKENIZER, config(tmp_path, steps=2))
    assert decided(result.heads, base) == pytest.approx((1.0, 0.95), abs=1e-6)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    tasks = [task(odd, n=1, name="a"), task(same, n=2, name="b")]
    whole = reward(tasks, model(), TOKENIZER, config(tmp_path / "whole"))

    class Killed(Exception):
        pass

    def kill(at: RewardStep) -> None:
        if at.step == 4:
            raise Killed

    # Killed after step 4 with the state of step 4 not yet written: step 4 is done again.
    with pytest.raises(Killed):
        reward(tasks, model(), TOKENIZER, config(tmp_path / "cut", checkpoint_seconds=0), report=kill)
    resumed = reward(tasks, model(), TOKENIZER, config(tmp_path / "cut", resume=True))
    assert decided(whole.heads, model()) != pytest.approx((1.0, 0.95), abs=1e-3)
    for name, weight in whole.heads.state_dict().items():
        assert torch.equal(weight, resumed.heads.state_dict()[name]), name
    assert read_metrics(whole.metrics) == read_metrics(resumed.metrics)
    assert [record["step"] for record in read_metrics(resumed.metrics)] == [1, 2, 3, 4, 5, 6]


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    runs = [reward([task(odd, n=1)], model(), TOKENIZER, config(tmp_path / str(s), steps=1, seed=s)) for s in (0, 1)]
    first, second = (run.heads.state_dict()["temp_head.mlp.2.weight"] for run in runs)
    assert not torch.equal(first, second)


def test_the_checkpoint_loads_and_says_how_it_was_made(tmp_path: Path) -> None:
    result = reward([task(same, n=2)], model(), TOKENIZER, config(tmp_path / "out", steps=2))
    heads, info = load_heads(tmp_path / "out")
    for name, weight in result.heads.state_dict().items():
        assert torch.equal(weight, heads.state_dict()[name])
    assert info.recipe["method"] == "reward"
    assert info.recipe["steps_done"] == 2
    assert info.recipe["noise"] == 0.5
    assert info.recipe["tasks"][0]["n"] == 2


def test_other_prompts_are_another_run(tmp_path: Path) -> None:
    reward([task(odd, n=1)], model(), TOKENIZER, config(tmp_path, steps=1))
    other = Task(name="only", prompts=PROMPTS[::-1], score=odd, n=1, max_tokens=3)
    with pytest.raises(SetupError, match="tasks was"):
        reward([other], model(), TOKENIZER, config(tmp_path, steps=1, resume=True))


def test_the_learning_rate_falls_with_the_size_of_the_base(tmp_path: Path) -> None:
    given, unsaid = config(tmp_path), config(tmp_path, learning_rate=None)
    assert given.rate(4096) == 0.02
    assert unsaid.rate(64) == unsaid.rate(192) == 3e-3
    assert unsaid.rate(1920) == pytest.approx(3e-4)


def test_given_heads_are_gone_on_from(tmp_path: Path) -> None:
    start = Heads.neutral(HeadsConfig(hidden_size=HIDDEN, statistics=False, temperature_width=8, top_p_width=8))
    result = reward([task(same, n=2)], model(), TOKENIZER, config(tmp_path, steps=1), start=start)
    assert result.heads.config == start.config


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"samples": 1}, "judged by the others"),
        ({"samples": 2}, "scores sets of 4"),
        ({"noise": 0.0}, "noise=0.0"),
        ({"start_top_p": 1.0}, "start_top_p=1.0"),
        ({"prompts": 1}, "cannot serve 2 tasks"),
    ],
)
def test_settings_that_no_run_can_be_made_of_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    tasks = [task(same, n=2, name="a"), task(different, n=4, name="b")]
    with pytest.raises(SetupError, match=told):
        reward(tasks, model(), TOKENIZER, config(tmp_path, **changes))


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="a name of its own"):
        reward([task(same, n=2), task(different, n=2)], model(), TOKENIZER, config(tmp_path))


def test_a_score_that_is_no_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="return a finite number"):
        reward([task(lambda *_: float("nan"), n=1)], model(), TOKENIZER, config(tmp_path))


def test_a_run_is_neither_overwritten_nor_mixed_up(tmp_path: Path) -> None:
    reward([task(same, n=2)], model(), TOKENIZER, config(tmp_path, steps=1))
    with pytest.raises(SetupError, match="resume it"):
        reward([task(same, n=2)], model(), TOKENIZER, config(tmp_path, steps=1))
    with pytest.raises(SetupError, match=r"noise was 0\.5 and is 0\.7"):
        reward([task(same, n=2)], model(), TOKENIZER, config(tmp_path, steps=1, noise=0.7, resume=True))
