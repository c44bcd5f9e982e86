"""Numeric paths: ways to compute one model's vectors, from exact to fast, and which of them this machine has."""

import contextlib
import difflib
import importlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from nanochat.common import base_dir, write_folder
from nanochat.errors import ConfigError, MissingDependency
from nanochat.retrieval.encoders.base import EncoderError
from nanochat.retrieval.encoders.sentence_folder import SentenceFolder

# batches of (ids, mask), each (B, T) int64, to vectors (B, D) float32, in the order of the batches
Batch = tuple[np.ndarray, np.ndarray]


class Run(Protocol):
    """A model ready to compute."""

    def __call__(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]: ...


class NumericPath(NamedTuple):
    """How to get a Run: `home` is module:function, called with (sentence, for_queries=...)."""

    home: str
    needs: tuple[str, ...]  # packages
    shared: bool            # one Run serves documents and queries
    says: str


# name -> path, the preferred first; measurements in bench/encoders.py
PATHS = {
    "openvino-int8": NumericPath(
        "nanochat.retrieval.encoders.openvino_path:load_int8", ("openvino",), False,
        "OpenVINO, 8-bit integers with scales from a few texts; nothing but the model decides them"),
    "openvino": NumericPath(
        "nanochat.retrieval.encoders.openvino_path:load_float", ("openvino",), False,
        "OpenVINO, float32 graph; bfloat16 where the processor has it"),
    "onnx": NumericPath(
        "nanochat.retrieval.encoders.onnx_path:load", ("onnxruntime", "onnx"), True, "ONNX Runtime, float32"),
    "torch": NumericPath(
        "nanochat.retrieval.encoders.torch_path:load", ("torch", "transformers"), True, "torch float32: the reference"),
}


def is_installed(path: str) -> bool:
    """Whether the packages of a path are there, without importing them."""
    return all(importlib.util.find_spec(name) is not None for name in PATHS[path].needs)


def choose_path(path: str) -> str:
    """The name of a path: "auto" is the first one installed. Raises ConfigError or MissingDependency."""
    if path == "auto":
        if _has_gpu():
            return "torch"
        return next((name for name in PATHS if is_installed(name)), "torch")
    if path not in PATHS:
        near = difflib.get_close_matches(path, PATHS, n=1, cutoff=0.4)
        raise ConfigError(
            f"Unknown numeric path {path!r}; there are: auto, {', '.join(PATHS)}",
            hint=f"did you mean {near[0]!r}?" if near else "choose one of these",
        )
    if not is_installed(path):
        missing = [name for name in PATHS[path].needs if importlib.util.find_spec(name) is None]
        raise MissingDependency(f"The numeric path {path} needs: {', '.join(missing)}",
                                hint=f"uv pip install {' '.join(missing)}")
    return path


def _has_gpu() -> bool:
    # the files of the driver first: importing torch takes seconds
    if not (Path("/proc/driver/nvidia").exists() and is_installed("torch")):
        return False
    import torch

    return torch.cuda.is_available()


def load_path(path: str, sentence: SentenceFolder, *, for_queries: bool) -> Run:
    """The model, ready to compute on this path; the first call on a machine may convert it."""
    module, _, function = PATHS[path].home.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(sentence, for_queries=for_queries)
    except (RuntimeError, NotImplementedError) as error:
        # converters know most models, not all; both engines raise kinds of RuntimeError
        raise EncoderError(
            f"The model in {sentence.folder} does not run on the numeric path {path}: {str(error).splitlines()[0]}",
            hint="use the numeric path torch",
        ) from error


@contextlib.contextmanager
def converted(sentence: SentenceFolder, kind: str, write: Callable[[Path], None]) -> Iterator[Path]:
    """A folder with the converted model, kept in base_dir()/encoders; `write` fills it the first time.

    Where that place cannot be written, the folder is a temporary one.
    """
    home = base_dir() / "encoders" / sentence.fingerprint / kind
    if (home / "complete").is_file():
        yield home
        return
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(home.parent, os.W_OK)
    except OSError:
        is_writable = False
    if is_writable:
        with write_folder(home) as folder:
            write(folder)
            (folder / "complete").write_text("converted and written whole\n", encoding="utf-8")
        yield home
        return
    temporary = Path(tempfile.mkdtemp(prefix="nanochat-encoder-"))
    try:
        write(temporary)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def num_threads() -> int:
    """Threads to use: OMP_NUM_THREADS where it is set, otherwise the processors this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(int(wanted), available) if wanted.isdigit() and int(wanted) > 0 else available
