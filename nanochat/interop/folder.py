"""Files of a published folder: JSON records, and named tensors out of one or several safetensors files."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanochat.errors import CheckpointError, CheckpointNotFound
from nanochat.interop.fields import WHAT_LOADS

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
AGAIN = "download the folder again"
# buffers that old versions stored, recomputed by everyone
_COMPUTED = re.compile(r".*rotary_emb\.(inv_freq|original_inv_freq)")
_OLD_NAMES = {"backbone.embedding.weight": "backbone.embeddings.weight"}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a published folder. Raises CheckpointNotFound or CheckpointError naming it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise CheckpointNotFound(f"{path.parent} has no {path.name}", hint=WHAT_LOADS) from missing
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint=AGAIN) from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: not a JSON object", hint=AGAIN)
    return record


class Tensors:
    """Named tensors of one or several safetensors files, each read when it is asked for."""

    def __init__(self, files: Mapping[Path, Any]) -> None:
        self._file_of = {}
        for path, file in files.items():
            for name in file.keys():  # noqa: SIM118 - not a mapping
                self._file_of[_OLD_NAMES.get(name, name)] = (path, file, name)

    def names(self) -> set[str]:
        """What is stored, without buffers that everyone recomputes."""
        return {name for name in self._file_of if not _COMPUTED.fullmatch(name)}

    def path(self, name: str) -> Path:
        return self._file_of[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        _, file, stored = self._file_of[name]
        return tuple(file.get_slice(stored).get_shape())

    def type_name(self, name: str) -> str:
        _, file, stored = self._file_of[name]
        return file.get_slice(stored).get_dtype()

    def read(self, name: str) -> Tensor:
        _, file, stored = self._file_of[name]
        return file.get_tensor(stored)


@contextmanager
def open_tensors(folder: Path) -> Iterator[Tensors]:
    """The tensors of model.safetensors, or of the files that the index names."""
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).is_file() or not index.is_file():
        paths = [folder / WEIGHTS_FILE]
        if not paths[0].is_file():
            raise CheckpointNotFound(
                f"{folder} has no {WEIGHTS_FILE}",
                hint="only safetensors load; convert the folder with transformers: model.save_pretrained(FOLDER)",
            )
    else:
        paths = _indexed(folder, read_json(index).get("weight_map"))
    with ExitStack() as stack:
        files = {}
        for path in paths:
            try:
                files[path] = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is damaged: {error}", hint=AGAIN) from error
        yield Tensors(files)


def _indexed(folder: Path, weight_map: Any) -> list[Path]:
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{folder / INDEX_FILE} is damaged: its weight_map does not name files of this folder",
                              hint=AGAIN)
    names = sorted(set(names))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointNotFound(f"{folder} has no {missing[0]}, which {INDEX_FILE} names", hint=AGAIN)
    return [folder / name for name in names]
