"""A published config.json to our ModelConfig: GraniteMoeHybrid (dense), Bamba and Mamba2, whatever version wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.errors import ConfigError, UnsupportedModel
from nanochat.interop.fields import WHAT_LOADS, Fields, short
from nanochat.model.config import ModelConfig

ARCHITECTURES = {  # model_type -> the class in transformers
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "bamba": "BambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
}
OWN_KEY = "nanochat_rag"  # what only we read: its presence says that the folder is an export of ours
NO_LIMIT = 1e9  # seconds; a longest time step from here on is none
DEFAULT_THETA = 10000.0
MOST_LAYERS = 4096  # more are a mistake, and would be made before the weights could tell
_LETTERS = {"mamba": "M", "linear_attention": "M", "attention": "T", "full_attention": "T"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a config.json says."""

    config: ModelConfig
    family: str  # model_type
    is_tied: bool | None  # None: not said, the tensors decide
    is_ours: bool  # written by our export


def read_config(record: Mapping[str, Any], where: str) -> Published:
    """The shape of a published model; `where` names the file in messages.

    Raises UnsupportedModel when the native model has no counterpart (experts, scaled rotary positions, another
    activation, quantised weights), CheckpointError when a field has a value that no version writes.
    """
    fields = Fields(record, where)
    family = record.get("model_type")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        names = record.get("architectures") or family or "unknown"
        raise UnsupportedModel(f"{where}: architecture {short(names)} is not one that loads", hint=WHAT_LOADS)
    if fields.has("quantization_config"):
        raise fields.refuse("quantization_config", "quantised weights do not load")
    if record.get("hidden_act", "silu") not in ("silu", "swish"):
        raise fields.refuse("hidden_act", "only silu is known")
    own = fields.mapping(OWN_KEY)
    shape = {"granitemoehybrid": _granite, "bamba": _bamba, "mamba2": _mamba2}[family](fields)
    if type(own.get("chunk_size")) is int:
        shape["chunk_size"] = own["chunk_size"]
    try:
        config = ModelConfig(**shape, tie_embeddings=fields.flag("tie_word_embeddings", False))
    except ConfigError as error:
        raise UnsupportedModel(f"{where}: {error.problem}", hint=WHAT_LOADS) from error
    is_tied = config.tie_embeddings if fields.has("tie_word_embeddings") else None
    return Published(config=config, family=family, is_tied=is_tied, is_ours=OWN_KEY in record)


def _granite(fields: Fields) -> dict[str, Any]:
    if fields.whole("num_local_experts", 0, least=0):
        raise fields.refuse("num_local_experts", "mixtures of experts do not load, dense models do")
    positions = fields.record.get("position_embedding_type")
    if positions not in (None, "nope", "rope"):
        raise fields.refuse("position_embedding_type", 'only "rope" and "nope" are known')
    if fields.record.get("attention_multiplier", 1.0) == 0:
        raise fields.refuse("attention_multiplier", "every position would get the same attention")
    return _body(fields, norm_eps=1e-6, kv_default=None) | {
        "block_pattern": _pattern(fields, ("layer_types", "layers_block_type")),
        "mlp_hidden": fields.whole("shared_intermediate_size", 1024),
        "rope_theta": _rope(fields)[0] if positions == "rope" else 0.0,
        "sequence_len": fields.whole("max_position_embeddings", 2048),
        **{name: fields.number(name, 1.0, above=0)
           for name in ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")},
    }


def _bamba(fields: Fields) -> dict[str, Any]:
    body = _body(fields, norm_eps=1e-5, kv_default=8)
    theta, part = _rope(fields, part=0.5)
    head = body["head_dim"] or body["n_embd"] // body["n_head"]
    return body | {
        "block_pattern": _pattern(fields, ("layers_block_type", "layer_types")),
        "mlp_hidden": fields.whole("intermediate_size", 14336),
        "mlp_bias": fields.flag("mlp_bias", False),
        # less than one channel of a head is none, and 0 would mean all of them
        "rope_theta": theta if int(head * part) else 0.0,
        "rope_dim": int(head * part),
        "sequence_len": fields.whole("max_position_embeddings", 262144),
    }


def _mamba2(fields: Fields) -> dict[str, Any]:
    width, heads, size = fields.whole("hidden_size", 4096), fields.whole("num_heads", 128), fields.whole("head_dim", 64)
    return _time_steps(fields) | {
        "block_pattern": ["M"] * fields.whole("num_hidden_layers", 64, most=MOST_LAYERS),
        "vocab_size": fields.whole("vocab_size", 32768),
        "sequence_len": fields.whole("max_position_embeddings", 2048),
        "n_embd": width, "n_head": 1, "n_kv_head": 1, "mlp_hidden": 0,
        "d_state": fields.whole("state_size", 128),
        "d_conv": fields.whole("conv_kernel", 4),
        "expand": _expand(fields, "expand", width, heads, size),
        "headdim": size,
        "n_groups": fields.whole("n_groups", 8),
        "conv_bias": fields.flag("use_conv_bias", True),
        "mamba_bias": fields.flag("use_bias", False),
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5, above=0),
        "init_std": fields.number("initializer_range", 0.1),
        "published_chunk_size": fields.whole("chunk_size", 256),
    }


def _body(fields: Fields, *, norm_eps: float, kv_default: int | None) -> dict[str, Any]:
    """What GraniteMoeHybrid and Bamba say in the same words."""
    width, heads = fields.whole("hidden_size", 4096), fields.whole("num_attention_heads", 32)
    if "num_key_value_heads" in fields.record:
        kv_default = None  # null means as many as query heads
    mamba_heads = fields.whole("mamba_n_heads", 128)
    size = fields.record.get("mamba_d_head", "auto")
    expand = fields.whole("mamba_expand", 2)
    headdim = expand * width // mamba_heads if size in (None, "auto") else fields.whole("mamba_d_head")
    head = fields.whole("head_dim", width // heads)
    return _time_steps(fields) | {
        "vocab_size": fields.whole("vocab_size", 32000),
        "n_embd": width,
        "n_head": heads,
        "n_kv_head": fields.whole("num_key_value_heads", kv_default or heads),
        "head_dim": 0 if head * heads == width else head,
        "attention_bias": fields.flag("attention_bias", False),
        "d_state": fields.whole("mamba_d_state", 256),
        "d_conv": fields.whole("mamba_d_conv", 4),
        "expand": _expand(fields, "mamba_expand", width, mamba_heads, headdim),
        "headdim": headdim,
        "n_groups": fields.whole("mamba_n_groups", 1),
        "conv_bias": fields.flag("mamba_conv_bias", True),
        "mamba_bias": fields.flag("mamba_proj_bias", False),
        "norm_eps": fields.number("rms_norm_eps", norm_eps, above=0),
        "init_std": fields.number("initializer_range", 0.02),
        "published_chunk_size": fields.whole("mamba_chunk_size", 256),
    }


def _expand(fields: Fields, name: str, width: int, heads: int, size: int) -> int:
    expand = fields.whole(name, 2)
    if expand * width != heads * size:
        raise fields.refuse(name, f"{expand} times width {width} is not {heads} Mamba heads of {size} channels")
    return expand


def _time_steps(fields: Fields) -> dict[str, float]:
    floor, ceiling = fields.limits("time_step_limit")
    return {"dt_floor": floor, "dt_ceiling": 0.0 if ceiling >= NO_LIMIT else ceiling}


def _pattern(fields: Fields, names: tuple[str, ...]) -> list[str]:
    """Letters of the layers: by index, by name in either spelling, or Mamba throughout."""
    num_layers = fields.whole("num_hidden_layers", 32, most=MOST_LAYERS)
    if fields.has("attn_layer_indices"):
        chosen = fields.record["attn_layer_indices"]
        if not isinstance(chosen, list) or not all(type(n) is int and 0 <= n < num_layers for n in chosen):
            raise fields.damaged("attn_layer_indices", f"a list of numbers below {num_layers}")
        return ["T" if place in chosen else "M" for place in range(num_layers)]
    name = next((name for name in names if fields.has(name)), "")
    if not name:
        return ["M"] * num_layers
    words = fields.words(name)
    if unknown := sorted(set(words) - set(_LETTERS)):
        raise fields.refuse(name, f"layers of type {unknown[0]} are not known")
    if len(words) != num_layers:
        raise fields.damaged(name, f"{num_layers} words, one per layer")
    return [_LETTERS[word] for word in words]


def _rope(fields: Fields, part: float = 1.0) -> tuple[float, float]:
    """Base of the rotary positions and the part of a head they turn; scaled ones are refused."""
    for name in ("rope_scaling", "rope_parameters"):
        said = fields.mapping(name)
        nested = next((said[key] for key in ("full_attention", "attention") if isinstance(said.get(key), dict)), None)
        said = nested or said
        kind = said.get("rope_type", said.get("type", "default"))
        if kind != "default":
            raise fields.refuse(name, "scaled rotary positions do not load")
        if said:
            inner = Fields({**fields.record, **said}, f"{fields.where}: {name}")
            # the class Bamba rotates half of each head unless its parameters say otherwise
            share = inner.number("partial_rotary_factor", part) if "partial_rotary_factor" in said else part
            if not 0 <= share <= 1:
                raise inner.damaged("partial_rotary_factor", "a share from 0 to 1")
            return inner.number("rope_theta", DEFAULT_THETA, above=0), share
    return fields.number("rope_theta", DEFAULT_THETA, above=0), part
