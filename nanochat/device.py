"""Which device to compute on, and how a CPU computes: threads, denormal numbers, who multiplies matrices."""

import os
from pathlib import Path

import torch

from nanochat.common import world_size
from nanochat.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")
EXACT = 2e-6  # relative error of a float32 product; bfloat16 is at 2e-3


def pick_device(name: str = "auto") -> torch.device:
    """The device for this process: "auto" is CUDA where there is one, else the CPU; "mps" only when named.

    Under torchrun "cuda" is the GPU of LOCAL_RANK; "cuda:1" is taken as written. Raises ConfigError for a device that
    this machine does not have.
    """
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise ConfigError(f"Device {name!r} is not known", hint=f"choose one of {', '.join(DEVICES)}")
    if kind == "auto":
        kind = name = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Device cuda is not available here", hint='use the CPU: device="cpu" (or --device cpu)')
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("Device mps is not available here", hint='use the CPU: device="cpu" (or --device cpu)')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"Device {name!r} is not known", hint=f"choose one of {', '.join(DEVICES)}") from error
    if kind == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if kind == "cuda" and device.index >= torch.cuda.device_count():
        raise ConfigError(
            f"Device {device} is not available here: {torch.cuda.device_count()} GPU(s) found",
            hint="start at most one process per GPU: torchrun --nproc_per_node=NUMBER_OF_GPUS",
        )
    return device


def set_cpu_threads() -> int:
    """Use OMP_NUM_THREADS threads, or this process's share of the cores it may run on. Returns the number used.

    Also sets what else makes a CPU faster at no loss: see `use_fast_products`; numbers below 1e-38, into which states
    decay, count as zero (before the first parallel work: threads take the setting over from the one that starts them).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdigit() and int(wanted) > 0 else max(1, cores // world_size())
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    use_fast_products()
    return threads


def use_fast_products() -> bool:
    """Let oneDNN multiply float32 matrices instead of MKL, on CPUs where that is as exact; True where it is in use.

    On AMD processors MKL reaches about half of oneDNN's rate. What torch calls precision "medium" hands products to it,
    and oneDNN may round to bfloat16 only on CPUs with matrix tiles (AMX). So this looks at the result: it
    stays where a product is as close to float64 as before. Not where there is a GPU: its precision would fall, too.
    """
    if torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512" or not _is_amd():
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(128, 128, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if ((a @ b) - exact).norm() / exact.norm() < EXACT:
        return True
    torch.set_float32_matmul_precision(before)
    return False


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
