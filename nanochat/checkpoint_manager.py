"""Checkpoints: a folder of safetensors and JSON per step, found by source, tag and step; whole or not at all."""

import difflib
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nanochat.checkpoint_files import (
    ADAPTER_RECORD,
    ADAPTER_TENSORS,
    CONFIG_FILE,
    FORMAT,
    META_FILE,
    MODEL_FILE,
    OPTIMIZER_RECORD,
    OPTIMIZER_TENSORS,
    TOKENIZER_FILE,
    fingerprint,
    load_tensors,
    portable,
    read_adapters,
    read_config,
    read_json,
    read_meta,
    read_tensors,
    save_tensors,
    unique_tensors,
    verify,
)
from nanochat.common import base_dir, rank, write_folder, write_json
from nanochat.device import pick_device
from nanochat.errors import CheckpointError, CheckpointNotFound, ConfigError, UnsupportedModel
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer
from nanochat.training.lora import adapter_settings, is_adapter_tensor, merge_adapters

__all__ = [
    "MAKERS",
    "PHASES",
    "SOURCES",
    "check_source",
    "check_tag",
    "find_checkpoint",
    "load_model",
    "load_tensors",
    "load_training_state",
    "prune_checkpoints",
    "require_mamba",
    "save_checkpoint",
    "unique_tensors",
]

SOURCES = ("base", "mid", "rag", "refrag")
MAKERS = {  # source -> the command that makes such a checkpoint
    "base": "python -m scripts.base_train --input data/my_documents.jsonl",
    "mid": "python -m scripts.mid_train",
    "rag": "python -m scripts.rag_finetune --knowledge_base data/my_kb --source mid",
    "refrag": "python -m scripts.refrag_finetune --knowledge_base data/my_kb --source rag",
}
PUBLISHED = "hf:"  # a source that starts so is a published checkpoint: a folder or an id
PHASES = ("train", "eval")
_STEP = re.compile(r"step_(\d+)")
_TAG = re.compile(r"[\w][\w.+-]*")
_STALE_SECONDS = 3600  # a temporary folder this old belongs to a process that was killed


class OptimizerState(Protocol):
    """What an optimizer offers to be saved; training.CombinedOptimizer does."""

    def state_tensors(self) -> dict[str, Tensor]: ...
    def state_record(self) -> dict[str, Any]: ...


def save_checkpoint(
    source: str,
    tag: str,
    step: int,
    *,
    model: LanguageModel,
    tokenizer: Tokenizer,
    meta: Mapping[str, Any],
    optimizer: OptimizerState | None = None,
    keep: int = 0,
) -> Path:
    """Write checkpoints/<source>/<tag>/step_<step> and return it; rank 0 writes, the others only learn the path.

    A model with LoRA adapters is stored as it was before them, with the adapters beside.
    `meta` is stored as JSON beside source, tag, step, format and the files' sizes and hashes. keep > 0 then deletes all
    but the `keep` latest steps of this tag. Raises UserError when the folder cannot be written.
    """
    check_source(source)
    check_tag(tag)
    path = _tag_folder(source, tag) / f"step_{step:06d}"
    if rank() != 0 and not _is_shared(model):
        return path
    # tensors that processes share are gathered from all of them, before their ways part
    tensors = unique_tensors(model)
    states = {} if optimizer is None else {key: portable(value) for key, value in optimizer.state_tensors().items()}
    if rank() != 0:
        return path
    with write_folder(path) as folder:
        whole = {name: value for name, value in tensors.items() if not is_adapter_tensor(name)}
        save_tensors(whole, folder / MODEL_FILE)
        write_json(folder / CONFIG_FILE, model.config.to_dict())
        tokenizer.save(folder)
        if (adapters := adapter_settings(model)) is not None:
            save_tensors({name: value for name, value in tensors.items() if is_adapter_tensor(name)},
                         folder / ADAPTER_TENSORS)
            write_json(folder / ADAPTER_RECORD, asdict(adapters))
        if optimizer is not None:
            save_tensors(states, folder / OPTIMIZER_TENSORS)
            write_json(folder / OPTIMIZER_RECORD, optimizer.state_record())
        files = {entry.name: fingerprint(entry) for entry in sorted(folder.iterdir())}
        own = {"format": FORMAT, "source": source, "tag": tag, "step": step, "files": files}
        write_json(folder / META_FILE, {**meta, **own})
    _remove_stale(path.parent)
    if keep > 0:
        prune_checkpoints(source, tag, keep=keep)
    return path


def check_tag(tag: str) -> None:
    """Raises ConfigError unless the tag can name a folder of checkpoints."""
    if not _TAG.fullmatch(tag):
        raise ConfigError(f"Tag {tag!r} cannot name a folder", hint="use letters, digits, '-', '_' and '.': --tag d20")


def prune_checkpoints(source: str, tag: str, *, keep: int) -> list[Path]:
    """Delete all but the `keep` latest steps of a tag; returns what was deleted."""
    assert keep >= 1, f"keep is {keep}, at least one checkpoint must stay"
    old = [path for _, path in _steps(_tag_folder(source, tag))][:-keep]
    for path in old:
        # a renamed folder is no checkpoint any more, however far its deletion gets
        doomed = path.with_name(f".{path.name}.old.tmp")
        path.rename(doomed)
        shutil.rmtree(doomed)
    return old


def find_checkpoint(source: str, tag: str | None = None, step: int | None = None) -> Path:
    """The folder of a checkpoint: tag None is the tag written last, step None its latest step.

    Raises CheckpointNotFound, whose hint is the command that makes one, or the tags and steps that exist.
    """
    check_source(source)
    folder = base_dir() / "checkpoints" / source
    written = {entry.name: steps for entry in sorted(folder.glob("[!.]*")) if (steps := _steps(entry))}
    if not written:
        problem = f"Checkpoint not found: source {source} has none in {folder}"
        raise CheckpointNotFound(problem, hint=f"make one: {MAKERS[source]}")
    if tag is None:
        tag = max(written, key=lambda name: max((path / META_FILE).stat().st_mtime_ns for _, path in written[name]))
    if tag not in written:
        raise CheckpointNotFound(
            f"Checkpoint not found: source {source}, tag {tag} in {folder}",
            hint=f"choose one of the tags {', '.join(written)}, or make it: {MAKERS[source]} --tag {tag}",
        )
    steps = dict(written[tag])
    if step is not None and step not in steps:
        problem = f"Checkpoint not found: source {source}, tag {tag}, step {step} in {folder / tag}"
        raise CheckpointNotFound(problem, hint=f"choose one of the steps {', '.join(map(str, steps))}")
    return steps[max(steps) if step is None else step]


def load_model(
    source: str,
    device: str | torch.device = "cpu",
    phase: str = "eval",
    tag: str | None = None,
    step: int | None = None,
) -> tuple[LanguageModel, Tokenizer, dict[str, Any]]:
    """Model, tokenizer and meta of a checkpoint; meta has source, tag, step, path and what the run stored.

    source: base, mid, rag, refrag, or hf:FOLDER_OR_ID for a published checkpoint, whose step is 0. device: "cpu",
    "cuda", "auto" (CUDA where there is one). phase: "eval", with LoRA adapters merged, or "train", with adapters kept.
    Raises CheckpointNotFound, CheckpointError when damaged, ConfigError for an unknown phase or a missing device.
    """
    if phase not in PHASES:
        raise ConfigError(
            f"Phase {phase!r} is not known", hint='phase="eval" to answer, phase="train" to go on training'
        )
    if source.startswith(PUBLISHED):
        from nanochat.interop import load

        return load(source.removeprefix(PUBLISHED), device, phase)
    path = find_checkpoint(source, tag, step)
    place = pick_device(str(device))
    meta = read_meta(path)
    words = [name for name in meta["files"] if name.startswith("tokenizer") and name != TOKENIZER_FILE]
    verify(path, meta, [MODEL_FILE, CONFIG_FILE, TOKENIZER_FILE, *words])
    config = read_config(path)
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise UnsupportedModel(
            f"{path / TOKENIZER_FILE}: it has {tokenizer.vocab_size} ids, the model {config.vocab_size}: some words or "
            "marks, such as query_start, are unknown to the model",
            hint="a published model gets the marks on import: --source hf:FOLDER; or train one that has them: "
            "python -m scripts.base_train")
    model = LanguageModel.empty(config)
    load_tensors(model, read_tensors(path / MODEL_FILE), where=path / MODEL_FILE)
    if read_adapters(path, meta, model) and phase == "eval":
        merge_adapters(model)
    model = model.to(place).train(phase == "train")
    return model, tokenizer, {**meta, "path": str(path)}


def load_training_state(path: str | Path) -> dict[str, Any]:
    """What resuming needs besides the model: {"step", "meta", "optimizer_tensors", "optimizer_record"}.

    Give the last two to CombinedOptimizer.load_state. Raises CheckpointError when the run saved no optimizer.
    """
    path = Path(path)
    meta = read_meta(path)
    if not (path / OPTIMIZER_TENSORS).exists() and OPTIMIZER_TENSORS not in meta["files"]:
        problem = f"{path} has no optimizer state: it can be trained further, but not resumed"
        raise CheckpointError(problem, hint="start a new run from it: --source SOURCE with another --tag")
    verify(path, meta, [OPTIMIZER_TENSORS, OPTIMIZER_RECORD])
    return {
        "step": meta["step"],
        "meta": meta,
        "optimizer_tensors": read_tensors(path / OPTIMIZER_TENSORS),
        "optimizer_record": read_json(path / OPTIMIZER_RECORD),
    }


def require_mamba(config: ModelConfig, source: str, tag: str) -> None:
    """Refuse a pure transformer for RAG. Raises UnsupportedModel."""
    if not config.has_mamba:
        raise UnsupportedModel(
            f"RAG requires Mamba or hybrid models; {source}/{tag} has block pattern {','.join(config.block_pattern)}",
            hint='pre-train with at least one "M": python -m scripts.base_train --block_pattern "T,T,M,M"',
        )


def _tag_folder(source: str, tag: str) -> Path:
    return base_dir() / "checkpoints" / source / tag


def _is_shared(model: LanguageModel) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def check_source(source: str) -> None:
    """Raises ConfigError unless the source is one that this project writes."""
    if source not in SOURCES:
        near = difflib.get_close_matches(source, SOURCES, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"Checkpoint source {source!r} is not known{meant}", hint=f"use one of {', '.join(SOURCES)}")


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a tag, oldest step first."""
    found = ((_STEP.fullmatch(path.name), path) for path in folder.glob("step_*"))
    return sorted((int(match[1]), path) for match, path in found if match and (path / META_FILE).is_file())


def _remove_stale(folder: Path) -> None:
    """Delete temporary folders that a killed save left behind."""
    for path in folder.glob(".step_*.tmp"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


