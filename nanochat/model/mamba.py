"""M block mixer: Mamba-2 with a scalar decay per head, a short convolution and a gated RMSNorm."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat.model import cpu
from nanochat.model.cache import SSMState
from nanochat.model.config import ModelConfig
from nanochat.model.kernels import decode_kernel, ssd_kernel
from nanochat.model.layers import PIECE, RMSNorm, causal_conv, conv_from_window
from nanochat.model.ssd import ssd
from nanochat.model.step import Step

DT_MIN, DT_MAX = 0.001, 0.1  # range of the time step at the start, after softplus


class Mamba(nn.Module):
    """Selective state space mixer (Dao and Gu 2024, arXiv:2405.21060), laid out as in Granite 4.0 and Bamba."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.n_groups = config.d_inner, config.d_state, config.n_groups
        self.n_head, self.headdim, self.chunk_size = config.n_mamba_head, config.headdim, config.chunk_size
        self.conv_channels = self.d_inner + 2 * self.n_groups * self.d_state
        self.dt_limit = (config.dt_floor, config.dt_ceiling or math.inf)
        width = self.d_inner + self.conv_channels + self.n_head
        self.in_proj = nn.Linear(config.n_embd, width, bias=config.mamba_bias)
        self.conv_weight = nn.Parameter(torch.zeros(self.conv_channels, config.d_conv))
        self.conv_bias = nn.Parameter(torch.zeros(self.conv_channels)) if config.conv_bias else None
        self.dt_bias = nn.Parameter(torch.zeros(self.n_head))
        self.A_log = nn.Parameter(torch.zeros(self.n_head))
        self.D = nn.Parameter(torch.ones(self.n_head))
        self.norm = RMSNorm(self.d_inner, config.norm_eps, groups=self.n_groups)
        self.out_proj = nn.Linear(self.d_inner, config.n_embd, bias=config.mamba_bias)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Time steps log-uniform in [0.001, 0.1], decays uniform in [1, 16], as published."""
        width = self.conv_weight.shape[1]
        nn.init.uniform_(self.conv_weight, -(width**-0.5), width**-0.5, generator=generator)
        with torch.no_grad():
            uniform = torch.rand(self.n_head, generator=generator)
            dt = torch.exp(math.log(DT_MIN) + uniform * (math.log(DT_MAX) - math.log(DT_MIN)))
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
            self.A_log.copy_(torch.log(1 + 15 * torch.rand(self.n_head, generator=generator)))

    def new_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> SSMState:
        """The state before the first token; the SSM part is float32 whatever the weights are."""
        conv = torch.zeros(batch, self.conv_weight.shape[1] - 1, self.conv_channels, device=device, dtype=dtype)
        return SSMState(conv=conv, ssm=torch.zeros(batch, self.n_head, self.headdim, self.d_state, device=device))

    def forward(self, x: Tensor, state: SSMState | None, step: Step) -> Tensor:
        """x (B, T, C) -> (B, T, C); moves `state` on by T tokens, by PIECE at once where no gradients are wanted."""
        batch, length, _ = x.shape
        if state is not None and length > PIECE and not torch.is_grad_enabled() and cpu.takes(x):
            return torch.cat([self(piece, state, step) for piece in x.split(PIECE, dim=1)], dim=1)
        seq_idx = step.seq_idx
        gate, xbc, dt = self.in_proj(x).split([self.d_inner, self.conv_channels, self.n_head], dim=-1)
        if state is not None and length == 1 and not torch.is_grad_enabled():
            if (fused := decode_kernel(x)) is not None:
                state.check()
                return self.out_proj(fused(gate[:, 0], xbc[:, 0], dt[:, 0], state, self)[:, None])
            if cpu.takes(x):
                y = self.decode(xbc[:, 0], dt[:, 0], state)[:, None]
                return self.out_proj(self.norm(y, gate).to(x.dtype))
        xbc, tail = causal_conv(xbc, self.conv_weight, self.conv_bias, state.conv if state else None, seq_idx=seq_idx)
        xbc = F.silu(xbc)
        if ssd_kernel(xbc) is None:
            xbc = xbc.float()
        inputs, b, c = xbc.split([self.d_inner] + 2 * [self.n_groups * self.d_state], dim=-1)
        inputs = inputs.view(batch, length, self.n_head, self.headdim)
        y, ssm = ssd(
            inputs, self.time_steps(dt), -torch.exp(self.A_log.float()),
            b.view(batch, length, self.n_groups, self.d_state), c.view(batch, length, self.n_groups, self.d_state),
            chunk_size=self.chunk_size, state=state.ssm if state else None, seq_idx=seq_idx,
        )
        y = torch.addcmul(y.float(), self.D.float()[:, None], inputs.float()).flatten(-2)
        if state is not None:
            state.update(conv=tail, ssm=ssm)
        return self.out_proj(self.norm(y, gate).to(x.dtype))

    def time_steps(self, dt: Tensor) -> Tensor:
        """dt (..., H) as projected -> time steps in float32, positive and inside the limits."""
        dt = F.softplus(dt.float() + self.dt_bias.float())
        return dt if self.dt_limit == (0.0, math.inf) else dt.clamp(*self.dt_limit)

    def decode(self, xbc: Tensor, dt: Tensor, state: SSMState) -> Tensor:
        """One token without gradients: xbc (B, channels) and dt (B, H) as projected -> y (B, inner) before the norm.

        Writes the states in place; the same function as the long way, in a fifth of the operations.
        """
        state.check()
        batch, groups, size = xbc.shape[0], self.n_groups, self.n_groups * self.d_state
        window = torch.cat([state.conv, xbc[:, None]], dim=1)  # inputs of the convolution, this token's last
        state.conv.copy_(window[:, 1:])
        xbc = F.silu(conv_from_window(window, self.conv_weight, self.conv_bias)[:, 0].float(), inplace=True)
        inputs, b, c = xbc.split([self.d_inner, size, size], dim=-1)
        inputs = inputs.view(batch, self.n_head, self.headdim)
        dt = self.time_steps(dt)
        ssm = state.ssm.view(batch, groups, -1, self.d_state)  # (B, G, H/G * P, N)
        state.ssm.mul_(torch.exp(dt * -torch.exp(self.A_log.float()))[..., None, None])
        added = (inputs * dt[..., None]).view(batch, groups, -1, 1)
        ssm.addcmul_(added, b.view(batch, groups, 1, self.d_state))
        y = ssm.flatten(0, 1) @ c.reshape(batch * groups, self.d_state, 1)
        return torch.addcmul(y.view_as(inputs), self.D.float()[:, None], inputs).view(batch, self.d_inner)
