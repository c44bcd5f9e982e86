"""Names of tensors: which published tensors hold each parameter of the native model, one rule for both directions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from nanochat.errors import UnsupportedModel


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Where a published family keeps its tensors; a block's names come behind `layers`.N."""

    embed: str
    layers: str
    norm: str  # the norm before the head
    mixer_norm: str
    mamba: str
    attention: str = ""  # empty: the family has no attention
    mlp_norm: str = ""  # empty: the family has no MLP
    mlp_in: tuple[str, ...] = ()  # matrices whose rows make up input_linear: gate, then up
    mlp_out: str = ""


NAMINGS = {
    "granitemoehybrid": Naming(
        embed="model.embed_tokens", layers="model.layers", norm="model.norm", mixer_norm="input_layernorm",
        mamba="mamba", attention="self_attn", mlp_norm="post_attention_layernorm",
        mlp_in=("shared_mlp.input_linear",), mlp_out="shared_mlp.output_linear",
    ),
    "bamba": Naming(
        embed="model.embed_tokens", layers="model.layers", norm="model.final_layernorm", mixer_norm="input_layernorm",
        mamba="mamba", attention="self_attn", mlp_norm="pre_ff_layernorm",
        mlp_in=("feed_forward.gate_proj", "feed_forward.up_proj"), mlp_out="feed_forward.down_proj",
    ),
    "mamba2": Naming(
        embed="backbone.embeddings", layers="backbone.layers", norm="backbone.norm_f", mixer_norm="norm",
        mamba="mixer",
    ),
}
# (our name, published name) inside an M mixer where they differ
_CONV = {"conv_weight": "conv1d.weight", "conv_bias": "conv1d.bias"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One parameter here, and the published tensors that hold it there, joined along their first dimension."""

    native: str
    published: tuple[str, ...]
    is_conv: bool = False  # (C, K) here, (C, 1, K) there
    is_vocab: bool = False  # a row per id

    def published_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of each published tensor of a parameter with this shape."""
        rows, *rest = shape
        return (rows // len(self.published), *([1] if self.is_conv else []), *rest)

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The published tensors of a parameter, as views where they can be."""
        parts = tensor.chunk(len(self.published)) if len(self.published) > 1 else (tensor,)
        return {name: part.unsqueeze(1) if self.is_conv else part for name, part in zip(self.published, parts)}


def rules(names: Iterable[str], family: str, block_pattern: Sequence[str]) -> list[Rule]:
    """A rule for every parameter name of the native model. Raises UnsupportedModel on a name the family cannot hold."""
    naming = NAMINGS[family]
    return [_rule(name, naming, family, block_pattern) for name in names]


def _rule(native: str, naming: Naming, family: str, block_pattern: Sequence[str]) -> Rule:
    whole: Mapping[str, str] = {
        "embed.weight": f"{naming.embed}.weight", "norm.weight": f"{naming.norm}.weight",
        "lm_head.weight": "lm_head.weight",
    }
    if native in whole:
        return Rule(native=native, published=(whole[native],), is_vocab=native != "norm.weight")
    parts = native.split(".", 2)
    if parts[0] == "layers" and len(parts) == 3 and parts[1].isdecimal():
        inner = _inner(parts[2], naming, block_pattern[int(parts[1])])
        if inner:
            names = tuple(f"{naming.layers}.{parts[1]}.{name}" for name in inner)
            return Rule(native=native, published=names, is_conv=native.endswith(".conv_weight"))
    raise UnsupportedModel(
        f"{native} has no place in a model of type {family}",
        hint="export a plain model: merge adapters first, and train with --attention_conv 0",
    )


def _inner(name: str, naming: Naming, letter: str) -> tuple[str, ...]:
    """Published names of a block's parameter inside its layer, empty when the family has none."""
    part, _, rest = name.partition(".")
    if name == "mixer_norm.weight":
        return (f"{naming.mixer_norm}.weight",)
    if name == "mlp_norm.weight" and naming.mlp_norm:
        return (f"{naming.mlp_norm}.weight",)
    if part == "mixer" and letter == "M" and rest in _MAMBA:
        return (f"{naming.mamba}.{_CONV.get(rest, rest)}",)
    if part == "mixer" and letter == "T" and naming.attention and rest in _ATTENTION:
        return (f"{naming.attention}.{rest}",)
    if part == "mlp" and naming.mlp_in and rest in ("input_linear.weight", "input_linear.bias"):
        return tuple(f"{matrix}.{rest.split('.')[1]}" for matrix in naming.mlp_in)
    if part == "mlp" and naming.mlp_out and rest in ("output_linear.weight", "output_linear.bias"):
        return (f"{naming.mlp_out}.{rest.split('.')[1]}",)
    return ()


_MAMBA = {
    *_CONV, "in_proj.weight", "in_proj.bias", "dt_bias", "A_log", "D", "norm.weight", "out_proj.weight",
    "out_proj.bias",
}
_ATTENTION = {f"{matrix}_proj.{kind}" for matrix in "qkvo" for kind in ("weight", "bias")}
