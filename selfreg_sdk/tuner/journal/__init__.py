"""The only door to money: every purchase of a study is a row, paid once, shared by all its workers."""
