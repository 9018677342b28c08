"""The built-in scorers: what counts as right, what a vote compares, and what is refused before the first call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.scoring.code_rule import Code
from selfreg_sdk.tuner.scoring.json_rule import JsonSchema
from selfreg_sdk.tuner.scoring.reading import code_in
from selfreg_sdk.tuner.scoring.rule import Rule
from selfreg_sdk.tuner.scoring.text_rules import Exact, Numeric, Regex


def ex(**fields: Any) -> Example:
    return Example(id="e1", fields=fields)


def score(rule: Rule, answer: str, /, **fields: Any) -> Any:
    return rule(answer, ex(**fields))


# -- exact -------------------------------------------------------------------------------------------------------------

LOOSE = Exact(ignore_case=True, ignore_punctuation=True, ignore_markdown=True)


@pytest.mark.parametrize(
    ("rule", "answer", "expected", "right"),
    [
        (Exact(), "Paris", "Paris", 1),
        (Exact(), "  Paris\n", "Paris", 1),
        (Exact(), "New \n York", "New York", 1),
        (Exact(), "paris", "Paris", 0),
        (Exact(), "Paris.", "Paris", 0),
        (Exact(), "caf\u0065\u0301", "caf\u00e9", 1),
        (Exact(), "4", 4, 1),
        (Exact(), "rouge", ["red", "rouge"], 1),
        (Exact(), "green", ["red", "rouge"], 0),
        (Exact(ignore_white_space=False), "Paris ", "Paris", 0),
        (Exact(ignore_case=True), "STRASSE", "straße", 1),
        (Exact(ignore_punctuation=True), "«Paris!»", "Paris", 1),
        (Exact(ignore_markdown=True), "# **Paris**", "Paris", 1),
        (Exact(ignore_markdown=True), "```text\nParis\n```", "Paris", 1),
        (Exact(ignore_markdown=True), "snake_case_name", "snakecasename", 0),
        (LOOSE, "> - The answer is ***`PARIS`***.", "the answer is paris", 1),
    ],
)
def test_exact(rule: Exact, answer: str, expected: Any, right: int) -> None:
    assert score(rule, answer, answer=expected) == right


def test_the_ballot_of_exact_is_the_text_as_it_is_compared() -> None:
    assert LOOSE.ballot("**Yes!**", ex(answer="yes")) == LOOSE.ballot(" yes", ex(answer="yes")) == "yes"
    assert Exact().ballot("Yes", ex(answer="yes")) == "Yes"


# -- numeric -----------------------------------------------------------------------------------------------------------


def test_percent_is_read_as_asked() -> None:
    assert score(Numeric(percent="share"), "that is 0.45", answer="45%") == 1
    assert score(Numeric(), "45%", answer=45) == 1


@pytest.mark.parametrize(
    ("rule", "answer", "expected", "right"),
    [
        (Numeric(), "it is 72", "72", 1),
        (Numeric(), "it is 72.0", 72, 1),
        (Numeric(), "0.30000000001", 0.3, 1),
        (Numeric(relative=0), "0.30000000001", 0.3, 0),
        (Numeric(), "0.1", 0.1, 1),
        (Numeric(), "0.333", "1/3", 0),
        (Numeric(tolerance=0.001), "0.333", "1/3", 1),
        (Numeric(relative=0.01), "101", 100, 1),
        (Numeric(relative=0.01), "101.1", 100, 0),
        (Numeric(), "none", 3, 0),
        (Numeric(), "7", ["5", 7], 1),
        (Numeric(), "7", "#### 7", 1),
        (Numeric(), "123456789012345678901", 123456789012345678900, 1),
        (Numeric(relative=0), "123456789012345678901", 123456789012345678900, 0),
    ],
)
def test_numeric(rule: Numeric, answer: str, expected: Any, right: int) -> None:
    assert score(rule, answer, answer=expected) == right


def test_the_ballot_of_numeric_is_the_number_in_one_spelling() -> None:
    ballots = {Numeric().ballot(text, ex(answer=1)) for text in ("1,500.0", "so 1500", r"\boxed{1{,}500}", "3000/2")}
    assert ballots == {"1500"}
    assert Numeric().ballot(" No  IDEA", ex(answer=1)) is None


# -- regex -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "answer", "right"),
    [
        (Regex(pattern=r"answer: (\w)"), "answer: A ... no, answer: B", 1),
        (Regex(pattern=r"answer: (\w)"), "answer: B ... no, answer: A", 0),
        (Regex(pattern=r"answer: (\w)"), "B", 0),
        (Regex(pattern=r"ANSWER: (\w)", ignore_case=True), "answer: b", 1),
        (Regex(pattern=r"(\w+): (?P<letter>\w)", group="letter"), "it: B", 1),
        (Regex(pattern=r"\w+: \w", group=0), "it: B", 0),
        (Regex(pattern=r"\bB\b"), "so B it is", 1),
        (Regex(pattern=r"\bB\b"), "so Bit", 0),
        (Regex(pattern=r"x(B)?"), "x", 0),
    ],
)
def test_regex(rule: Regex, answer: str, right: int) -> None:
    assert score(rule, answer, answer="B") == right


def test_the_ballot_of_regex_is_what_was_captured() -> None:
    rule = Regex(pattern=r"answer: (\w+)")
    assert rule.ballot("answer: X, answer: Y ", ex()) == "Y"
    assert rule.ballot("I Refuse", ex()) is None
    assert Regex(pattern=r"\d+").ballot("a 12", ex()) == "12"


# -- json --------------------------------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"name": "Ann"}', 1),
        ('Here you are:\n```json\n{"name": "Ann"}\n```\nBye', 1),
        ('The set {1} gives {"name": "Ann", "age": 3}.', 1),
        ('```json\n{"name": 1}\n```\nrather {"name": "Ann"}', 1),
        ('{"name": 1}', 0),
        ('{"name": "Ann", "age": NaN}', 0),
        ('{"name": "Ann"', 0),
        ("Ann", 0),
        ("[" * 100_000, 0),
        ('{"name":' * 50_000, 0),
        ('{"name": "Ann", "x": ' + "[" * 500 + "]" * 500 + "}", 0),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_fits_a_schema(answer: str, right: int) -> None:
    pytest.importorskip("jsonschema")
    assert score(JsonSchema(schema=PERSON), answer) == right


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ({"name": "Ann", "tags": ["a", "b"]}, 1.0),
        ({"name": "Ann", "tags": ["a", "c"]}, 2 / 3),
        ({"name": "Bob", "tags": []}, 0.0),
        ({"name": "Ann", "tags": ["a", "b"], "more": 1}, 1.0),
        ("Ann", 0.0),
    ],
)
def test_json_is_compared_field_by_field(answer: Any, share: float) -> None:
    expected = {"name": "Ann", "tags": ["a", "b"]}
    rule = JsonSchema(expected="answer")
    assert score(rule, json.dumps(answer), answer=expected) == pytest.approx(share)
    assert score(rule, json.dumps(answer), answer=json.dumps(expected)) == pytest.approx(share)
    assert score(JsonSchema(expected="answer", whole=True), json.dumps(answer), answer=expected) == (answer == expected)


def test_numbers_are_equal_across_their_kinds_and_booleans_are_no_numbers() -> None:
    rule = JsonSchema(expected="answer")
    assert score(rule, '{"a": 1.0}', answer={"a": 1}) == 1
    assert score(rule, '{"a": true}', answer={"a": 1}) == 0


def test_the_ballot_of_json_is_canonical() -> None:
    rule = JsonSchema()
    assert (
        rule.ballot('{"b": 1, "a": "ü"}', ex()) == rule.ballot('```\n{"a":"ü",\n"b":1}\n```', ex()) == '{"a":"ü","b":1}'
    )
    assert rule.ballot("No Json", ex()) is None


def test_a_schema_is_checked_when_it_is_given_and_nothing_is_fetched() -> None:
    pytest.importorskip("jsonschema")
    with pytest.raises(ConfigError, match="schema is not valid"):
        JsonSchema(schema={"type": "objekt"})
    with pytest.raises(Exception, match=r"example\.invalid"):
        score(JsonSchema(schema={"$ref": "http://example.invalid/schema"}), "{}")


# -- code --------------------------------------------------------------------------------------------------------------

FENCED = "Sure!\n```python\ndef double(x):\n    return 2 * x\n```\nUse it so:\n```\ndouble(2)\n```"


async def test_code_passes_a_share_of_the_tests() -> None:
    example = ex(tests=["assert double(2) == 4", "assert double(2) == 5"])
    assert await Code()(FENCED, example) == 0.5
    assert await Code(all_or_nothing=True)(FENCED, example) == 0.0
    assert await Code()("def double(x): return 3", example) == 0.0


async def test_code_as_humaneval_has_it() -> None:
    rule = Code(tests="test", before="prompt", after="check({entry_point})")
    example = ex(
        prompt="import math\n",
        test="def check(candidate):\n    assert candidate(2) == math.sqrt(4) * 2",
        entry_point="double",
    )
    rule.check(example)
    assert await rule(FENCED, example) == 1.0


def test_the_ballot_of_code_is_the_code_alone() -> None:
    bare = "def double(x):\n\n    return 2 * x   \n"
    assert Code().ballot(FENCED, ex()) == Code().ballot(bare, ex()) == "def double(x):\n    return 2 * x"


# -- what is refused, and how long anything takes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "fields", "said"),
    [
        (Exact(), {"question": "?"}, "'e1' has no field 'answer'.*question"),
        (Exact(), {"answer": {"a": 1}}, "neither a text nor a number"),
        (Numeric(), {"answer": "many"}, "'many'.*no number"),
        (Numeric(), {"answer": True}, "no number"),
        (Regex(pattern="(a)"), {}, "'answer'"),
        (JsonSchema(expected="gold"), {}, "'gold'"),
        (Code(), {"tests": []}, "neither a text with tests"),
        (Code(), {"tests": ["assert ("]}, "not Python"),
        (Code(after="check({entry})"), {"tests": "pass"}, "'entry'"),
    ],
)
def test_examples_that_do_not_fit_are_found_before_the_first_call(rule: Rule, fields: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        rule.check(ex(**fields))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Numeric(tolerance=-1), "tolerance=-1"),
        (lambda: Numeric(relative=float("nan")), "relative=nan"),
        (lambda: Numeric(percent="both"), "'both'"),  # type: ignore[arg-type]
        (lambda: Regex(pattern="("), "not a regular expression"),
        (lambda: Regex(pattern="(a)", group=2), "group=2"),
        (lambda: Code(after="check({"), "after="),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@settings(max_examples=150)
@given(st.text(max_size=200) | st.from_regex(r"[-+0-9.,/eE%\\{}$ ]{0,60}"))
def test_rules_take_any_answer(answer: str) -> None:
    for rule in (LOOSE, Numeric(), Regex(pattern=r"(\d+)"), JsonSchema(expected="answer")):
        assert score(rule, answer, answer="4") in (0.0, 1.0)
        assert isinstance(rule.ballot(answer, ex()), str | None)  # without the right answer, as at run time
    assert isinstance(code_in(answer), str)
