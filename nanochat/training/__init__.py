"""Training: one loop for every stage, its losses, optimizers, processes and metrics."""

from nanochat.training.distributed import init_distributed, mean_over_ranks, pick_device
from nanochat.training.loop import fit, warmup_stable_decay
from nanochat.training.losses import Batch, LossOutput, language_model_loss
from nanochat.training.metrics_log import MetricsLog
from nanochat.training.optim import CombinedOptimizer, build_optimizer

__all__ = [
    "Batch",
    "CombinedOptimizer",
    "LossOutput",
    "MetricsLog",
    "build_optimizer",
    "fit",
    "init_distributed",
    "language_model_loss",
    "mean_over_ranks",
    "pick_device",
    "warmup_stable_decay",
]
