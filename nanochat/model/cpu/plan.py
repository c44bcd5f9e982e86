"""Where a model's weights lie, as native.c wants to know it, and whether they still do."""

import ctypes
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from nanochat.model.attention import Attention
from nanochat.model.blocks import Block
from nanochat.model.layers import GatedMLP, RMSNorm
from nanochat.model.mamba import Mamba

if TYPE_CHECKING:
    from nanochat.model.language_model import LanguageModel

PLAIN = (nn.Embedding, nn.Linear, nn.ModuleList, Block, Attention, Mamba, GatedMLP, RMSNorm)
# what modules keep beside their weights and compute with; and what would replace their computation
WATCHED = ("config", "embed_changes", "residual_multiplier", "eps", "groups", "scale", "rope_theta", "rotated",
           "kernel", "dt_limit", "forward")


def _record(name: str, integers: str = "", floats: str = "", pointers: str = "") -> type[ctypes.Structure]:
    fields = [(field, kind) for names, kind in (
        (integers, ctypes.c_int64), (floats, ctypes.c_double), (pointers, ctypes.c_void_p)) for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


# the same order of fields as in native_layers.h
Layer = _record("Layer", "is_mamba", "", "mixer_norm mlp_norm mlp_in mlp_in_bias mlp_out mlp_out_bias in_ in_bias k "
                "k_bias v v_bias out out_bias conv conv_bias dt_bias a_log d gate_norm")
Model = _record("Model", "num_layers width hidden vocab heads kv_heads head_dim kernel rotated inner state groups "
                "m_heads headdim conv_width", "eps residual embed_scale scale dt_floor dt_ceiling",
                "embed norm frequency")
State = type("State", (ctypes.Structure,), {"_fields_": [
    ("conv", ctypes.c_void_p), ("first", ctypes.c_void_p), ("second", ctypes.c_void_p), ("capacity", ctypes.c_int64)]})


class Plan:
    """A model's weights by address; `reason` says why there is none, "" if there is one.

    Holds for as long as `is_current`: weights may change in place, everything else makes a new plan.
    """

    def __init__(self, model: "LanguageModel") -> None:
        modules = list(model.modules())
        self.config = model.config
        self._seen = [(module._modules, name, child) for module in modules for name, child in module._modules.items()]
        self._seen += [(table, name, value) for module in modules for table, names in (
            (module._parameters, module._parameters), (module.__dict__, WATCHED)) for name in names
            for value in [table.get(name)]]
        # a module that takes the place of None moves from one table to another
        self._seen += [(table, name, table.get(name)) for table, name in (
            (model._modules, "embed_changes"), (model.embed.__dict__, "max_norm"))]
        self._tensors = list(model.parameters())
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        hooks = [(module._forward_hooks, module._forward_pre_hooks) for module in modules]
        hooks.append((module_hooks._global_forward_hooks, module_hooks._global_forward_pre_hooks))
        self._hooks = [hook for pair in hooks for hook in pair]
        self.num_floats = sum(block_weight.numel() for block_weight in model.layers.parameters())
        self.reason = next(self._problems(model, modules), "")
        if not self.reason:
            self._fill(model)

    def is_current(self) -> bool:
        """True while the same modules compute with the same tensors at the same places."""
        for table, name, value in self._seen:
            if table.get(name) is not value:
                return False
        return (
            list(map(Tensor.data_ptr, self._tensors)) == self._addresses
            and (bool(self.reason) or all(tensor.dtype is torch.float32 for tensor in self._tensors))
            and any(self._hooks) == ("hooks" in self.reason)
        )

    def _problems(self, model: "LanguageModel", modules: list[nn.Module]) -> Iterator[str]:
        """Why native.c cannot do what this model does."""
        if any(self._hooks):
            yield "hooks watch the model's modules"
        if model.embed_changes is not None:
            yield "rows of the embedding are adapted"
        for module in modules[1:]:
            if type(module) not in PLAIN and type(module).__name__ != "RowChanges":
                yield f"a {type(module).__name__} is among the modules"
            if "forward" in module.__dict__:
                yield f"the forward of a {type(module).__name__} was replaced"
        if model.embed.max_norm is not None:
            yield "the embedding has a norm limit"
        for tensor in self._tensors:
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
                yield f"a weight is {tensor.dtype} on {tensor.device}"
            if type(tensor) is not nn.Parameter or not tensor.is_contiguous():
                yield f"a weight is a {type(tensor).__name__} with strides {tensor.stride()}"
        norms = [module for module in modules if isinstance(module, RMSNorm)]
        if any(norm.eps != self.config.norm_eps for norm in norms):
            yield "norms differ in what they add"
        if any(block.residual_multiplier != self.config.residual_multiplier for block in model.layers):
            yield "blocks differ in their multiplier"

    def _fill(self, model: "LanguageModel") -> None:
        config, mixers = self.config, [block.mixer for block in model.layers]
        attention = next((mixer for mixer in mixers if isinstance(mixer, Attention)), None)
        mamba = next((mixer for mixer in mixers if isinstance(mixer, Mamba)), None)
        self.model = Model(
            num_layers=len(mixers), width=config.n_embd, hidden=config.mlp_hidden, vocab=model.embed.num_embeddings,
            eps=config.norm_eps, residual=config.residual_multiplier, embed_scale=config.embedding_multiplier,
            embed=model.embed.weight.data_ptr(), norm=model.norm.weight.data_ptr(), kv_heads=1, groups=1)
        fields: dict[str, Any] = {}
        if attention is not None:
            fields |= dict(heads=attention.n_head, kv_heads=attention.n_kv_head, head_dim=attention.head_dim,
                           kernel=attention.kernel, rotated=attention.rotated, scale=attention.scale)
        if attention is not None and attention.rotated:
            places = torch.arange(0, attention.rotated, 2, dtype=torch.float32)
            self._frequency = attention.rope_theta ** (-places / attention.rotated)
            fields |= dict(frequency=self._frequency.data_ptr())
        if mamba is not None:
            fields |= dict(inner=mamba.d_inner, state=mamba.d_state, groups=mamba.n_groups, m_heads=mamba.n_head,
                           headdim=mamba.headdim, conv_width=mamba.conv_weight.shape[1],
                           dt_floor=mamba.dt_limit[0], dt_ceiling=mamba.dt_limit[1])
        for name, value in fields.items():
            setattr(self.model, name, value)
        self.layers = (Layer * len(mixers))(*(_layer(block) for block in model.layers))
        self.address = ctypes.addressof(self.model)

    def state_shapes(self, number: int, batch: int, capacity: int) -> list[tuple[int, ...]]:
        """Of a layer's convolution tail, and its SSM state or its keys and values."""
        model = self.model
        if self.layers[number].is_mamba:
            channels = model.inner + 2 * model.groups * model.state
            return [(batch, model.conv_width - 1, channels), (batch, model.m_heads, model.headdim, model.state)]
        held = (batch, model.kv_heads, capacity, model.head_dim)
        channels = (model.heads + 2 * model.kv_heads) * model.head_dim
        return [(batch, max(model.kernel - 1, 0), channels), held, held]


def _layer(block: Block) -> Layer:
    """A block's weights; every address belongs to a parameter of the model, which the plan keeps alive."""
    mixer, mlp = block.mixer, block.mlp
    tensors: dict[str, Tensor | None] = dict(mixer_norm=block.mixer_norm.weight, conv=mixer.conv_weight)
    linears = dict(out=mixer.out_proj, in_=mixer.in_proj) if isinstance(mixer, Mamba) else dict(
        in_=mixer.q_proj, k=mixer.k_proj, v=mixer.v_proj, out=mixer.o_proj)
    if mlp is not None:
        tensors |= dict(mlp_norm=block.mlp_norm.weight)
        linears |= dict(mlp_in=mlp.input_linear, mlp_out=mlp.output_linear)
    if isinstance(mixer, Mamba):
        tensors |= dict(conv_bias=mixer.conv_bias, dt_bias=mixer.dt_bias, a_log=mixer.A_log, d=mixer.D,
                        gate_norm=mixer.norm.weight)
    for name, linear in linears.items():
        tensors |= {name: linear.weight, f"{name.rstrip('_')}_bias": linear.bias}
    return Layer(is_mamba=isinstance(mixer, Mamba),
                 **{name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()})
