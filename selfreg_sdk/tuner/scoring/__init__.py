"""From an answer to its score, and from the scores of n samples to what they are worth."""
