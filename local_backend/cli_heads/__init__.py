"""`python -m local_backend heads`: train, judge, pack and look into AutoDeco heads."""

from local_backend.cli_heads.app import app

__all__ = ["app"]
