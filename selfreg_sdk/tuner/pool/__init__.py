"""Method "pool": one pool of samples serves every configuration that could have produced it (docs/pool.md)."""
