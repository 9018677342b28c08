"""What a :class:`tests.fake_provider.FakeProvider` charges: the truth that ledgers are compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from tests.fake_faults import Payload


@dataclass(frozen=True, kw_only=True)
class Billed:
    """The truth: what the provider charges for."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: Decimal = field(default=Decimal(0))

    def __add__(self, other: Billed) -> Billed:
        return Billed(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            usd=self.usd + other.usd,
        )


def read_bills(path: Path | str) -> Billed:
    """The sum of a bills file; a missing file is no bill."""
    total = Billed()
    file = Path(path)
    for line in file.read_text().splitlines() if file.exists() else []:
        row = json.loads(line)
        total += Billed(**{**row, "usd": Decimal(row["usd"])})
    return total


def count_tokens(text: str) -> int:
    """The provider's tokenizer: a token is four characters, and nothing costs nothing."""
    return max(1, -(-len(text) // 4))


def prompt_tokens(payload: Payload) -> int:
    """Three tokens of framing and the content, per message."""
    return sum(3 + count_tokens(str(message.get("content") or "")) for message in payload.get("messages", []))
