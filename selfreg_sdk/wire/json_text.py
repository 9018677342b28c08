"""JSON that came from a server."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json


def json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in ``data``, as `json.loads` reads it; None where it is none."""
    try:
        value = from_json(data)
    except ValueError:
        # The fast reader is the stricter one: half a surrogate pair and deep nesting are JSON to the other.
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None
