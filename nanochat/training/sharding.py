"""FSDP2: every process keeps a share of weights, gradients and optimizer state, and gathers a block when it is used."""

import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.errors import ConfigError
from nanochat.training.distributed import sync_parameters

METHODS = ("features", "head")  # a model is entered by these, not by its forward


def shard(model: nn.Module) -> None:
    """Share the model's weights among all processes, in place; before the optimizer is built.

    Gradients come out averaged over the processes; `gradient_scale` makes a sum of that. Raises ConfigError without a
    process group.
    """
    if not dist.is_initialized():
        raise ConfigError("--shard needs several processes",
                          hint="start them with torchrun --nproc_per_node=2 -m scripts..., or leave it out")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # nothing here changes such an output in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

    sync_parameters(model)
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for block in model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name in METHODS:
        register_fsdp_forward_method(model, name)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a share of the tensor only."""
    return hasattr(tensor, "full_tensor")


def gradient_scale(model: nn.Module) -> float:
    """What to multiply losses by so that gradients become their sum over all processes: losses are divided by the
    normaliser of all of them already. 1 without shares, where `sum_gradients` adds up.
    """
    return float(dist.get_world_size()) if any(map(is_sharded, model.parameters())) else 1.0


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that processes share; all of them must call this. Others come back as they are."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def share_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, cut as `parameter` is; without shares the tensor itself."""
    if not is_sharded(parameter) or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)


def take_part(model: nn.Module) -> Tensor:
    """A loss of 0 that touches every weight: for a process without supervised tokens, while others gather."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    return model.head(model.features(ids)).sum() * 0.0
