"""What the built-in scorers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from decimal import Decimal

from selfreg_sdk.aggregate import plain
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example


class Rule(ABC):
    """A scorer that needs no guard: it ends by itself, and knows what a vote compares."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For people and records."""

    @abstractmethod
    def __call__(self, answer: str, example: Example) -> float | Awaitable[float]:
        """The score, in [0, 1]."""

    def ballot(self, answer: str, example: Example) -> str | None:
        """What a vote compares; without case and white space at the least. None abstains: nothing to compare is in it.

        It follows from the answer alone, because votes are also taken where nobody knows the right one.
        """
        return plain(answer)

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields that every example must have."""
        return ()

    def check(self, example: Example) -> None:
        """Whether the example has what is needed; asked of all examples before the first call.

        Raises:
            ConfigError: naming the example and what is missing.
        """
        for name in self.needs:
            if name not in example.fields:
                raise ConfigError(
                    f"example {example.id!r} has no field {name!r}, which scorer {self.name!r} needs; its fields are "
                    f"{', '.join(example.fields)}"
                )

    def worst_case(self, answer: str, example: Example) -> Decimal | None:
        """USD that paid calls for one answer can cost at most; None without a price. A rule that makes none costs nothing."""
        return Decimal(0)

    def unfit(self, example: Example, name: str, why: str) -> ConfigError:
        """The error to raise when a field is there but cannot be used."""
        value = repr(example.fields[name])[:80]
        return ConfigError(
            f"example {example.id!r}: field {name!r}, {value}, {why}; scorer {self.name!r} cannot use it"
        )
