"""Checkpoints: a folder of safetensors and JSON per step, found by source, tag and step; whole or not at all."""

import difflib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nanochat.common import base_dir, rank, write_folder, write_json
from nanochat.device import pick_device
from nanochat.errors import CheckpointError, CheckpointNotFound, ConfigError, UnsupportedModel, UserError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer

SOURCES = ("base", "mid", "rag", "refrag")
MAKERS = {  # source -> the command that makes such a checkpoint
    "base": "python -m scripts.base_train --input data/my_documents.jsonl",
    "mid": "python -m scripts.mid_train",
    "rag": "python -m scripts.rag_finetune --knowledge_base data/my_kb --source mid",
    "refrag": "python -m scripts.refrag_finetune --knowledge_base data/my_kb --source rag",
}
PHASES = ("train", "eval")
FORMAT = 1
MODEL_FILE, CONFIG_FILE, META_FILE, TOKENIZER_FILE = "model.safetensors", "config.json", "meta.json", "tokenizer.json"
OPTIMIZER_TENSORS, OPTIMIZER_RECORD = "optimizer.safetensors", "optimizer.json"
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

    `meta` is stored as JSON beside source, tag, step, format and the files' sizes and hashes. keep > 0 then deletes all
    but the `keep` latest steps of this tag. Raises UserError when the folder cannot be written.
    """
    _check_source(source)
    check_tag(tag)
    path = _tag_folder(source, tag) / f"step_{step:06d}"
    if rank() != 0:
        return path
    with write_folder(path) as folder:
        save_file(unique_tensors(model), folder / MODEL_FILE)
        write_json(folder / CONFIG_FILE, model.config.to_dict())
        tokenizer.save(folder)
        if optimizer is not None:
            tensors = {key: _portable(value) for key, value in optimizer.state_tensors().items()}
            save_file(tensors, folder / OPTIMIZER_TENSORS)
            write_json(folder / OPTIMIZER_RECORD, optimizer.state_record())
        files = {entry.name: _fingerprint(entry) for entry in sorted(folder.iterdir())}
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
    _check_source(source)
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

    source: base, mid, rag or refrag. device: "cpu", "cuda", "auto" (CUDA where there is one). phase: "eval" or "train".
    Raises CheckpointNotFound, CheckpointError when damaged, ConfigError for an unknown phase or a missing device.
    """
    if phase not in PHASES:
        raise ConfigError(
            f"Phase {phase!r} is not known", hint='phase="eval" to answer, phase="train" to go on training'
        )
    if source.startswith("hf:"):
        problem = f"Source {source} is not built yet: published checkpoints cannot be imported"
        raise UserError(problem, hint=f"train one instead: {MAKERS['base']}")
    path = find_checkpoint(source, tag, step)
    place = pick_device(str(device))
    meta = _read_meta(path)
    _verify(path, meta, [MODEL_FILE, CONFIG_FILE, TOKENIZER_FILE])
    config = _read_config(path)
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise _damaged(path / TOKENIZER_FILE, f"it has {tokenizer.vocab_size} ids, the model {config.vocab_size}")
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(config)
    load_tensors(model, _read_tensors(path / MODEL_FILE), where=path / MODEL_FILE)
    model = model.to(place).train(phase == "train")
    return model, tokenizer, {**meta, "path": str(path)}


def load_training_state(path: str | Path) -> dict[str, Any]:
    """What resuming needs besides the model: {"step", "meta", "optimizer_tensors", "optimizer_record"}.

    Give the last two to CombinedOptimizer.load_state. Raises CheckpointError when the run saved no optimizer.
    """
    path = Path(path)
    meta = _read_meta(path)
    if not (path / OPTIMIZER_TENSORS).exists() and OPTIMIZER_TENSORS not in meta["files"]:
        problem = f"{path} has no optimizer state: it can be trained further, but not resumed"
        raise CheckpointError(problem, hint="start a new run from it: --source SOURCE with another --tag")
    _verify(path, meta, [OPTIMIZER_TENSORS, OPTIMIZER_RECORD])
    return {
        "step": meta["step"],
        "meta": meta,
        "optimizer_tensors": _read_tensors(path / OPTIMIZER_TENSORS),
        "optimizer_record": _read_json(path / OPTIMIZER_RECORD),
    }


def require_mamba(config: ModelConfig, source: str, tag: str) -> None:
    """Refuse a pure transformer for RAG. Raises UnsupportedModel."""
    if not config.has_mamba:
        raise UnsupportedModel(
            f"RAG requires Mamba or hybrid models; {source}/{tag} has block pattern {','.join(config.block_pattern)}",
            hint='pre-train with at least one "M": python -m scripts.base_train --block_pattern "T,T,M,M"',
        )


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of parameters and stored buffers, each once: a tied weight under its first name."""
    seen: dict[int, str] = {}
    kept = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if seen.setdefault(id(tensor), name) == name:
            kept[name] = _portable(tensor)
    return kept


@torch.no_grad()
def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str | Path) -> None:
    """Copy tensors into a model whose names and shapes must match exactly. Raises CheckpointError naming `where`."""
    state = model.state_dict(keep_vars=True)
    expected = unique_tensors(model)
    differing = sorted(expected.keys() ^ tensors.keys())
    if differing:
        raise _damaged(where, f"{len(differing)} tensors are missing or too many, first {differing[0]!r}")
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            wanted = tuple(state[name].shape)
            raise _damaged(where, f"{name!r} has shape {tuple(tensor.shape)}, the config says {wanted}")
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


def _portable(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _tag_folder(source: str, tag: str) -> Path:
    return base_dir() / "checkpoints" / source / tag


def _check_source(source: str) -> None:
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


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _verify(path: Path, meta: Mapping[str, Any], names: list[str]) -> None:
    """Hold files against the sizes and hashes in meta.json."""
    for name in names:
        if not (path / name).is_file():
            raise _damaged(path / name, "the file is missing")
        if name not in meta["files"]:
            raise _damaged(path / META_FILE, f"it does not list {name}")
        if _fingerprint(path / name) != meta["files"][name]:
            raise _damaged(path / name, "its content is not what was saved")


def _damaged(path: str | Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"Checkpoint is damaged: {path}: {reason}",
        hint="choose another with --tag and --step, or delete this folder and train again",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise _damaged(path, f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise _damaged(path, "not a JSON object")
    return record


def _read_meta(path: Path) -> dict[str, Any]:
    meta = _read_json(path / META_FILE)
    if meta.get("format") != FORMAT or not isinstance(meta.get("files"), dict) or not isinstance(meta.get("step"), int):
        raise _damaged(path / META_FILE, f"format {meta.get('format')!r} with its fields, expected {FORMAT}")
    return meta


def _read_config(path: Path) -> ModelConfig:
    record = _read_json(path / CONFIG_FILE)
    try:
        return ModelConfig.from_dict(record)
    except (ConfigError, TypeError) as error:
        raise _damaged(path / CONFIG_FILE, getattr(error, "problem", str(error))) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
