"""Heads trained on what is wanted of the answers: draw, judge, reinforce."""
