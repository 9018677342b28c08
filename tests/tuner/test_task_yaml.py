from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.task.file import load_task
from selfreg_sdk.tuner.task.yaml_text import read_yaml

text = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], max_codepoint=0xFFFD), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


def written(folder: Path, content: str | bytes) -> Path:
    file = folder / "task.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@given(st.dictionaries(text, values, min_size=1, max_size=4))
def test_what_json_says_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]) -> None:
    file = written(tmp_path_factory.mktemp("yaml"), json.dumps(value, ensure_ascii=False))
    assert read_yaml(file, "task file").value == value


@pytest.mark.parametrize(
    ("plain", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("On", "On"),
        ("true", True),
        ("", None),
        ("~", None),
        ("012", "012"),
        ("12", 12),
        ("+3", 3),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("1e-6", 1e-6),
        (".5", 0.5),
        ("1.", 1.0),
        (".nan", ".nan"),
        ("2026-11-21", "2026-11-21"),
        ("0.30 USD", "0.30 USD"),
        ("=", "="),
    ],
)
def test_words_and_numbers_are_those_of_json(tmp_path: Path, plain: str, value: object) -> None:
    read = read_yaml(written(tmp_path, f"answer: {plain}\nlist: [{plain}]\n"), "task file").value
    assert read["answer"] == value
    assert type(read["answer"]) is type(value)
    assert read["list"] == ([] if plain == "" else [value])


def test_aliases_and_blocks_are_read(tmp_path: Path) -> None:
    content = "\ufeffa: &shared {x: 1}\nb: *shared\nc: |\n  one\n  two\n"
    assert read_yaml(written(tmp_path, content), "task file").value == {"a": {"x": 1}, "b": {"x": 1}, "c": "one\ntwo\n"}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["must hold a mapping"]),
        ("- a\n", ["must hold a mapping"]),
        ("a: 1\nb: [1\nc: 2\n", ["line 3", "not valid YAML"]),
        ("a: 1\n\tb: 2\n", ["line 2, column 1", "not valid YAML"]),
        ("a: 1\nb: c: d\n", ["line 2", "mapping values", "quotes"]),
        ("a: 1\n---\nb: 2\n", ["line 2", "not valid YAML"]),
        ("a: 1\nb: 2\na: 3\n", ["line 3", "'a' stands twice"]),
        ("a: 1\nb:\n  x: 1\n  x: 2\n", ["line 4", "'x' stands twice"]),
        ("a: 1\n3: x\n", ["line 2", "quotes"]),
        ("a: 1\n[x]: 3\n", ["line 2", "quotes"]),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", ["line 3", "merge keys"]),
        ("a: !!python/object:os.system x\n", ["line 1", "tag", "leave it out"]),
        ("a: !env KEY\n", ["line 1", "'!env'"]),
        ("a: !x [1]\n", ["line 1", "'!x'"]),
        ("a: &x [*x]\n", ["line 1", "alias"]),
        ("a: *x\n", ["line 1", "undefined alias"]),
        ("a: 1e999\n", ["line 1", "too large"]),
        ("a: " + "9" * 5000 + "\n", ["line 1", "too large"]),
        ("a: 1\nb: \x07\n", ["line 2", "character"]),
        ("a: " + "[" * 3_000, ["nested too deeply"]),
        (BOMB, ["1000000 values"]),
        (b"a: \xff\n", ["line 1", "UTF-8"]),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    file = written(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(file, "task file")
    assert all(word in str(caught.value) for word in [f"task file {str(file)!r}", *words]), str(caught.value)


def test_what_stands_around_a_mistake_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(written(tmp_path, 'api_key: "sk-canary\nmodel: x\n'), "task file")
    assert "canary" not in str(caught.value)


HEAD = """\
name: moods
models: [small]
prompts:
  plain: "{review}"
  more:
    - role: system
      content: Be brief.
    - role: user
      content: "{review}: good?"
examples:
  - {review: Fine., answer: yes}
  - {review: Bad., answer: no}
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("models: [small]", "models: []"), "line 2: models: "),
        (("role: system", "role: robot"), "line 6: prompts.more[0].role: 'robot'"),
        (("good?", "{good?"), "line 5: prompt 'more'"),
        (('plain: "{review}"', 'plain: "{reviw}"'), "line 3: prompt 'plain' fills in {reviw}"),
        (("Bad., answer: no", "Fine., answer: yes"), "line 12, example 2: the same example as at"),
        (("answer: no", "anwser: no"), "line 13: example"),
        (("metric: vote", "metric: {name: vote, scorer: {kind: numeric,\n  tolerance: -1}}"), "line 14: metric.scorer"),
        (("metric: vote", "metric: vote\nspace:\n  temperature: [0, 9]"), "line 15: space.temperature: temperature=9"),
        (("metric: vote", "metric: vote\nbaseline:\n  tempature: 1"), "line 15: baseline: unknown key 'tempature'"),
        (("metric: vote", "metric: vote\napi_key: x"), "line 14: 'api_key' does not belong here"),
        (("metric: vote", ""), "task.yaml': 'metric' is missing"),
    ],
)
def test_mistakes_are_found_on_their_line(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    whole = f"{HEAD}metric: vote\n"
    assert load_task(written(tmp_path, whole)).examples[1].fields == {"review": "Bad.", "answer": "no"}
    with pytest.raises(ConfigError) as caught:
        load_task(written(tmp_path, whole.replace(*change)))
    assert words in str(caught.value), str(caught.value)
