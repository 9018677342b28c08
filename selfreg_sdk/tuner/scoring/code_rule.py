"""The scorer of code: what the answer wrote is run with the example's tests, in a process of its own."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Any

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.scoring.reading import code_in
from selfreg_sdk.tuner.scoring.rule import Rule
from selfreg_sdk.tuner.scoring.sandbox import Sandbox


@dataclass(frozen=True, kw_only=True)
class Code(Rule):
    """The share of an example's tests that the code in the answer passes, in a `Sandbox`.

    Code that fails, does not end or goes over a limit passes none of the tests it does not reach; that is a fault of the
    answer. A process that cannot be started is not.

    Attributes:
        tests: field with the tests: Python code, or a list of pieces, each of which passes if it raises nothing.
        before: field with code that goes in front of the answer's, such as imports; None for none.
        after: code that ends every test, such as ``check({entry_point})``, with the example's fields in braces.
        all_or_nothing: 1 if all tests pass, else 0.
        sandbox: where it runs.
    """

    tests: str = "tests"
    before: str | None = None
    after: str = ""
    all_or_nothing: bool = False
    sandbox: Sandbox = field(default_factory=Sandbox)

    def __post_init__(self) -> None:
        try:
            list(string.Formatter().parse(self.after))
        except ValueError as error:
            raise ConfigError(f"scorer 'code': after={self.after!r} cannot be filled in: {error}") from None

    @property
    def name(self) -> str:
        """For people and records."""
        return "code"

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields with code."""
        used = [name for _, name, _, _ in string.Formatter().parse(self.after) if name]
        return (self.tests, *(() if self.before is None else (self.before,)), *used)

    def check(self, example: Example) -> None:
        """The tests are code.

        Raises:
            ConfigError: a field is missing, there is no test, or one is not Python.
        """
        super().check(example)
        pieces = self._tests(example)
        if not pieces or not all(
            isinstance(test, str) and test.strip() for test in _listed(example.fields[self.tests])
        ):
            raise self.unfit(example, self.tests, "is neither a text with tests nor a list of such texts")
        for test in pieces:
            try:
                compile(test, f"<{self.tests} of {example.id}>", "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                raise self.unfit(example, self.tests, f"is not Python: {error}") from None

    async def __call__(self, answer: str, example: Example) -> float:
        """The share of tests that pass.

        Raises:
            SandboxError: the process could not be started.
        """
        before = "" if self.before is None else f"{example.fields[self.before]}\n"
        run = await self.sandbox.arun(before + code_in(answer), self._tests(example))
        return float(all(run.passed)) if self.all_or_nothing else run.share

    def ballot(self, answer: str, example: Example) -> str | None:
        """The code without blank lines and white space at the end of lines; without any, none."""
        return "\n".join(line.rstrip() for line in code_in(answer).splitlines() if line.strip()) or None

    def _tests(self, example: Example) -> list[str]:
        end = f"\n{self.after.format_map(example.fields)}" if self.after else ""
        return [f"{test}{end}" for test in _listed(example.fields[self.tests])]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
