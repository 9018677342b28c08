"""Records to batches: what is supervised, what is refused, and that every draw belongs to its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from local_backend.loading import end_tokens, load
from local_backend.tiny import weights_path
from local_backend.training.data import DataError, Example, collate, epoch_order, micro_batches, read_records, split
from tests.backend.training.training_parts import id_records, write_lines


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(weights_path())


def _read(path: Path, tokenizer: Any, **options: Any) -> Any:
    options = {"max_length": 2048, **options}
    return read_records(path, tokenizer, end_ids=frozenset({2}), vocabulary=110, **options)


def _parts(tokenizer: Any, example: Example) -> tuple[str, str]:
    ids = example.ids.tolist()
    return tokenizer.decode(ids[: example.start]), tokenizer.decode(ids[example.start :])


def test_every_layout_of_one_record_gives_the_same_tokens(tmp_path: Path, tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]
    prompt, answer = "<s><|user|>Hi?<|assistant|>", "Yes.<|end|>"
    lines = [
        {"prompt": prompt, "completion": answer},
        {"prompt": prompt, "completion": "Yes."},
        {"messages": turns},
        {"prompt": turns[:1], "completion": turns[1:]},
        {
            "inputs": {
                "p_ids": tokenizer(prompt, add_special_tokens=False)["input_ids"],
                "r_ids": tokenizer(answer, add_special_tokens=False)["input_ids"],
            }
        },
    ]
    examples = _read(write_lines(tmp_path / "data.jsonl", lines), tokenizer).examples
    assert [_parts(tokenizer, each) for each in examples] == [(prompt, answer)] * 5


def test_only_the_last_assistant_turn_is_supervised(tmp_path: Path, tokenizer: Any) -> None:
    words = ["a", "b", "c", "d"]
    turns = [{"role": role, "content": word} for role, word in zip(["user", "assistant"] * 2, words, strict=True)]
    [example] = _read(write_lines(tmp_path / "data.jsonl", [{"messages": turns}]), tokenizer).examples
    assert _parts(tokenizer, example) == ("<s><|user|>a<|assistant|>b<|end|><|user|>c<|assistant|>", "d<|end|>")


def test_what_a_template_writes_behind_the_end_token_is_not_learned(tmp_path: Path, tokenizer: Any) -> None:
    odd = AutoTokenizer.from_pretrained(weights_path())
    odd.chat_template = tokenizer.chat_template.replace("<|end|>", "<|end|>\n")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    [example] = _read(write_lines(tmp_path / "data.jsonl", [{"messages": turns}]), odd).examples
    assert _parts(odd, example)[1] == "b<|end|>"


def test_an_empty_prompt_becomes_the_token_that_opens_a_text(tmp_path: Path, tokenizer: Any) -> None:
    [example] = _read(write_lines(tmp_path / "data.jsonl", [{"prompt": "", "completion": "a"}]), tokenizer).examples
    assert _parts(tokenizer, example) == ("<s>", "a<|end|>")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"prompt": "a", "completion": " "}, "line 2: the completion is empty"),
        (
            {"inputs": {"p_ids": [1], "r_ids": []}},
            'line 2: "r_ids" must be token ids, at least one: the completion is empty',
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
            "line 2: the completion is empty",
        ),
        ({"messages": [{"role": "user", "content": "a"}]}, "line 2: the last message must be the assistant's"),
        ({"inputs": {"p_ids": [1], "r_ids": [110]}}, "line 2: a token id is outside the model's vocabulary of 110"),
        ({"inputs": {"p_ids": [1]}}, "line 2: 'r_ids'"),
        ({"prompt": "a"}, 'line 2: needs "prompt" and "completion"'),
        ("[1]", "line 2: must be a JSON object, not list"),
        ("{", "line 2: Expecting property name"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, tokenizer: Any, line: Any, reason: str) -> None:
    path = write_lines(tmp_path / "data.jsonl", [{"prompt": "a", "completion": "b"}, line])
    with pytest.raises(DataError) as caught:
        _read(path, tokenizer)
    assert reason in str(caught.value)


def test_a_template_that_rewrites_its_prompt_is_refused(tmp_path: Path) -> None:
    odd = AutoTokenizer.from_pretrained(weights_path())
    odd.chat_template = "{{ messages | length }}" + odd.chat_template
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(DataError, match="the chat template rewrites the prompt"):
        _read(write_lines(tmp_path / "data.jsonl", [{"messages": turns}]), odd)


def test_too_long_records_are_dropped_or_cut_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    lines = [{"inputs": {"p_ids": [1] * prompt, "r_ids": [3] * answer}} for prompt, answer in ((2, 3), (2, 9), (9, 2))]
    path = write_lines(tmp_path / "data.jsonl", lines)
    dropped = _read(path, tokenizer, max_length=6)
    assert ([len(each.ids) for each in dropped.examples], dropped.dropped, dropped.cut) == ([5], 2, 0)
    cut = _read(path, tokenizer, max_length=6, too_long="cut")
    assert [(len(each.ids), each.supervised) for each in cut.examples] == [(5, 3), (6, 4)]
    assert (cut.dropped, cut.cut) == (1, 1)
    with pytest.raises(DataError, match="nothing to train on: 3 records are longer than 4 tokens"):
        _read(path, tokenizer, max_length=4)


def test_the_temperature_of_the_records_is_read(tmp_path: Path, tokenizer: Any) -> None:
    lines = [{"prompt": "a", "completion": "b", "sampling": {"temperature": heat}} for heat in (0.7, 1, 0.7)]
    assert _read(write_lines(tmp_path / "data.jsonl", lines), tokenizer).temperatures == (0.7, 1.0)


def test_an_epoch_is_a_function_of_seed_and_epoch_and_holds_every_example(tmp_path: Path, tokenizer: Any) -> None:
    examples = _read(id_records(tmp_path / "data.jsonl"), tokenizer).examples

    def order(seed: int, epoch: int) -> list[int]:
        return [each.line for each in epoch_order(examples, seed=seed, epoch=epoch)]

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == sorted(order(0, 1)) == [each.line for each in examples]
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_random_numbers_belong_to_the_example_whatever_its_batch(tmp_path: Path, tokenizer: Any) -> None:
    examples = _read(id_records(tmp_path / "data.jsonl"), tokenizer).examples
    whole = collate(examples, seed=3, epoch=1)
    assert whole.uniforms.unique().numel() > 0.95 * whole.uniforms.numel()
    for row, each in enumerate(examples):
        alone = collate([each], seed=3, epoch=1, side="left")
        assert torch.equal(alone.uniforms, whole.uniforms[whole.row == row])
        assert torch.equal(alone.labels, whole.labels[whole.row == row])
    assert not torch.equal(whole.uniforms, collate(examples, seed=3, epoch=2).uniforms)
    assert not torch.equal(whole.uniforms, collate(examples, seed=4, epoch=1).uniforms)


def test_samples_of_one_prompt_stay_on_one_side(tmp_path: Path, tokenizer: Any) -> None:
    lines = [{"inputs": {"p_ids": [3 + index // 4], "r_ids": [5, index % 4 + 3, 2]}} for index in range(80)]
    examples = _read(write_lines(tmp_path / "data.jsonl", lines), tokenizer).examples
    training, held_out = split(examples, fraction=0.2, seed=0)
    assert len(held_out) == 16
    assert not {each.prompt for each in training} & {each.prompt for each in held_out}
    assert split(examples, fraction=0, seed=0) == (list(examples), [])
    with pytest.raises(DataError, match="same prompt"):
        split(examples[:4], fraction=0.2, seed=0)


def test_micro_batches_hold_everything_within_their_size(tmp_path: Path, tokenizer: Any) -> None:
    examples = _read(id_records(tmp_path / "data.jsonl"), tokenizer).examples
    groups = list(micro_batches(examples, tokens=40))
    assert sorted(each.line for group in groups for each in group) == [each.line for each in examples]
    assert all(len(group) == 1 or len(group) * max(len(each.ids) for each in group) <= 40 for group in groups)
    assert len(groups) < len(examples)


def test_a_record_of_a_real_conversation_ends_where_the_engine_stops(tmp_path: Path) -> None:
    model, tokenizer = load("tiny")
    [line] = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(line))
    records = read_records(path, tokenizer, end_ids=end_tokens(model, tokenizer), vocabulary=110, max_length=99)
    assert int(records.examples[0].ids[-1]) in end_tokens(model, tokenizer)
