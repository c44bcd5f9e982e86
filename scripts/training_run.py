"""What the training scripts share: settings and their checks, where a run starts, the call of `fit`, checkpoints."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from nanochat.common import base_dir, print0, world_size
from nanochat.config import describe, origins
from nanochat.errors import CheckpointNotFound, ConfigError

if TYPE_CHECKING:
    import torch

    from nanochat.model import LanguageModel
    from nanochat.tokenizer import Tokenizer
    from nanochat.training import Batch

Evaluate = Callable[[int], Mapping[str, Any]]         # step -> metrics
Stop = Callable[[int, Mapping[str, Any]], bool]       # step, metrics -> whether training ends


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


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins: a checkpoint of another source, or its own when it resumes."""

    model: "LanguageModel"
    tokenizer: "Tokenizer"
    origin: Mapping[str, Any]         # source, tag and step of the checkpoint that the run began with
    state: Mapping[str, Any] | None   # training state to resume, with its path


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
        if value < 0:
            raise ConfigError(f"--{name} is {value}, must be at least 0", hint=f"see --help for --{name}")


def say_unused(config: Any, reason: str, *names: str) -> None:
    """One line for each of the named settings that was given although it has no effect here."""
    for name in names:
        if origins(config)[name] not in ("default", "code"):
            print0(f"--{name} has no effect {reason}")


def resume_point(config: Any, source: str) -> dict[str, Any] | None:
    """Training state of the latest checkpoint of this source and tag, or None when there is none to resume."""
    from nanochat.checkpoint_manager import check_tag, find_checkpoint, load_training_state

    check_tag(config.tag)
    if not config.resume:
        return None
    try:
        path = find_checkpoint(source, config.tag)
    except CheckpointNotFound:
        print0(f"No checkpoint of {source}/{config.tag} to resume: starting at step 0")
        return None
    return {**load_training_state(path), "path": str(path)}


def find_start(config: Any, source: str, device: "torch.device") -> Start:
    """The model to train: that of --source and --source_tag, or the latest checkpoint of `source` with --resume."""
    from nanochat.checkpoint_manager import load_model

    state = resume_point(config, source)
    if state is None:
        model, tokenizer, meta = load_model(config.source, device, "train", config.source_tag or config.tag)
        origin = {name: meta[name] for name in ("source", "tag", "step")}
    else:
        model, tokenizer, meta = load_model(source, device, "train", config.tag, state["step"])
        origin = meta.get("from", {})
    return Start(model=model, tokenizer=tokenizer, origin=origin, state=state)


def row_length(config: Any, model: "LanguageModel") -> int:
    """Tokens of a row: --max_seq_len, but no more than the model reads when it answers."""
    longest = model.config.sequence_len
    if config.max_seq_len > longest:
        print0(f"Rows have {longest} tokens, not {config.max_seq_len} (--max_seq_len): the model was made for no more")
    return min(config.max_seq_len, longest)


def set_aside(source: str, tag: str) -> None:
    """Give the checkpoints of an earlier run a name of their own: its later steps must not pass for this run's."""
    from nanochat.checkpoint_manager import find_checkpoint

    try:
        folder = find_checkpoint(source, tag).parent
    except CheckpointNotFound:
        return
    other = next(path for n in count(1) if not (path := folder.with_name(f"{tag}.{n}")).exists())
    folder.rename(other)
    print0(f"The earlier checkpoints of {source}/{tag} are kept as --tag {other.name}")


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
    evaluate: Evaluate | None = None,
    stop: Stop | None = None,
    extra_meta: Callable[[], Mapping[str, Any]] = dict,
) -> dict[str, Any]:
    """Run `fit` with the common settings and save checkpoints of `source`; returns what `fit` returns and the path.

    `state` comes from `resume_point`; the model must hold that checkpoint's weights already. A run that starts anew
    sets the checkpoints of an earlier one with its tag aside when it saves its first.
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
        done = _is_done(config, source, start_step, num_steps, evaluate, stop)
        if done is not None:
            return {"step": start_step, "path": state["path"], "metrics": done}
    path = ""

    def save(step: int, progress: dict[str, Any]) -> None:
        nonlocal path
        if not path and state is None:
            set_aside(source, config.tag)
        meta = {"progress": progress, "num_steps": num_steps, "config": asdict(config), "written": time.time(),
                **extra_meta()}
        path = str(save_checkpoint(source, config.tag, step, model=model, tokenizer=tokenizer, meta=meta,
                                   optimizer=optimizer, keep=config.keep_checkpoints))

    print0(f"Training {source}/{config.tag}: {model.num_parameters:,} parameters, "
           f"pattern {','.join(model.config.block_pattern)}, {num_steps} steps on {world_size()} process(es)")
    print0(describe(config))
    with MetricsLog(base_dir() / "metrics" / f"{source}_{config.tag}.jsonl", run=config.run, config=asdict(config),
                    start_step=start_step) as log:
        result = fit(
            model, batches, partial(language_model_loss, group=tokenizer.doc_ids), optimizer,
            num_steps=num_steps, start_step=start_step, grad_accum_steps=config.grad_accum_steps,
            schedule=warmup_stable_decay(num_steps, config.warmup_steps, config.decay_frac),
            evaluate=evaluate, eval_every=config.eval_every, save=save, save_every=config.save_every, log=log,
            log_every=config.log_every, stop=stop, progress=progress,
        )
    print0(f"Saved {source}/{config.tag} step {result['step']}: {path}")
    return {**result, "path": path}


def _is_done(
    config: Any, source: str, step: int, num_steps: int, evaluate: Evaluate | None, stop: Stop | None
) -> Mapping[str, Any] | None:
    """Metrics of a checkpoint, maybe empty, after which nothing is left to train; None when training goes on."""
    name = f"{source}/{config.tag}"
    if step >= num_steps:
        print0(f"{name} is already at step {step} of {num_steps}: nothing to do")
        return {}
    print0(f"Resuming {name} at step {step} of {num_steps}")
    if evaluate is not None and config.eval_every and step % config.eval_every == 0:
        # the checkpoint was written before this evaluation, which may open the next stage or end training
        metrics = evaluate(step)
        if stop is not None and stop(step, metrics):
            print0(f"{name} has reached its goal at step {step}: nothing to do")
            return metrics
    return None
