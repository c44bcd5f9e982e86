"""How refrag_finetune goes on after each update: its optimizer, what is logged, what alarms do."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from nanochat.checkpoint_manager import load_model
from nanochat.common import print0
from nanochat.errors import CheckpointNotFound
from nanochat.refrag.policy_training import PolicyTraining
from nanochat.training.distributed import barrier
from scripts.early_stop import BEST

STEPS_PER_LINE = 10  # what --log_every is divided by


class RewardLearner:
    """How `training_run.train` learns from rewards; alarms change its rate, and end it."""

    def __init__(self, policy: PolicyTraining, num_batches: int, lr: float) -> None:
        self.policy, self.num_batches = policy, num_batches
        self.optimizer_settings = rates(lr)
        self.loss = policy.loss
        self.optimizer: Any = None  # known once training begins
        self._forgets = False  # rolled back before

    @property
    def paused(self) -> str:
        return self.policy.control.paused

    def roll_back(self, tag: str) -> None:
        """Put the weights of the run's best checkpoint into the model; the optimizer forgets."""
        meta = load_best(tag, self.policy.model)
        self.policy.forget_episodes()
        if meta is not None:
            # what was remembered since is about weights that are gone
            self.policy.restore_memory(meta.get("rewards", {}))
        self._forgets = self.optimizer is None
        if self.optimizer is not None:
            forget(self.optimizer)

    def settings(
        self, optimizer: Any, log: Callable[[dict[str, Any]], None], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Settings of `fit`: every step is looked at, and some go into the log: a step with rewards takes ten times as
        long as others, so ten times as many as `log_every` asks for.
        """
        self.optimizer = optimizer
        if self._forgets:
            forget(optimizer)
        control, every = self.policy.control, -(-settings["log_every"] // STEPS_PER_LINE)

        def look(record: dict[str, Any]) -> None:
            is_step = "loss" in record
            numbers = self.policy.after_update(record["step"], record) if is_step else {}
            if not is_step or (every and record["step"] % every == 0) or control.paused:
                log({**record, **numbers})

        return {
            "log": look, "log_every": 1, "grad_accum_steps": self.num_batches,
            "schedule": lambda step: settings["schedule"](step) * control.rate,
            # the loss of a policy is no measure of anything: its monitors are
            "loss_sigmas": 0.0,
            "is_interrupted": lambda: bool(control.paused) or settings["is_interrupted"](),
        }


def rates(lr: float) -> dict[str, Any]:
    """Settings of an optimizer that learns from rewards: gradients of episodes are mostly noise, which Muon would make
    as long as what is not.
    """
    names = ("matrix_lr", "embedding_lr", "scalar_lr", "adapter_lr")
    return {**dict.fromkeys(names, lr), "matrix_optimizer": "adamw"}


def load_best(tag: str, model: Any) -> Mapping[str, Any] | None:
    """Put the weights of a run's best checkpoint into a model; its meta, or None where there is none."""
    barrier()
    try:
        best, _, meta = load_model("refrag", model.device, "train", tag + BEST)
    except CheckpointNotFound:
        # somebody deleted it
        print0(f"There is no best checkpoint refrag/{tag}{BEST} to go back to: the weights stay as they are")
        return None
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), best.parameters(), strict=True):
            mine.copy_(theirs)
    return meta


def forget(optimizer: Any) -> None:
    """The optimizer begins anew, without what it knows of earlier gradients."""
    for part in optimizer.optimizers:
        part.state.clear()
