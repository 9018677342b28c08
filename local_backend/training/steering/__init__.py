"""Heads that follow words like "answer with low randomness"."""
