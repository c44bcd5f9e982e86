"""Muon: momentum, then the nearest orthogonal matrix, for the weights of linear layers."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

# Keller Jordan 2024, "Muon: An optimizer for hidden layers in neural networks"
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """matrices (N, R, C) -> the same singular vectors with singular values near 1 (Newton-Schulz, 5 steps)."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """The update of torch.optim.Muon(adjust_lr_fn="match_rms_adamw"), equal shapes taken together.

    Own code for one reason: torch computes in bfloat16 always, and a CPU without bfloat16 instructions then needs
    1,180 ms instead of 72 ms for a step of 40 matrices of 128 x 384 (one core). Here a CPU computes in float32, a GPU
    in bfloat16. Rates are those of AdamW: Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv:2502.16982.
    """

    def __init__(self, params: Iterable, lr: float = 1e-3, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                assert parameter.ndim == 2, f"Muon takes matrices, not shape {tuple(parameter.shape)}"

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_together(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _step_together(self, parameters: list[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        weights = [_own(parameter) for parameter in parameters]
        grads = [_own(parameter.grad) for parameter in parameters]
        buffers = [_own(self.state[parameter]["momentum_buffer"]) for parameter in parameters]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        updates = torch.stack(torch._foreach_lerp(grads, buffers, momentum))  # Nesterov
        updates = _gather(updates, parameters[0])
        updates = orthogonalize(updates if updates.device.type == "cpu" else updates.bfloat16())
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        scaled = updates.to(weights[0].dtype) * (lr * 0.2 * max(parameters[0].shape) ** 0.5)
        torch._foreach_sub_(weights, list(_own_rows(scaled, parameters[0]).unbind(0)))


def _own(tensor: Tensor) -> Tensor:
    """The share of a tensor that this process holds: all of it, unless FSDP2 has cut it by rows."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _gather(updates: Tensor, parameter: Tensor) -> Tensor:
    """updates (N, own rows, C) -> (N, R, C): orthogonalising needs whole matrices, so every process does it for all."""
    if not hasattr(parameter, "to_local"):
        return updates
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((len(updates), *parameter.shape))
    return DTensor.from_local(updates, parameter.device_mesh, [Shard(1)], run_check=False, shape=shape,
                              stride=(shape[1] * shape[2], shape[2], 1)).full_tensor()


def _own_rows(updates: Tensor, parameter: Tensor) -> Tensor:
    """updates (N, R, C) -> the rows that this process holds of each parameter."""
    if not hasattr(parameter, "to_local"):
        return updates
    place, parts = parameter.device_mesh.get_local_rank(), updates.chunk(parameter.device_mesh.size(), dim=1)
    # with more processes than rows some hold none
    return parts[place] if place < len(parts) else updates[:, :0]
