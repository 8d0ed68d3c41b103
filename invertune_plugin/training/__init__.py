"""Contrastive training of CLIP (Radford et al. 2021)."""

from invertune_plugin.training.config import TrainingConfig
from invertune_plugin.training.epochs import stream
from invertune_plugin.training.loop import Batch, Penalty, Report, train_contrastive
from invertune_plugin.training.loss import contrastive_loss
from invertune_plugin.training.optimizing import Schedule

__all__ = [
    "Batch",
    "Penalty",
    "Report",
    "Schedule",
    "TrainingConfig",
    "contrastive_loss",
    "stream",
    "train_contrastive",
]
