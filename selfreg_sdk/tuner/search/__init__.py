"""Ask and tell: dimensions, searchers behind one protocol, and EcoOptiGen (arXiv 2303.04673), as generators without I/O."""
