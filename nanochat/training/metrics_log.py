"""Where metrics go: one JSON line each, the console, and wandb when a run has a name."""

import contextlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from nanochat.common import print0, rank, unwritable, write_text
from nanochat.errors import MissingDependency, UserError

logger = logging.getLogger(__name__)

UNTRACKED = "dummy"  # the run name that means: no wandb
TIMES = ("tokens", "tokens_per_s", "flops_per_s", "mfu", "elapsed_s", "remaining_s", "model_share")
TRAINING_FIELDS = ("step", "num_steps", "loss", "lr_scale", "grad_norm", *TIMES)


def duration(seconds: float) -> str:
    """125.0 -> "2:05", 3725.0 -> "1:02:05"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def console_line(record: Mapping[str, Any]) -> str:
    """One line for people: progress of training, or the metrics of an evaluation."""
    rest = {name: value for name, value in record.items() if name not in TRAINING_FIELDS}
    words = [f"{name} {_short(value)}" for name, value in rest.items() if isinstance(value, (int, float, str))]
    if "num_steps" not in record:
        return f"step {record.get('step', '-')} | " + " | ".join(words)
    width = len(str(record["num_steps"]))
    return " | ".join(
        [
            f"step {record['step']:>{width}}/{record['num_steps']}",
            f"loss {record['loss']:.4f}",
            *words,
            f"lr x{record['lr_scale']:.3f}",
            f"grad {record['grad_norm']:.2f}",
            f"{record['tokens_per_s']:,.0f} tok/s{_flops(record)}",
            f"{duration(record['elapsed_s'])} elapsed, {duration(record['remaining_s'])} left",
        ]
    )


def _flops(record: Mapping[str, Any]) -> str:
    """" 31.2 GFLOP/s (45 % of peak)" as far as known."""
    if not record.get("flops_per_s"):
        return ""
    unit, size = next((pair for pair in (("T", 1e12), ("G", 1e9)) if record["flops_per_s"] >= pair[1]), ("M", 1e6))
    share = f" ({record['mfu']:.0%} of peak)" if "mfu" in record else ""
    return f" {record['flops_per_s'] / size:,.1f} {unit}FLOP/s{share}"


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_metrics(record: Mapping[str, Any]) -> None:
    """Print one record on rank 0."""
    print0(console_line(record))


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsLog:
    """Callable with one record: appends it to `path`, prints it, sends it to wandb. Rank 0 only.

    A run name other than "dummy" turns wandb on (WANDB_MODE=offline keeps it local); without the package one warning
    is logged and the file goes on. `start_step` is where training resumes: later records of an interrupted run are
    dropped, 0 begins a new file. Raises UserError when the disk is full.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        run: str = UNTRACKED,
        config: Mapping[str, Any] | None = None,
        start_step: int = 0,
        project: str = "nanochat-rag",
    ) -> None:
        self.path = Path(path)
        self._file = self._wandb_run = None
        if rank() != 0:
            return
        write_text(self.path, "".join(line + "\n" for line in _lines_up_to(self.path, start_step)))
        self._file = self.path.open("a", encoding="utf-8")
        if run and run != UNTRACKED:
            self._wandb_run = _start_wandb(run, project, config or {})

    def __call__(self, record: Mapping[str, Any]) -> None:
        if rank() != 0:
            return
        assert self._file is not None, f"{self.path} is closed"
        try:
            self._file.write(json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from error
        print_metrics(record)
        if self._wandb_run is not None:
            values = {name: value for name, value in record.items() if name != "step"}
            self._wandb_run.log(values, step=record.get("step"))

    def close(self) -> None:
        if self._file is not None:
            # what a full disk did not take was told when it was written
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        if self._wandb_run is not None:
            self._wandb_run.finish()
            self._wandb_run = None

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _lines_up_to(path: Path, step: int) -> list[str]:
    if step == 0 or not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            # a line torn by a kill; what follows was written by no one
            continue
        if isinstance(record, dict) and record.get("step", 0) <= step:
            kept.append(line)
    return kept


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            "No module named 'wandb': metrics go to the JSON lines file only",
            hint="uv pip install wandb, or leave --run at dummy",
        ) from missing
    return wandb


def _start_wandb(run: str, project: str, config: Mapping[str, Any]) -> Any:
    """A wandb run, or None after one warning: tracking must not cost a training run."""
    try:
        wandb = _import_wandb()
    except UserError as error:
        logger.warning("%s", error)
        return None
    try:
        return wandb.init(project=project, name=run, config=dict(config))
    except wandb.Error as error:
        logger.warning("wandb did not start: %s; metrics go to the file only. Try WANDB_MODE=offline", error)
        return None
