"""What configurations are worth and cost on examples, with intervals, and whether one is better than another."""
