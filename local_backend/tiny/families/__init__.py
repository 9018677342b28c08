"""The six task families of the embedded model; stdlib only."""

from local_backend.tiny.families import code, creative, extraction, maths, reasoning, translation
from local_backend.tiny.families.base import SPLITS, Family, Split

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (reasoning, maths, translation, code, extraction, creative)
}
"""Family name to family."""

__all__ = ["FAMILIES", "SPLITS", "Family", "Split"]
