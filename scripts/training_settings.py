"""Settings that the training scripts share, and their checks."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from nanochat.common import print0
from nanochat.config import origins
from nanochat.errors import ConfigError

# settings that may differ when a run goes on, without a word: where and how loudly it runs
FREE_TO_CHANGE = ("resume", "run", "device", "compile", "log_every", "save_every", "keep_checkpoints", "data_workers")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of every training script."""

    tag: str = "default"              # name of this run's checkpoints
    seed: int = 0                     # weights, order of data, practice worlds
    device: str = "auto"              # auto, cpu, cuda or mps
    run: str = "dummy"                # wandb run; dummy tracks in files only
    resume: bool = False              # go on from the latest checkpoint of this source and tag
    grad_accum_steps: int = 1         # micro-batches per optimizer step and process
    matrix_lr: float = 9e-3           # peak rate of linear layers (Muon)
    embedding_lr: float = 3e-3        # peak rate of embeddings and head (AdamW)
    scalar_lr: float = 3e-3           # peak rate of convolutions, norms and Mamba scalars (AdamW)
    weight_decay: float = 0.0         # on linear layers and convolutions
    warmup_steps: int = 30            # steps of rising rate, at most half of the run
    decay_frac: float = 0.3           # last share of the steps, with the rate falling to 0
    eval_every: int = 50              # steps between evaluations; 0 only at the end
    save_every: int = 500             # steps between checkpoints; 0 only at the end
    log_every: int = 20               # steps between printed lines
    keep_checkpoints: int = 2         # latest checkpoints kept; 0 keeps all
    spike_norm: float = 10.0          # gradients longer than so many usual ones are cut to that; 0 switches it off
    spike_loss: float = 10.0          # losses so many deviations above the usual are spikes; 0 switches it off
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of matrix products; auto: bfloat16 on a GPU
    compile: Literal["auto", "true", "false"] = "auto"  # torch.compile of each block; auto: on a GPU
    # true computes activations a second time instead of keeping them
    activation_checkpointing: Literal["auto", "true", "false"] = "auto"  # auto: when memory would not do otherwise
    shard: bool = False               # share weights and optimizer among processes (FSDP2) instead of copying them


@dataclass(frozen=True, kw_only=True)
class TuningConfig(TrainingConfig):
    """Settings of the scripts that start from another model."""

    lora_rank: int = 0                # rank of LoRA adapters; 0 trains all weights
    lora_alpha: float = 32.0          # adapters are scaled by alpha / rank
    lora_lr: float = 3e-3             # peak rate of adapters (AdamW)
    lora_train_embeddings: bool = False  # train embedding, head and last norm whole, not just the reserved rows
    data_workers: int = 1             # processes that prepare batches ahead of training; 0 prepares them in between


def check_numbers(config: Any, *positive: str) -> None:
    """Raises ConfigError for the first setting that cannot be: the named ones and --grad_accum_steps below 1, shares
    outside 0..1, any other number but the seed below 0.
    """
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or name == "seed":
            continue
        if name in (*positive, "grad_accum_steps") and value < 1:
            raise ConfigError(f"--{name} is {value}, must be at least 1", hint=f"for example --{name} 4")
        if (name.endswith("_share") or name == "decay_frac") and not 0 <= value <= 1:
            raise ConfigError(f"--{name} is {value}, must lie in 0..1", hint=f"for example --{name} 0.5")
        if name == "init_lr_frac" and not value:
            raise ConfigError("--init_lr_frac is 0, so nothing would be learned", hint="for example 0.02")
        if value < 0:
            raise ConfigError(f"--{name} is {value}, must be at least 0", hint=f"see --help for --{name}")


def say_unused(config: Any, reason: str, *names: str) -> None:
    """One line for each of the named settings that was given although it has no effect here."""
    for name in names:
        if origins(config)[name] not in ("default", "code"):
            print0(f"--{name} has no effect {reason}")


def say_changes(config: Any, before: Mapping[str, Any]) -> None:
    """Name the settings of a resumed run that are not those it had until now, with both values and where the new one is
    from; then the flags that take back those that nobody gave.
    """
    changed = {name: value for name, value in asdict(config).items()
               if name in before and name not in FREE_TO_CHANGE and before[name] != value}
    origin = {name: "not given now" if where == "default" else where for name, where in origins(config).items()}
    if changed:
        named = [f"{name} {before[name]!r} -> {value!r} ({origin[name]})" for name, value in changed.items()]
        print0(f"Settings that are new since the checkpoint: {', '.join(named)}")
    if left_out := [name for name in changed if origin[name] == "not given now"]:
        print0("To go on as before: " + " ".join(f"--{name} {_typed(before[name])}" for name in left_out))


def _typed(value: Any) -> str:
    """A value as one types it after a flag."""
    return str(value).lower() if isinstance(value, bool) else shlex.quote(str(value))


def warmup_steps(config: Any, num_steps: int) -> int:
    """Steps of rising rate: --warmup_steps, but no more than half of the run, which is then said."""
    most = num_steps // 2
    if config.warmup_steps > most:
        print0(f"The rate rises over {most} steps, not {config.warmup_steps} (--warmup_steps): half of this run")
    return min(config.warmup_steps, most)
