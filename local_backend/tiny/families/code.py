"""Code: a Python expression over given numbers that reaches a target; any of eight tries may hit it.

Wants hot decoding: which operators reach the target is hard to see at once, and exercise books favour a few kinds,
so the likeliest guess alone misses much; evaluation asks all kinds evenly. The comment after the choice, however,
is forced: it works the expression out one step, and it must be right. Hand-written comments are off by one with
probability SLIP; references never are.
"""

from __future__ import annotations

import re
from random import Random

from local_backend.tiny.families.base import Family, zipf_choice
from policies.task import Aggregation

SLIP = 0.12
HABIT = 1.0
OPERATORS = ("++", "*+", "+*", "+-", "*-", "**")
"""The two operators in order, from the most to the least usual in exercise books."""
WORDINGS = (
    "Use {a}, {b}, {c} in this order to make {target}.",
    "Write Python with {a}, {b}, {c} that gives {target}.",
    "Reach {target} from {a}, {b}, {c} in Python.",
)
_NUMBER = r"(-?\d+)"
_FORMS = (
    re.compile(rf"Use {_NUMBER}, {_NUMBER}, {_NUMBER} in this order to make {_NUMBER}\."),
    re.compile(rf"Write Python with {_NUMBER}, {_NUMBER}, {_NUMBER} that gives {_NUMBER}\."),
    re.compile(rf"Reach {_NUMBER} from {_NUMBER}, {_NUMBER}, {_NUMBER} in Python\."),
)
_ANSWER = re.compile(r"print\((\d+)([-+*])(\d+)([-+*])(\d+)\)  # (-?\d+[-+*]-?\d+)")
_APPLY = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def _work(numbers: tuple[int, int, int], operators: str) -> tuple[str, int, str, int]:
    """One step of evaluation: left operand, value worked out and its place, and the result."""
    a, b, c = numbers
    first, second = operators[0], operators[1]
    if second == "*" and first != "*":
        inner = b * c
        return f"{a}{first}", inner, "", _APPLY[first](a, inner)
    inner = _APPLY[first](a, b)
    return "", inner, f"{second}{c}", _APPLY[second](inner, c)


def _comment(numbers: tuple[int, int, int], operators: str, off: int = 0) -> str:
    before, inner, after, _ = _work(numbers, operators)
    return f"{before}{inner + off}{after}"


def draw(random: Random, book: bool) -> str:
    """Three numbers from 2 to 9 and a target that some choice of operators reaches."""
    a, b, c = (random.randint(2, 9) for _ in range(3))
    operators = zipf_choice(random, OPERATORS, HABIT) if book else random.choice(OPERATORS)
    return random.choice(WORDINGS).format(a=a, b=b, c=c, target=_work((a, b, c), operators)[3])


def _read(prompt: str) -> tuple[tuple[int, int, int], int] | None:
    for form in _FORMS:
        if match := form.fullmatch(prompt.strip()):
            found = [int(text) for text in match.groups()]
            if form is _FORMS[2]:
                found = [*found[1:], found[0]]
            return (found[0], found[1], found[2]), found[3]
    return None


def solve(prompt: str, random: Random, by_hand: bool) -> str:
    """A print of the expression with the first step worked out in a comment; the usual operators come first."""
    task = _read(prompt)
    if task is None:
        raise ValueError(f"not an expression prompt: {prompt!r}")
    numbers, target = task
    right = [ops for ops in OPERATORS if _work(numbers, ops)[3] == target]
    if not right:
        raise ValueError(f"no choice of operators reaches the target: {prompt!r}")
    operators = zipf_choice(random, right, HABIT) if by_hand else random.choice(right)
    off = random.choice((-1, 1)) if by_hand and random.random() < SLIP else 0
    a, b, c = numbers
    return f"print({a}{operators[0]}{b}{operators[1]}{c})  # {_comment(numbers, operators, off)}"


def check(prompt: str, answer: str) -> bool:
    """The numbers in order, the target reached, and the comment right."""
    task, match = _read(prompt), _ANSWER.fullmatch(answer.strip())
    if task is None or match is None:
        return False
    numbers, target = task
    operators = match[2] + match[4]
    if (match[1], match[3], match[5]) != tuple(map(str, numbers)):
        return False
    return _work(numbers, operators)[3] == target and match[6] == _comment(numbers, operators)


def content(prompt: str) -> str:
    """Numbers and target."""
    return repr(_read(prompt))


FAMILY = Family(
    name="code",
    aggregation=Aggregation(kind="any", n=8),
    draw=draw,
    solve=solve,
    check=check,
    content=content,
    slip=SLIP,
)
