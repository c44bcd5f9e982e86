"""One row times a matrix in C: decoding reads every weight once per token, and libraries reach half of memory's speed.

The C file is compiled by the machine's own compiler in about a second, once, into the user's cache folder. Without a
compiler, or with NANOCHAT_ONE_ROW=off, products stay torch's.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

VARIABLE = "NANOCHAT_ONE_ROW"
SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-fno-math-errno")


def project(linear: nn.Module, x: Tensor) -> Tensor:
    """linear(x) for x (.., C); a single row on a CPU without gradients may take the C form, which keeps 1e-6."""
    if type(linear) is not nn.Linear or x.numel() != linear.in_features:
        return linear(x)
    return one_row(x, linear.weight, linear.bias)


def one_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear(x, weight, bias) for x with C elements in all; weight (V, C)."""
    fits = (x.numel() == weight.shape[1] and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
            and not torch.is_grad_enabled() and weight.is_contiguous() and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu"))
    function = _compiled() if fits else None
    if function is None:
        return nn.functional.linear(x, weight, bias)
    x = x.contiguous()
    y = torch.empty(*x.shape[:-1], weight.shape[0])
    function(weight.data_ptr(), x.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr(), weight.shape[0],
             weight.shape[1], torch.get_num_threads())
    return y


@functools.cache
def _compiled() -> Callable[..., None] | None:
    """The C function, or None where it cannot be had; compiles it at the first call on a machine."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if os.environ.get(VARIABLE) == "off" or compiler is None:
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    words = (SOURCE.read_text(encoding="utf-8"), compiler, *FLAGS, _processor())
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
    library = Path(home) / "nanochat" / f"one_row_{key}.so"
    try:
        if not library.exists():
            _build(compiler, library)
        function = ctypes.CDLL(str(library)).one_row
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None
    function.restype = None
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_ssize_t] * 2 + [ctypes.c_int]
    return function


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _build(compiler: str, library: Path) -> None:
    """Compile beside, then rename. Linked without an OpenMP of its own: torch's threads serve."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made, shared = Path(folder) / "one_row.o", Path(folder) / "one_row.so"
        for command in ([*FLAGS, "-c", str(SOURCE), "-o", str(made)], ["-shared", str(made), "-o", str(shared)]):
            subprocess.run([compiler, *command], check=True, capture_output=True, timeout=60)
        os.replace(shared, library)
