"""How decoding parameters reach an arbitrary LangChain model.

A copy of the model with its fields set is the way that works for most integrations: it reaches the wire wherever a field
exists, shares the HTTP clients and leaves the user's object alone. `table` holds the integrations that want it otherwise;
what has neither a row nor a field travels as an argument of the call. docs/adapters.md shows what arrives where.
"""

from selfreg_sdk.adapters.adapter import Adapter as Adapter
from selfreg_sdk.adapters.attempts import single_attempt as single_attempt
from selfreg_sdk.adapters.ways import field_for as field_for
