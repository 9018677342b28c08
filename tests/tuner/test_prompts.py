from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.prompts import Prompt, check_prompts


def prompt(*templates: str, name: str = "p") -> Prompt:
    return Prompt(name=name, messages=tuple(("user", template) for template in templates))


def example(**fields: Any) -> Example:
    return Example(id="e1", fields=fields)


def filled(template: str, **fields: Any) -> str:
    return prompt(template).render(example(**fields))[0]["content"]


names = st.sampled_from(["a", "b", "question", "größe"])
pieces = st.lists(
    st.one_of(st.text(max_size=8).map(lambda t: t.replace("{", "{{").replace("}", "}}")), names.map("{{{}}}".format))
)


@given(pieces, st.dictionaries(names, st.text(max_size=8)))
def test_it_fills_in_as_str_format_does(parts: list[str], fields: dict[str, str]) -> None:
    template = "x" + "".join(parts)
    values = {"a": "", "b": "{a}", "question": "}{", "größe": "{{"} | fields
    assert filled(template, **values) == template.format(**values)


@given(st.text("{}ab.!:[]0 ", max_size=12))
def test_whatever_is_written_is_filled_in_as_str_format_does_or_refused(template: str) -> None:
    values = {"a": "1", "b": "2", "ab": "3"}
    try:
        made = Prompt(name="p", messages=(("user", f"x{template}"),)).render(example(**values))[0]["content"]
    except ConfigError:
        return
    assert made == f"x{template}".format(**values)


def test_messages_keep_their_roles_and_order() -> None:
    made = Prompt(name="p", messages=(("system", "Be {mood}."), ("user", "{q}"), ("assistant", "Hm: {q}")))
    assert made.fields == ("mood", "q")
    assert made.render(example(mood="kind", q="why?")) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "why?"},
        {"role": "assistant", "content": "Hm: why?"},
    ]
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("5", "5"),
        (5, "5"),
        (0.5, "0.5"),
        (True, "true"),
        (["ä", None], '["ä", null]'),
        ({"k": "v"}, '{"k": "v"}'),
        ("", ""),
    ],
)
def test_text_stands_as_it_is_and_the_rest_as_json(value: Any, shown: str) -> None:
    assert filled("<{a}>", a=value) == f"<{shown}>"


def test_names_may_hold_spaces() -> None:
    assert filled("{the question}", **{"the question": "why?"}) == "why?"


@pytest.mark.parametrize(
    "template",
    [
        "{a.__class__}",
        "{a[0]}",
        "{a!r}",
        "{a:>10}",
        "{}",
        "{0}",
        "{ a}",
        "{a }",
        "{a",
        "a}",
        "{a}}",
        "{{a}",
        '{"k": 1}',
        "{a{b}}",
    ],
)
def test_nothing_else_of_str_format_is_read(template: str) -> None:
    with pytest.raises(ConfigError, match=r"prompt 'p'.*write"):
        prompt(template)


def test_a_lone_brace_is_found_on_its_line() -> None:
    with pytest.raises(ConfigError, match=r"line 3 of the template: a lone '}'; write '}}'"):
        prompt("one {a}\ntwo\nthree }")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((), "no messages"),
        ((("robot", "x"),), "role 'robot' is not one of system"),
        ((("user", " \n"),), "message is empty"),
    ],
)
def test_prompts_that_say_nothing_are_refused(messages: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"prompt 'p'.*{words}"):
        Prompt(name="p", messages=messages)


def test_missing_fields_of_any_example_are_found_before_the_first_call() -> None:
    examples = [example(question="a", hint="b"), Example(id="e2", fields={"question": "a", "hnit": "b"})]
    check_prompts([prompt("{question}")], examples)
    with pytest.raises(
        ConfigError, match=r"prompt 'w' fills in \{hint\}, but example 'e2' .*question, hnit; did you mean \{hnit\}"
    ):
        check_prompts([prompt("{question}"), prompt("x", "{hint}", name="w")], examples)
    with pytest.raises(ConfigError, match=r"\{hint\}.*'e2'"):
        prompt("{hint}").render(examples[1])
    with pytest.raises(ConfigError, match=r"\{hint\}.*null"):
        check_prompts([prompt("{hint}")], [example(hint=None)])


def test_the_fingerprint_is_of_what_is_said() -> None:
    assert prompt("{a}").fingerprint == prompt("{a}", name="other").fingerprint
    others = [prompt("{a} "), prompt("{a}", "{a}"), prompt("{b}"), Prompt(name="p", messages=(("system", "{a}"),))]
    assert len({made.fingerprint for made in (prompt("{a}"), *others)}) == 5
    assert prompt("{a}").fingerprint == "ebcb6fe3b675db2136365b7de1d98ed41980e18808c081f8c0cb2761c6722aa8"
