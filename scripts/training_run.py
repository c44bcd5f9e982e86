"""What the training scripts share: settings, resuming, the call of `fit`, checkpoints and the next command."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nanochat.common import base_dir, print0, world_size
from nanochat.config import describe
from nanochat.errors import CheckpointNotFound, ConfigError

if TYPE_CHECKING:
    from nanochat.model import LanguageModel
    from nanochat.tokenizer import Tokenizer
    from nanochat.training import Batch


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
    warmup_steps: int = 30            # steps of rising rate
    decay_frac: float = 0.3           # last share of the steps, with the rate falling to 0
    eval_every: int = 50              # steps between evaluations; 0 only at the end
    save_every: int = 500             # steps between checkpoints; 0 only at the end
    log_every: int = 20               # steps between printed lines
    keep_checkpoints: int = 2         # latest checkpoints kept; 0 keeps all


def check_positive(config: Any, *names: str) -> None:
    """Raises ConfigError for the first of the named settings below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"--{name} is {getattr(config, name)}, must be at least 1", hint=f"for example --{name} 4")


def resume_point(config: Any, source: str) -> dict[str, Any] | None:
    """Training state of the latest checkpoint of this source and tag, or None when there is none to resume."""
    from nanochat.checkpoint_manager import find_checkpoint, load_training_state

    if not config.resume:
        return None
    try:
        path = find_checkpoint(source, config.tag)
        state = load_training_state(path)
        return {**state, "path": str(path)}
    except CheckpointNotFound:
        print0(f"No checkpoint of {source}/{config.tag} to resume: starting at step 0")
        return None


def train(
    config: Any,
    source: str,
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    batches: "Callable[[int, int], Batch]",
    *,
    num_steps: int,
    lr_frac: float = 1.0,
    state: Mapping[str, Any] | None = None,
    evaluate: Callable[[int], Mapping[str, Any]] | None = None,
    stop: Callable[[int, Mapping[str, Any]], bool] | None = None,
    extra_meta: Callable[[], Mapping[str, Any]] = dict,
) -> dict[str, Any]:
    """Run `fit` with the common settings and save checkpoints of `source`; returns what `fit` returns and the path.

    `state` comes from `resume_point`; the model must hold that checkpoint's weights already.
    """
    from nanochat.checkpoint_manager import save_checkpoint
    from nanochat.training import MetricsLog, build_optimizer, fit, language_model_loss, warmup_stable_decay

    optimizer = build_optimizer(
        model, matrix_lr=config.matrix_lr * lr_frac, embedding_lr=config.embedding_lr * lr_frac,
        scalar_lr=config.scalar_lr * lr_frac, weight_decay=config.weight_decay,
    )
    start_step, progress = 0, None
    if state is not None:
        optimizer.load_state(state["optimizer_tensors"], state["optimizer_record"], where=state["path"])
        start_step, progress = state["step"], state["meta"]["progress"]
        print0(f"Resuming {source}/{config.tag} at step {start_step} of {num_steps}")
        if evaluate is not None and config.eval_every and start_step % config.eval_every == 0:
            # the checkpoint was written before this evaluation, which may have opened the next stage
            evaluate(start_step)
    if start_step >= num_steps:
        print0(f"{source}/{config.tag} is already at step {start_step} of {num_steps}: nothing to do")
        return {"step": start_step, "path": state["path"] if state else ""}
    path = ""

    def save(step: int, progress: dict[str, Any]) -> None:
        nonlocal path
        meta = {"progress": progress, "num_steps": num_steps, "config": asdict(config), "written": time.time(),
                **extra_meta()}
        path = str(save_checkpoint(source, config.tag, step, model=model, tokenizer=tokenizer, meta=meta,
                                   optimizer=optimizer, keep=config.keep_checkpoints))

    print0(f"Training {source}/{config.tag}: {model.num_parameters:,} parameters, pattern "
           f"{','.join(model.config.block_pattern)}, {num_steps} steps on {world_size()} process(es)\n{describe(config)}")
    with MetricsLog(base_dir() / "metrics" / f"{source}_{config.tag}.jsonl", run=config.run, config=asdict(config),
                    start_step=start_step) as log:
        result = fit(
            model, batches, partial(language_model_loss, group=tokenizer.doc_ids), optimizer, num_steps=num_steps, start_step=start_step,
            grad_accum_steps=config.grad_accum_steps,
            schedule=warmup_stable_decay(num_steps, config.warmup_steps, config.decay_frac),
            evaluate=evaluate, eval_every=config.eval_every, save=save, save_every=config.save_every, log=log,
            log_every=config.log_every, stop=stop, progress=progress,
        )
    print0(f"Saved {source}/{config.tag} step {result['step']}: {path}")
    return {**result, "path": path}
