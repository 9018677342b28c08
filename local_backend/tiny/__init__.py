"""The embedded model: our own small causal LM, its task families, and the scripts that build and measure it."""

from pathlib import Path

__all__ = ["weights_path"]


def weights_path() -> Path:
    """Folder of the shipped model, in Hugging Face format: `from_pretrained` reads it."""
    return Path(__file__).resolve().parent / "weights"
