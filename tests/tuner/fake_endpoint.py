"""An endpoint without a network: deterministic answers, counted like a provider counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

from selfreg_sdk.errors import BadRequest, UnknownPriceError
from selfreg_sdk.prices import Price, cost
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.prompts import Prompt
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.drawing import Drawn, DrawRequest, Sample
from selfreg_sdk.tuner.search.search import Proposal
from selfreg_sdk.usage import Usage

EXAMPLES = [
    Example(id=f"e{index}", fields={"question": f"{index} + 1?", "answer": str(index + 1)}) for index in range(16)
]
PROMPTS = {
    "plain": Prompt(name="plain", messages=(("user", "{question}"),)),
    "steps": Prompt(name="steps", messages=(("system", "Think."), ("user", "Solve {question}"))),
}
RATES = {"cheap": ("0.000001", "0.000002"), "dear": ("0.00001", "0.00004"), "free": ("0.000001", "0")}


def price(model: str) -> Price:
    """USD per token of the models there are."""
    if model not in RATES:
        raise UnknownPriceError(f"no price for {model!r}")
    given, taken = (Decimal(rate) for rate in RATES[model])
    return Price(
        model=model,
        input_per_token=given,
        output_per_token=taken,
        source="test",
        as_of=datetime(2026, 1, 1, tzinfo=UTC),
    )


@dataclass
class Endpoint:
    """Every request gets new samples, as from a real server; each costs ``length`` tokens, cut at max_tokens.

    Attributes:
        length: tokens of an answer before it is cut.
        right: the share of answers that are right.
        log: (messages, parameters) of each request.
    """

    length: int = 100
    right: float = 0.5
    log: list[tuple[Sequence[Mapping[str, str]], dict[str, Any]]] = field(default_factory=list)
    bill: Decimal = Decimal(0)
    served: int = 0

    def complete(self, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any], example: Example) -> Drawn:
        """One request of ``n`` samples out of ``best_of``."""
        count, made = parameters.get("n", 1), parameters.get("best_of") or parameters.get("n", 1)
        self.log.append((messages, dict(parameters)))
        if made < count:
            raise BadRequest(f"best_of={made} must not be below n={count}", status=400)
        random = Random(f"{self.served}")
        self.served += count
        tokens = min(parameters.get("max_tokens") or self.length, self.length)
        samples = tuple(
            Sample(
                text=f"{example.fields['answer'] if random.random() < self.right else 'no'}#{self.served - index}",
                tokens=tokens,
            )
            for index in range(count)
        )
        usage = Usage(
            prompt_tokens=sum(len(message["content"]) for message in messages), completion_tokens=made * tokens
        )
        charged = cost(price(parameters["model"]), usage)
        self.bill += charged
        return Drawn(
            samples=samples,
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cost=charged,
        )

    def draw(self, request: DrawRequest) -> Drawn:
        """`Draws`, as a caller without a journal would write it."""
        return self.complete(request.messages, {**request.config, "n": request.count}, request.example)


class Given:
    """A searcher that proposes what it was given, and remembers what it was told."""

    def __init__(self, *points: Point) -> None:
        self.points = points
        self.told: list[tuple[int, float | None, float]] = []
        self.asked = 0

    def ask(self) -> Proposal | None:
        if self.asked == len(self.points):
            return None
        self.asked += 1
        return Proposal(id=self.asked - 1, point=self.points[self.asked - 1])

    def tell(self, point_id: int, value: float | None, cost: float = 0.0) -> None:
        self.told.append((point_id, value, cost))


def success(example: Example, samples: Sequence[Sample]) -> float:
    """Whether any sample is right."""
    return float(any(sample.text.split("#")[0] == example.fields["answer"] for sample in samples))


def point(**changes: Any) -> dict[str, Any]:
    return {"model": "cheap", "prompt": "plain", "max_tokens": 100, "n": 4, **changes}
