"""One compilation in few words."""

from __future__ import annotations

from typing import Any

from policies import (
    FIELDS,
    Bounds,
    Capabilities,
    Compiled,
    DecodingParams,
    HeadBounds,
    Proposal,
    compile_params,
)

ANY = Capabilities(
    model="any", accepted=frozenset(FIELDS), efforts=("none", "low", "medium", "high", "xhigh"), default_effort="medium"
)
WIDE = Bounds(n=100, max_tokens=1_000_000)


def wish(heads: HeadBounds | None = None, **values: Any) -> Proposal:
    return Proposal(params=DecodingParams(**values), source="static", heads=heads)


def run(proposal: Proposal, caller: DecodingParams = DecodingParams(), **given: Any) -> Compiled:
    return compile_params(**({"capabilities": ANY, "bounds": WIDE} | given), caller=caller, proposal=proposal)


def changes(result: Compiled) -> list[tuple[str, Any, Any, str]]:
    return [(change.field, change.wanted, change.sent, change.why) for change in result.adjustments]
