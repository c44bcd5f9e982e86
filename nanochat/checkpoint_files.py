"""The files of a checkpoint: what is in them, read with checks that name the damaged file; tensors in and out."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nanochat.errors import CheckpointError, ConfigError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.training.lora import LoraSettings, add_adapters, is_adapter_tensor

FORMAT = 1
MODEL_FILE, CONFIG_FILE, META_FILE, TOKENIZER_FILE = "model.safetensors", "config.json", "meta.json", "tokenizer.json"
OPTIMIZER_TENSORS, OPTIMIZER_RECORD = "optimizer.safetensors", "optimizer.json"
ADAPTER_TENSORS, ADAPTER_RECORD = "adapters.safetensors", "adapters.json"


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of parameters and stored buffers, each once: a tied weight under its first name."""
    seen: dict[int, str] = {}
    kept = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if seen.setdefault(id(tensor), name) == name:
            kept[name] = portable(tensor)
    return kept


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a new file. Raises OSError when the disk is full, which safetensors calls by another name."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_adapters(path: Path, meta: Mapping[str, Any], model: LanguageModel) -> bool:
    """Give a model, whose weights are loaded, the adapters of its checkpoint; False when it has none."""
    if ADAPTER_TENSORS not in meta["files"]:
        return False
    verify(path, meta, [ADAPTER_TENSORS, ADAPTER_RECORD])
    record = read_json(path / ADAPTER_RECORD)
    try:
        settings = LoraSettings(**record | {"row_ids": tuple(record["row_ids"])})
    except (TypeError, KeyError) as error:
        raise damaged(path / ADAPTER_RECORD, str(error)) from error
    add_adapters(model, settings)
    tensors = read_tensors(path / ADAPTER_TENSORS)
    load_tensors(model, tensors, where=path / ADAPTER_TENSORS, chosen=is_adapter_tensor)
    return True


@torch.no_grad()
def load_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], *, where: str | Path,
    chosen: Callable[[str], bool] = lambda name: True,
) -> None:
    """Copy tensors into a model whose names and shapes must match exactly. Raises CheckpointError naming `where`.

    chosen(name): which of the model's tensors are meant.
    """
    state = model.state_dict(keep_vars=True)
    expected = {name: tensor for name, tensor in unique_tensors(model).items() if chosen(name)}
    differing = sorted(expected.keys() ^ tensors.keys())
    if differing:
        raise damaged(where, f"{len(differing)} tensors are missing or too many, first {differing[0]!r}")
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            wanted = tuple(state[name].shape)
            raise damaged(where, f"{name!r} has shape {tuple(tensor.shape)}, the config says {wanted}")
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


def portable(tensor: Tensor) -> Tensor:
    """The whole tensor in the CPU's memory. A tensor that processes share is gathered: all of them must call this."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).cpu().contiguous()


def fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def verify(path: Path, meta: Mapping[str, Any], names: list[str]) -> None:
    """Hold files against the sizes and hashes in meta.json."""
    for name in names:
        if not (path / name).is_file():
            raise damaged(path / name, "the file is missing")
        if name not in meta["files"]:
            raise damaged(path / META_FILE, f"it does not list {name}")
        if fingerprint(path / name) != meta["files"][name]:
            raise damaged(path / name, "its content is not what was saved")


def damaged(path: str | Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"Checkpoint is damaged: {path}: {reason}",
        hint="choose another with --tag and --step, or delete this folder and train again",
    )


def read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise damaged(path, f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise damaged(path, "not a JSON object")
    return record


def read_meta(path: Path) -> dict[str, Any]:
    meta = read_json(path / META_FILE)
    if meta.get("format") != FORMAT or not isinstance(meta.get("files"), dict) or not isinstance(meta.get("step"), int):
        raise damaged(path / META_FILE, f"format {meta.get('format')!r} with its fields, expected {FORMAT}")
    return meta


def read_config(path: Path) -> ModelConfig:
    record = read_json(path / CONFIG_FILE)
    try:
        return ModelConfig.from_dict(record)
    except (ConfigError, TypeError) as error:
        raise damaged(path / CONFIG_FILE, getattr(error, "problem", str(error))) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error
