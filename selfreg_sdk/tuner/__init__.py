"""Finds the configuration of a task that answers best for its money, under a hard budget (EcoOptiGen, arXiv 2303.04673)."""
