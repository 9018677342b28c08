"""Training of AutoDeco heads on a frozen base."""

from local_backend.training.config import TrainConfig
from local_backend.training.data import DataError
from local_backend.training.held_out import Comparison, HeldOut
from local_backend.training.losses import LossConfig
from local_backend.training.train import TrainResult, train

__all__ = ["Comparison", "DataError", "HeldOut", "LossConfig", "TrainConfig", "TrainResult", "train"]
