"""Rejection sampling: what is kept, what is told of it, and that a killed run writes the file of an undisturbed one."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from local_backend.config import SetupError
from local_backend.loading import load
from local_backend.tiny.families import FAMILIES
from local_backend.training.data import DataError, read_records
from local_backend.training.trajectories import (
    SampleConfig,
    Sampled,
    embedded_prompts,
    load_checker,
    read_prompts,
    sample,
)
from tests.backend.training.training_parts import write_lines


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return load("tiny")


def _config(out: Path, **settings: Any) -> SampleConfig:
    settings = {"model": "tiny", "checker": "tiny", "samples": 3, "max_tokens": 60, "rows": 12, **settings}
    return SampleConfig(out=out, **settings)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_right_answers_are_kept_with_their_provenance_and_train(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny
    prompts, check = embedded_prompts(tokenizer, count=2)
    fates: Counter[str] = Counter()
    wrong: list[str] = []

    def judge(record: Any, answer: str) -> bool:
        right = check(record, answer)
        fates["kept" if right else "wrong"] += 1
        if not right:
            wrong.append(answer)
        return right

    result = sample(model, tokenizer, prompts, judge, _config(tmp_path / "out.jsonl", temperature=1.3))
    assert result.finished
    assert (result.prompts, sum(result.fates.values())) == (12, 36)
    assert {name: result.fates.get(name, 0) for name in ("kept", "wrong")} == dict(fates)
    assert min(result.fates[fate] for fate in ("kept", "wrong", "unfinished")) > 0
    lines = _lines(tmp_path / "out.jsonl")
    assert len(lines) == fates["kept"]
    for line in lines:
        record = prompts[line["sampling"]["prompt"]].record
        assert FAMILIES[record["family"]].check(record["prompt"], line["completion"])
        assert (line["sampling"]["temperature"], line["sampling"]["model"]) == (1.3, "tiny")
        assert line["prompt"] == tokenizer.decode(line["inputs"]["p_ids"])
        assert line["inputs"]["r_ids"][-1] == tokenizer.eos_token_id
    records = read_records(tmp_path / "out.jsonl", tokenizer, end_ids=frozenset({2}), vocabulary=110, max_length=500)
    assert records.temperatures == (1.3,)
    assert len(records.examples) == len(lines)


def test_no_more_than_asked_are_kept_of_a_prompt(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    prompts, _ = embedded_prompts(tiny[1], count=1)
    result = sample(
        *tiny, prompts, lambda record, answer: True, _config(tmp_path / "out.jsonl", keep=1, max_tokens=200)
    )
    assert result.fates["kept"] == 6
    assert result.fates["surplus"] == 12 - result.fates.get("unfinished", 0)
    assert "12 right but beyond the number to keep" in result.sentence()


def test_an_interrupted_run_goes_on_to_the_same_file(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny
    prompts, check = embedded_prompts(tokenizer, count=2)
    sample(model, tokenizer, prompts, check, _config(tmp_path / "whole.jsonl"))
    config = _config(tmp_path / "out.jsonl", resume=True)

    def report(at: Sampled) -> None:
        if at.done == 4:
            signal.raise_signal(signal.SIGINT)

    stopped = sample(model, tokenizer, prompts, check, config, report=report)
    assert (stopped.done, stopped.finished) == (4, False)
    # A kill may leave lines of a batch whose progress was not noted, the last one torn.
    with config.out.open("a") as file:
        file.write('{"prompt": "half a li')
    assert sample(model, tokenizer, prompts, check, config).finished
    assert config.out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert config.out.stat().st_size > 0


def test_without_its_place_a_resumed_run_would_write_another_file(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny
    prompts, check = embedded_prompts(tokenizer, count=2)
    config = _config(tmp_path / "out.jsonl", resume=True)
    sample(model, tokenizer, prompts, check, config)
    whole = config.out.read_bytes()
    progress = Path(f"{config.out}.progress")
    progress.write_text(json.dumps({**json.loads(progress.read_text()), "done": 4}))
    sample(model, tokenizer, prompts, check, config)
    assert config.out.read_bytes() != whole


def test_a_file_is_neither_overwritten_nor_mixed(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny
    prompts, check = embedded_prompts(tokenizer, count=1)
    config = _config(tmp_path / "out.jsonl", max_tokens=5)
    sample(model, tokenizer, prompts, check, config)
    with pytest.raises(SetupError, match="is there already"):
        sample(model, tokenizer, prompts, check, config)
    with pytest.raises(SetupError, match=r"temperature was 1\.0 and is 0\.5"):
        sample(model, tokenizer, prompts, check, _config(config.out, max_tokens=5, temperature=0.5, resume=True))
    assert sample(model, tokenizer, prompts, check, _config(config.out, max_tokens=5, overwrite=True)).finished


def test_a_checker_that_fails_is_named(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    def check(record: Any, answer: str) -> bool:
        return bool(record["reference"] == answer)

    prompts, _ = embedded_prompts(tiny[1], count=1)
    config = _config(tmp_path / "out.jsonl", checker="judge:right", max_tokens=200)
    with pytest.raises(SetupError, match=r"checker 'judge:right' failed on an answer to prompt 1 \(KeyError"):
        sample(*tiny, prompts, check, config)


def test_prompts_and_checkers_of_the_users_own(
    tiny: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny[1]
    lines = [{"messages": [{"role": "user", "content": "a"}], "answer": "b"}, {"prompt": "<s><|user|>a<|assistant|>"}]
    prompts = read_prompts(write_lines(tmp_path / "prompts.jsonl", lines), tokenizer)
    assert prompts[0].ids == prompts[1].ids
    assert prompts[0].record["answer"] == "b"
    (tmp_path / "own_check.py").write_text("def right(record, answer):\n    return record['answer'] == answer\n")
    monkeypatch.chdir(tmp_path)
    assert load_checker("own_check:right")({"answer": "b"}, "b")
    for name in ("own_check:wrong", "no_such_module:right", "own_check"):
        with pytest.raises(SetupError, match=f"no checker '{name}'"):
            load_checker(name)
    with pytest.raises(DataError, match="line 2"):
        read_prompts(write_lines(tmp_path / "bad.jsonl", [lines[0], {"question": "a"}]), tokenizer)
