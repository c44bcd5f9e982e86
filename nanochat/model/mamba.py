"""M block mixer: Mamba-2 with a scalar decay per head, a short convolution and a gated RMSNorm."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat.model.cache import SSMState
from nanochat.model.config import ModelConfig
from nanochat.model.layers import RMSNorm, causal_conv
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
        """x (B, T, C) -> (B, T, C); moves `state` on by T tokens."""
        batch, length, _ = x.shape
        seq_idx = step.seq_idx
        gate, xbc, dt = self.in_proj(x).split([self.d_inner, self.conv_channels, self.n_head], dim=-1)
        xbc, tail = causal_conv(xbc, self.conv_weight, self.conv_bias, state.conv if state else None, seq_idx=seq_idx)
        inputs, b, c = F.silu(xbc).float().split([self.d_inner] + 2 * [self.n_groups * self.d_state], dim=-1)
        inputs = inputs.view(batch, length, self.n_head, self.headdim)
        dt = F.softplus(dt.float() + self.dt_bias.float())
        if self.dt_limit != (0.0, math.inf):
            dt = dt.clamp(*self.dt_limit)
        y, ssm = ssd(
            inputs, dt, -torch.exp(self.A_log.float()),
            b.view(batch, length, self.n_groups, self.d_state), c.view(batch, length, self.n_groups, self.d_state),
            chunk_size=self.chunk_size, state=state.ssm if state else None, seq_idx=seq_idx,
        )
        y = (y + self.D[:, None] * inputs).reshape(batch, length, self.d_inner)
        if state is not None:
            state.update(conv=tail, ssm=ssm)
        return self.out_proj(self.norm(y * F.silu(gate.float())).to(x.dtype))
