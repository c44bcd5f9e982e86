"""One run of a training script: the call of `fit`, its checkpoints, how it ends."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from nanochat.common import base_dir, print0, rank, world_size
from nanochat.config import describe
from nanochat.errors import CheckpointNotFound
from scripts.early_stop import EarlyStop
from scripts.training_memory import name_helpful_flags
from scripts.training_settings import TrainingConfig, TuningConfig, check_numbers, say_changes, say_unused, warmup_steps
from scripts.training_start import Start, find_start, resume_point, row_length

if TYPE_CHECKING:
    from nanochat.model import LanguageModel
    from nanochat.tokenizer import Tokenizer
    from nanochat.training import Batch
    from nanochat.training.losses import LossFunction

__all__ = ["Start", "TrainingConfig", "TuningConfig", "check_numbers", "find_start", "resume_point", "row_length",
           "say_unused", "set_aside", "train"]

Evaluate = Callable[[int], Mapping[str, Any]]         # step -> metrics
Log = Callable[[dict[str, Any]], None]
Stop = Callable[[int, Mapping[str, Any]], bool]       # step, metrics -> whether training ends


class Learner(Protocol):
    """Another way of learning than from targets: its loss, and what goes with it."""

    loss: "LossFunction"
    paused: str                       # why it ended by itself; empty while it goes on
    optimizer_settings: Mapping[str, Any]  # of build_optimizer, instead of the rates of the config

    def settings(self, optimizer: Any, log: Log, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings of `fit` instead of those given."""
        ...


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
    row_len: int = 0,
    lr_frac: float = 1.0,
    state: Mapping[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    stop: Stop | None = None,
    extra_meta: Callable[[], Mapping[str, Any]] = dict,
    version: Callable[[], Any] = lambda: None,
    early_stop: EarlyStop | None = None,
    learner: Learner | None = None,
    steps_flag: str = "--num_steps",
) -> dict[str, Any]:
    """Run `fit` with the common settings and save checkpoints of `source`; returns what `fit` returns and the path.

    `state` comes from `resume_point`; the model must hold that checkpoint's weights already. `row_len` is the length of
    rows, 0 the longest that the model reads. A run that starts anew sets the checkpoints of an earlier one with its
    tag aside when it saves its first. Ctrl-C and SIGTERM end it after the running step, with a checkpoint: raises
    KeyboardInterrupt. `version` says what batches depend on beside step and micro-batch, see `Prefetcher`. An
    `early_stop` keeps its best checkpoint, which in the end is the one that the tag means; it is used beside `stop`.
    A `learner` has a loss of its own, batches that are made when they are due, and is evaluated before its first step.
    `steps_flag` is how the number of steps is given, for what is said about a run that has ended; empty where no flag
    may change it.
    Raises UserError with the flags that help when memory runs out.
    """
    from nanochat.training import MetricsLog, fit, language_model_loss, warmup_stable_decay
    from nanochat.training.interrupt import Interruption
    from nanochat.training.prefetch import Prefetcher
    from scripts.training_plan import prepare

    saver = _Saver(config, source, model, tokenizer, num_steps, extra_meta, is_new=state is None)
    stop = _both(stop, early_stop, saver, state)
    done = _is_done(config, source, num_steps, state, evaluate, stop, early_stop, steps_flag, learner)
    if done is not None:
        return _with_best(done, early_stop)
    how = prepare(config, model, row_len=row_len)
    optimizer = saver.optimizer = _optimizer(config, model, lr_frac, state, learner)
    print0(f"Training {source}/{config.tag}: {model.num_parameters:,} parameters, "
           f"pattern {','.join(model.config.block_pattern)}, {num_steps} steps on {world_size()} process(es)")
    print0(describe(config))
    warmup = warmup_steps(config, num_steps)
    start_step = state["step"] if state is not None else 0
    metrics_file = base_dir() / "metrics" / f"{source}_{config.tag}.jsonl"
    first = rank() * config.grad_accum_steps
    num_workers = getattr(config, "data_workers", 0) if learner is None else 0
    with (name_helpful_flags(config, is_saved=lambda: bool(saver.path) or state is not None),
          Prefetcher(batches, micros=range(first, first + config.grad_accum_steps), num_steps=num_steps,
                     num_workers=num_workers, version=version) as ahead,
          Interruption() as interruption,
          MetricsLog(metrics_file, run=config.run, config=asdict(config), start_step=start_step) as log):
        settings = dict(
            num_steps=num_steps, start_step=start_step, seed=config.seed, grad_accum_steps=config.grad_accum_steps,
            progress=state["meta"]["progress"] if state is not None else None, norm_factor=config.spike_norm,
            loss_sigmas=config.spike_loss, schedule=warmup_stable_decay(num_steps, warmup, config.decay_frac),
            save=saver, save_every=config.save_every, evaluate=evaluate, eval_every=config.eval_every, stop=stop,
            log=log, log_every=config.log_every, is_interrupted=lambda: interruption.is_wanted, **how,
        )
        if learner is None:
            loss: Any = partial(language_model_loss, group=tokenizer.doc_ids)
        else:
            loss = learner.loss
            settings = {**settings, **learner.settings(optimizer, log, settings)}
            if state is None and evaluate is not None and stop is not None:
                stop(0, evaluate(0))
        result = fit(model, ahead, loss, optimizer, **settings)
    _say_idle(model)
    paused = learner.paused if learner is not None else ""
    return _with_best(_report(config, source, num_steps, result, saver.path, interruption.name, paused), early_stop)


def _with_best(result: dict[str, Any], early_stop: EarlyStop | None) -> dict[str, Any]:
    """The result of a run that has ended, its path that of the best checkpoint where there is one."""
    best = early_stop.finish(result["step"]) if early_stop is not None else None
    return result if best is None else {**result, "path": str(best)}


def _both(
    stop: Stop | None, early_stop: EarlyStop | None, saver: "_Saver", state: Mapping[str, Any] | None
) -> Stop | None:
    """What ends training: `stop` or the early stop, which always sees the metrics."""
    if early_stop is None or not early_stop.is_on:
        return stop
    early_stop.save = saver.save_best
    meta = saver.extra_meta
    saver.extra_meta = lambda: {**meta(), "early_stop": early_stop.record()}
    if state is not None:
        early_stop.restore(state["meta"].get("early_stop", {}), state["step"])

    def either(step: int, metrics: Mapping[str, Any]) -> bool:
        is_over = early_stop(step, metrics)
        return is_over or (stop is not None and stop(step, metrics))

    return either


def _optimizer(
    config: Any, model: "LanguageModel", lr_frac: float, state: Mapping[str, Any] | None, learner: Learner | None
) -> Any:
    """The optimizer of the settings, with the state of the checkpoint when resuming."""
    from nanochat.training import build_optimizer

    rates = learner.optimizer_settings if learner is not None else {
        "matrix_lr": config.matrix_lr * lr_frac, "embedding_lr": config.embedding_lr * lr_frac,
        "scalar_lr": config.scalar_lr * lr_frac, "adapter_lr": getattr(config, "lora_lr", 0.0) * lr_frac}
    optimizer = build_optimizer(model, weight_decay=config.weight_decay, **rates)
    if state is not None:
        optimizer.load_state(state["optimizer_tensors"], state["optimizer_record"], where=state["path"])
    return optimizer


class _Saver:
    """Writes a run's checkpoints; called by `fit` with step and progress, on every rank."""

    def __init__(
        self, config: Any, source: str, model: "LanguageModel", tokenizer: "Tokenizer", num_steps: int,
        extra_meta: Callable[[], Mapping[str, Any]], *, is_new: bool,
    ) -> None:
        self.config, self.source, self.model, self.tokenizer = config, source, model, tokenizer
        self.optimizer: Any = None  # set once it is there
        self.num_steps, self.extra_meta, self.is_new = num_steps, extra_meta, is_new
        self.path = ""
        self.has_best = False

    def __call__(self, step: int, progress: dict[str, Any]) -> None:
        if not self.path and self.is_new and rank() == 0:
            set_aside(self.source, self.config.tag)
        self.path = self._write(self.config.tag, step, {"progress": progress}, self.optimizer,
                                self.config.keep_checkpoints)

    def save_best(self, tag: str, step: int) -> None:
        """A checkpoint to use, not to go on from, under a tag that keeps the latest only."""
        if not self.has_best and self.is_new and rank() == 0:
            set_aside(self.source, tag)
        self.has_best = True
        self._write(tag, step, {}, None, 1)

    def _write(self, tag: str, step: int, meta: dict[str, Any], optimizer: Any, keep: int) -> str:
        from nanochat.checkpoint_manager import save_checkpoint

        meta |= {"num_steps": self.num_steps, "config": asdict(self.config), "written": time.time(),
                 **self.extra_meta()}
        return str(save_checkpoint(self.source, tag, step, model=self.model, tokenizer=self.tokenizer, meta=meta,
                                   optimizer=optimizer, keep=keep))


def _say_idle(model: "LanguageModel") -> None:
    from nanochat.training.lora import idle_adapters

    if idle := idle_adapters(model):
        more = f" and {len(idle) - 8} more" if len(idle) > 8 else ""
        print0(f"Warning: these adapters learned nothing: {', '.join(idle[:8])}{more}")


def _report(
    config: Any, source: str, num_steps: int, result: dict[str, Any], path: str, signal: str, paused: str
) -> dict[str, Any]:
    """Say how the run ended; returns the result with the path, or raises KeyboardInterrupt after an interruption that
    was not the learner's own.
    """
    from nanochat.training.distributed import shutdown_distributed

    print0(f"Saved {source}/{config.tag} step {result['step']}: {path}")
    counted = {name.removeprefix("num_").replace("_", " "): number for name, number in result.items()
               if name.startswith("num_") and number}
    if counted:
        print0("Steps out of line: " + ", ".join(f"{number} {name}" for name, number in counted.items()))
    if paused:
        print0(f"Paused after step {result['step']} of {num_steps}: {paused}")
    elif result["interrupted"]:
        print0(f"Stopped by {signal or 'a signal to another process'} after step {result['step']} of {num_steps}; "
               "to go on: the same command with --resume true")
        shutdown_distributed()
        raise KeyboardInterrupt
    return {**result, "path": path}


def _is_done(
    config: Any, source: str, num_steps: int, state: Mapping[str, Any] | None, evaluate: Evaluate | None,
    stop: Stop | None, early_stop: EarlyStop | None, steps_flag: str, learner: Learner | None,
) -> dict[str, Any] | None:
    """The result of a run in whose checkpoint nothing is left to train, with maybe empty metrics; else None.

    A checkpoint is written before the evaluation of its step: what that may say is asked for where it was not heard.
    """
    if state is None:
        return None
    name, step = f"{source}/{config.tag}", state["step"]
    result = {"step": step, "path": state["path"], "metrics": {}}
    if step >= num_steps:
        if early_stop is not None and early_stop.is_on and early_stop.seen < step and evaluate and stop:
            result["metrics"] = evaluate(step)
            stop(step, result["metrics"])
        further = f" To train it further: {steps_flag} {2 * step}" if steps_flag else ""
        print0(f"{name} is already at step {step} of {num_steps}: nothing to do.{further}")
        return result
    print0(f"Resuming {name} at step {step} of {num_steps}")
    say_changes(config, state["meta"].get("config", {}))
    if evaluate is not None and config.eval_every and step % config.eval_every == 0:
        # the checkpoint was written before this evaluation, which may open the next stage or end training
        metrics = evaluate(step)
        if stop is not None and stop(step, metrics):
            paused = learner.paused if learner is not None else ""
            print0(f"Paused at step {step} of {num_steps}: {paused}" if paused
                   else f"{name} has reached its goal at step {step}: nothing to do")
            return result | {"metrics": metrics}
    return None
