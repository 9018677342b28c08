"""What is sent of a configuration: the one place where the tuner's points become request fields."""

from __future__ import annotations

from policies import Bounds, Capabilities, Compiled, DecodingParams, Interval, compile_params, parse_params
from policies.base import Proposal
from policies.compile import REASONING_ROOM
from policies.params import EFFORTS, Effort
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.regulator import FALLBACK_MAX_TOKENS
from selfreg_sdk.tuner.search.dimensions import Point

NOT_SENT = ("model", "prompt", "n")
"""Parts of a configuration that are no decoding parameters of one sample."""

_EFFORTS: tuple[Effort, ...] = EFFORTS  # type: ignore[assignment]  # its values are those of the type
_CHOSEN_BY_USER = Bounds(
    temperature=Interval(low=0, high=2),
    top_p=Interval(low=1e-9, high=1),
    n=1 << 30,
    max_tokens=1 << 30,
    efforts=_EFFORTS,
)
"""A task's space is what its user allows; nothing else limits it."""


def compiled(config: Point, capabilities: Capabilities) -> Compiled:
    """One sample of a configuration as its model takes it, with every difference to what the configuration says.

    Without a token cap it gets the one that requests under a budget get, for its cost would have no limit.

    Raises:
        ConfigError: a setting that is no decoding parameter, or one out of its range.
    """
    wanted = {name: value for name, value in config.items() if name not in NOT_SENT}
    try:
        params = parse_params(wanted)
    except ValueError as error:
        raise ConfigError(f"configuration {dict(config)!r}: {error}") from None
    cap = FALLBACK_MAX_TOKENS * (REASONING_ROOM if capabilities.reasons else 1)
    return compile_params(
        caller=DecodingParams(),
        proposal=Proposal(params=params, source="tuned"),
        defaults=DecodingParams(max_tokens=cap),
        capabilities=capabilities,
        bounds=_CHOSEN_BY_USER,
    )
