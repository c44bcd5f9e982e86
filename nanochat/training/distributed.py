"""Several processes as one: started by torchrun, silent when alone."""

import gc
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.common import rank, world_size
from nanochat.device import pick_device, set_cpu_threads

__all__ = [
    "any_rank",
    "barrier",
    "init_distributed",
    "mean_over_ranks",
    "pick_device",
    "set_cpu_threads",
    "shutdown_distributed",
    "sum_gradients",
    "sum_numbers",
    "sum_over_ranks",
    "sync_parameters",
]

BUCKET_ELEMENTS = 2**24  # gradients travel in buckets of about 64 MiB


def init_distributed(device: torch.device) -> None:
    """Join the process group that torchrun describes (gloo on a CPU, nccl on CUDA); does nothing when alone."""
    if world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank(), world_size=world_size())


def shutdown_distributed() -> None:
    """Leave the group of processes, if there is one.

    What still holds a group in a cycle of references, as sharded models do, goes while the interpreter lives: threads
    of gloo that end with it abort the process ("terminate called without an active exception", pytorch issue 190489).
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
        gc.collect()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum of a tensor over all processes."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def sum_numbers(values: list[float], device: torch.device | None = None) -> list[float]:
    """Each number summed over all processes, in float64. nccl needs `device`, the one this process computes on."""
    if not dist.is_initialized():
        return values
    return sum_over_ranks(torch.tensor(values, dtype=torch.float64, device=device)).tolist()


def mean_over_ranks(value: float, device: torch.device | None = None) -> float:
    """The mean of a number over all processes."""
    total = sum_numbers([float(value)], device)[0]
    return total / dist.get_world_size() if dist.is_initialized() else total


def any_rank(value: bool, device: torch.device | None = None) -> bool:
    """True when it is true in any process, so that all take the same branch."""
    return mean_over_ranks(float(value), device) > 0


def sync_parameters(model: nn.Module) -> None:
    """Give every process rank 0's parameters and buffers."""
    if dist.is_initialized():
        for tensor in [*model.parameters(), *model.buffers()]:
            if hasattr(tensor, "full_tensor"):
                continue  # was the same before it was shared
            dist.broadcast(tensor.data, src=0)


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes; the loss is already divided by the global normaliser.

    A gradient that is missing everywhere stays missing, so optimizers skip that parameter as they would in one process.
    Parameters that processes share have theirs summed already.
    """
    if not dist.is_initialized():
        return
    parameters = [parameter for parameter in parameters if not hasattr(parameter, "full_tensor")]
    if not parameters:
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    dist.all_reduce(present)
    live = [p for p, count in zip(parameters, present.tolist(), strict=True) if count > 0]
    for bucket in _buckets(live):
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in bucket])
        dist.all_reduce(flat)
        for parameter, grad in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            parameter.grad = grad.view_as(parameter)


def _buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        if not buckets or size > BUCKET_ELEMENTS or buckets[-1][0].dtype != parameter.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.numel()
    return buckets
