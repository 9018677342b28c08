"""A tuning with a name: its plan, its run on a journal, its results, and the versions it leaves in the store."""
