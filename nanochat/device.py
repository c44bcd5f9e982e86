"""Which device to compute on, and how many CPU threads."""

import os

import torch

from nanochat.common import world_size
from nanochat.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


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
    """Use OMP_NUM_THREADS threads, or this process's share of the cores it may run on. Returns the number used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdigit() and int(wanted) > 0 else max(1, cores // world_size())
    torch.set_num_threads(threads)
    return threads
