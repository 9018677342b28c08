"""AutoDeco checkpoints: heads alone or merged with their base, in every published layout."""

from local_backend.checkpoint.errors import CheckpointError
from local_backend.checkpoint.identity import BaseIdentity
from local_backend.checkpoint.load import HeadsInfo, load, load_heads
from local_backend.checkpoint.pack import merge, split
from local_backend.checkpoint.save import save_heads

__all__ = ["BaseIdentity", "CheckpointError", "HeadsInfo", "load", "load_heads", "merge", "save_heads", "split"]
