"""Our ModelConfig to the config.json of a published family, and what other programs cannot do with it."""

from typing import Any

from nanochat.errors import UnsupportedModel
from nanochat.interop.config import ARCHITECTURES, DEFAULT_THETA, NO_LIMIT, OWN_KEY
from nanochat.model.config import ModelConfig

# the spelling that every version of transformers, vLLM and llama.cpp's converter reads
_WORDS = {"M": "mamba", "T": "attention"}


def family_of(config: ModelConfig) -> str:
    """The published family that computes what this model computes. Raises UnsupportedModel, saying what to change."""
    if config.attention_conv:
        raise UnsupportedModel(
            f"attention_conv {config.attention_conv}: no published architecture has a convolution in its attention",
            hint="train the model to be exported without it: --attention_conv 0"
                 f"{' --slot_scale 0' if config.slot_scale else ''}",
        )
    if config.slot_scale:
        raise UnsupportedModel(
            f"slot_scale {config.slot_scale}: no published architecture adds a document's slot to its tokens",
            hint="train the model to be exported without it: --slot_scale 0",
        )
    problem = ""
    if config.mlp_hidden == 0:
        family = "mamba2"
        if "T" in config.block_pattern:
            problem = "blocks without an MLP exist in Mamba2 only, which has no attention"
    elif config.mlp_bias or 0 < config.rotated < config.attention_head_dim:
        family = "bamba"
        if "T" in config.block_pattern and 2 * config.rotated != config.attention_head_dim:
            problem = (f"rotary positions of {config.rotated} channels in heads of {config.attention_head_dim}: Bamba, "
                       "which alone has biases in the MLP and rotates in part, rotates half of each head")
    else:
        family = "granitemoehybrid"
    if family != "granitemoehybrid":
        problem = problem or _multiplier(config, family)
    if problem:
        raise UnsupportedModel(f"No published architecture fits: {problem}",
                               hint="with an MLP without biases, and rotary positions of whole heads or none, a model "
                               "is exported as GraniteMoeHybrid")
    return family


def _multiplier(config: ModelConfig, family: str) -> str:
    neutral = {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0}
    if family == "bamba":
        neutral["attention_multiplier"] = config.attention_head_dim**-0.5
    for name, value in neutral.items():
        if (getattr(config, name) or value) != value:
            return f"{ARCHITECTURES[family]} has no {name}, here {getattr(config, name)}"
    return ""


def published_config(config: ModelConfig, family: str) -> dict[str, Any]:
    """The config.json without token ids and dtype; our own key says what a later import takes up again."""
    record: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "hidden_act": "silu",
        "initializer_range": config.init_std,
        "max_position_embeddings": config.sequence_len,
        "tie_word_embeddings": config.tie_embeddings,
        # the hybrid classes of transformers cannot cache without an attention layer
        "use_cache": family == "mamba2" or "T" in config.block_pattern,
    }
    record |= _mamba2(config) if family == "mamba2" else _body(config)
    if family == "granitemoehybrid":
        record |= _granite(config)
    elif family == "bamba":
        record |= _bamba(config)
    if config.dt_floor or config.dt_ceiling:
        # infinity is no JSON, so that "no limit" is a number that no time step reaches
        record["time_step_limit"] = [config.dt_floor, config.dt_ceiling or NO_LIMIT]
    return record | {OWN_KEY: {"format": 1, "chunk_size": config.chunk_size}}


def _granite(config: ModelConfig) -> dict[str, Any]:
    return {
        "shared_intermediate_size": config.mlp_hidden,
        "intermediate_size": config.mlp_hidden,
        "layer_types": [_WORDS[letter] for letter in config.block_pattern],
        "position_embedding_type": "rope" if config.rope_theta else "nope",
        "embedding_multiplier": config.embedding_multiplier,
        "residual_multiplier": config.residual_multiplier,
        "attention_multiplier": config.attention_multiplier or config.attention_head_dim**-0.5,
        "logits_scaling": config.logits_scaling,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.0,
        **_rope(config.rope_theta or DEFAULT_THETA),
    }


def _bamba(config: ModelConfig) -> dict[str, Any]:
    half = config.attention_head_dim // 2
    return {
        "intermediate_size": config.mlp_hidden,
        "mlp_bias": config.mlp_bias,
        "attn_layer_indices": [place for place, letter in enumerate(config.block_pattern) if letter == "T"],
        "num_logits_to_keep": 1,
        "z_loss_coefficient": 0.0,
        # the name that llama.cpp's converter knows
        "attn_rotary_emb": half,
        **_rope(config.rope_theta or DEFAULT_THETA, partial_rotary_factor=0.5),
    }


def _rope(theta: float, **more: float) -> dict[str, Any]:
    # inside rope_parameters for transformers 5, beside them for everyone else
    return {"rope_theta": theta, "rope_scaling": None, **more,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}}


def _body(config: ModelConfig) -> dict[str, Any]:
    head = config.attention_head_dim
    return {
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        **({} if head == config.n_embd // config.n_head else {"head_dim": head}),
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "rms_norm_eps": config.norm_eps,
        "mamba_n_heads": config.n_mamba_head,
        "mamba_d_head": config.headdim,
        "mamba_n_groups": config.n_groups,
        "mamba_d_state": config.d_state,
        "mamba_d_conv": config.d_conv,
        "mamba_expand": config.expand,
        "mamba_chunk_size": config.published_chunk_size,
        "mamba_conv_bias": config.conv_bias,
        "mamba_proj_bias": config.mamba_bias,
    }


def _mamba2(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_heads": config.n_mamba_head,
        "head_dim": config.headdim,
        "state_size": config.d_state,
        "n_groups": config.n_groups,
        "conv_kernel": config.d_conv,
        "expand": config.expand,
        "chunk_size": config.published_chunk_size,
        "use_conv_bias": config.conv_bias,
        "use_bias": config.mamba_bias,
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": True,
        "rescale_prenorm_residual": False,
    }


def serving_limits(config: ModelConfig, family: str) -> list[str]:
    """Sentences about what vLLM or llama.cpp would compute differently, or not load; empty when there is nothing."""
    limits = []
    has_attention, has_rope = "T" in config.block_pattern, config.rope_theta > 0
    if family == "granitemoehybrid" and has_attention and has_rope != (not config.has_mamba):
        # its converter decides by the layers: rotary positions without Mamba layers, none with them
        limits.append("llama.cpp uses rotary positions in GraniteMoeHybrid exactly when there is no Mamba layer, which "
                      f"differs from this model ({'with' if has_rope else 'without'} them): use transformers or vLLM")
    if family != "mamba2" and not has_attention:
        limits.append(f"transformers generates without a cache: its {ARCHITECTURES[family]} cannot cache a model "
                      "without an attention layer")
    if family == "bamba" and not has_attention:
        limits.append("llama.cpp's converter does not read a Bamba without attention")
    if config.dt_floor or config.dt_ceiling:
        limits.append("limits of the time step are ignored by vLLM, llama.cpp and the cached step of transformers")
    if has_attention and config.attention_head_dim * config.n_head != config.n_embd:
        limits.append("vLLM takes the head size to be width / heads, which is not so here: use transformers")
    multiple = 16 if family == "mamba2" else 8
    if config.vocab_size % multiple:
        limits.append(f"llama.cpp's converter needs a vocabulary of a multiple of {multiple} ids, here are "
                      f"{config.vocab_size}: train the tokenizer with --vocab_size {-(-config.vocab_size // 16) * 16}")
    return limits
