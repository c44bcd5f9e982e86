"""Where a run begins: with another checkpoint, an imported model, or its own last state; LoRA adapters if wanted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.common import print0
from nanochat.config import origins
from nanochat.errors import CheckpointNotFound, ConfigError
from scripts.training_settings import say_unused

if TYPE_CHECKING:
    import torch

    from nanochat.model import LanguageModel
    from nanochat.tokenizer import Tokenizer
    from nanochat.training.lora import LoraSettings


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins: a checkpoint of another source, or its own when it resumes."""

    model: "LanguageModel"
    tokenizer: "Tokenizer"
    origin: Mapping[str, Any]         # source, tag and step of the checkpoint that the run began with
    state: Mapping[str, Any] | None   # training state to resume, with its path


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
    """The model to train: that of --source and --source_tag, or the latest checkpoint of `source` with --resume.

    With --lora_rank it has adapters, whose coverage is printed. Raises ConfigError for other adapters than resumed.
    """
    from nanochat.checkpoint_manager import load_model
    from nanochat.training.lora import adapter_settings, coverage, is_adapted, merge_adapters

    state = resume_point(config, source)
    if state is None:
        model, tokenizer, meta = load_model(config.source, device, "train", config.source_tag or config.tag)
        origin = {name: meta[name] for name in ("source", "tag", "step")}
        if is_adapted(model):
            merge_adapters(model)
        _adapt(config, model, tokenizer)
    else:
        model, tokenizer, meta = load_model(source, device, "train", config.tag, state["step"])
        origin = meta.get("from", {})
        _check_adapters(config, source, adapter_settings(model))
    if is_adapted(model):
        print0(coverage(model))
    return Start(model=model, tokenizer=tokenizer, origin=origin, state=state)


def _check_adapters(config: Any, source: str, theirs: "LoraSettings | None") -> None:
    """Raises ConfigError for settings of LoRA that were given and are not those the run was begun with."""
    then: dict[str, Any] = {"lora_rank": 0}
    if theirs is not None:
        then = {"lora_rank": theirs.rank, "lora_alpha": theirs.alpha, "lora_train_embeddings": theirs.train_embeddings}
    for name, value in then.items():
        if origins(config)[name] not in ("default", "code") and getattr(config, name) != value:
            raise ConfigError(f"--{name} is {getattr(config, name)}, but {source}/{config.tag} was begun with {value}",
                              hint="begin another run: --tag NAME, without --resume")


def _adapt(config: Any, model: "LanguageModel", tokenizer: "Tokenizer") -> None:
    from nanochat.training.lora import LoraSettings, add_adapters, largest_rank

    if not config.lora_rank:
        say_unused(config, "without --lora_rank", "lora_alpha", "lora_lr", "lora_train_embeddings")
        return
    if config.lora_rank > (most := largest_rank(model)):
        raise ConfigError(f"--lora_rank is {config.lora_rank}, but the smallest matrix of this model has rank {most}",
                          hint=f"at most --lora_rank {most}, or train all weights: --lora_rank 0")
    # of embedding, head and last norm the norm learns at scalar_lr
    idle = ["matrix_lr", "weight_decay"] if config.lora_train_embeddings else ["matrix_lr", "scalar_lr", "weight_decay"]
    say_unused(config, "with --lora_rank", *idle)
    # an imported model has never seen these ids: without their rows it could not learn our format
    rows = tuple(index for index in range(tokenizer.vocab_size) if tokenizer.is_reserved(index))
    add_adapters(model, LoraSettings(
        rank=config.lora_rank, alpha=config.lora_alpha, row_ids=() if config.lora_train_embeddings else rows,
        train_embeddings=config.lora_train_embeddings,
    ), seed=config.seed)


def row_length(config: Any, model: "LanguageModel") -> int:
    """Tokens of a row: --max_seq_len, but no more than the model reads when it answers."""
    longest = model.config.sequence_len
    if config.max_seq_len > longest:
        print0(f"Rows have {longest} tokens, not {config.max_seq_len} (--max_seq_len): the model was made for no more")
    return min(config.max_seq_len, longest)
