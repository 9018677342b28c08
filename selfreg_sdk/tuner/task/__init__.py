"""The task file: what is tuned, in the user's words, each checked with a line number and a remedy."""
