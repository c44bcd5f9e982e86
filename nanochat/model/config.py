"""The shape of a model: one frozen record, checked once, stored in every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nanochat.errors import ConfigError
from nanochat.model.slots import SlotIds, slot_problems

BLOCK_LETTERS = ("T", "M")


def parse_block_pattern(pattern: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Turn "T,T,M,M" (or a sequence of letters) into a tuple of letters. Raises ConfigError on anything else."""
    letters = [letter.strip() for letter in pattern.split(",")] if isinstance(pattern, str) else list(pattern)
    letters = [letter for letter in letters if letter]
    wrong = sorted({letter for letter in letters if letter not in BLOCK_LETTERS})
    if wrong or not letters:
        raise ConfigError(
            f"Block pattern {pattern!r} is not made of the letters T and M",
            hint='T is attention, M is Mamba-2, one letter per layer: --block_pattern "T,T,M,M"; with --depth also a '
                 "preset: spread, first, last, attention, mamba",
        )
    return tuple(letters)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Dimensions and multipliers; a superset of the dense Granite 4.0 hybrid family (no positional encoding)."""

    block_pattern: tuple[str, ...]  # one letter per layer: T attention, M Mamba-2
    vocab_size: int  # V, reserved ids included
    sequence_len: int = 1024  # longest context trained on, tokens
    n_embd: int = 128  # C
    n_head: int = 4  # query heads of T blocks
    n_kv_head: int = 4  # key/value heads of T blocks; divides n_head
    head_dim: int = 0  # D of T blocks; 0 means n_embd // n_head
    mlp_hidden: int = 256  # F, width of the gated MLP; 0 leaves it out
    attention_bias: bool = False  # biases of the q, k, v, o projections
    rope_theta: float = 0.0  # base of rotary positions; 0 leaves them out (NoPE)
    rope_dim: int = 0  # channels of a head that are rotated; 0 means all
    mlp_bias: bool = False  # biases of the gated MLP
    attention_conv: int = 0  # kernel width of the causal convolution on q, k, v; 0 leaves it out
    slot_scale: float = 0.0  # share of its slot's embedding that a token of a document gets; 0 leaves it out
    slot_ids: SlotIds = ()  # ids of results_start, results_end and the first slot, and the number of slots
    d_state: int = 64  # N, state size per Mamba head
    d_conv: int = 4  # kernel width of the Mamba convolution
    expand: int = 2  # Mamba inner width is expand * n_embd
    headdim: int = 32  # P, channels per Mamba head
    n_groups: int = 1  # groups sharing B and C
    conv_bias: bool = True  # bias of the Mamba convolution
    mamba_bias: bool = False  # biases of the Mamba in and out projections
    dt_floor: float = 0.0  # time steps are not shorter than this
    dt_ceiling: float = 0.0  # nor longer than this; 0 sets no limit
    chunk_size: int = 64  # positions per chunk of the SSD scan
    published_chunk_size: int = 256  # what an export says in its place; another chunk gives the same numbers
    norm_eps: float = 1e-5  # added inside RMSNorm
    tie_embeddings: bool = True  # output head is the embedding table
    embedding_multiplier: float = 1.0  # embeddings are multiplied by this
    residual_multiplier: float = 1.0  # every branch output is multiplied by this
    attention_multiplier: float = 0.0  # softmax scale; 0 means D ** -0.5
    logits_scaling: float = 1.0  # logits are divided by this
    init_std: float = 0.02  # standard deviation of the embedding at the start

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_pattern", parse_block_pattern(self.block_pattern))
        object.__setattr__(self, "slot_ids", tuple(self.slot_ids))
        problems = slot_problems(self.slot_scale, self.slot_ids, self.vocab_size)
        if self.head_dim == 0 and self.n_embd % self.n_head:
            problems.append(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.n_head % self.n_kv_head:
            problems.append(f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}")
        if self.d_inner % self.headdim:
            problems.append(f"expand * n_embd = {self.d_inner} is not a multiple of headdim {self.headdim}")
        elif self.n_mamba_head % self.n_groups:
            problems.append(f"{self.n_mamba_head} Mamba heads are not a multiple of n_groups {self.n_groups}")
        problems += [
            f"{name} is {getattr(self, name)}, must be at least 1"
            for name in ("vocab_size", "sequence_len", "n_embd", "n_head", "n_kv_head", "d_state", "d_conv", "headdim",
                         "n_groups", "chunk_size", "published_chunk_size")
            if getattr(self, name) < 1
        ]
        if self.rope_theta and (self.rotated % 2 or not 0 < self.rotated <= self.attention_head_dim):
            problems.append(f"rope_dim {self.rotated} is not an even number up to the head size")
        if problems:
            raise ConfigError("Model shape does not fit together: " + "; ".join(problems),
                              hint="change the named sizes in the config file or on the command line")

    @property
    def has_mamba(self) -> bool:
        """True when at least one layer keeps a recurrent state."""
        return "M" in self.block_pattern

    @property
    def n_layer(self) -> int:
        return len(self.block_pattern)

    @property
    def attention_head_dim(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def rotated(self) -> int:
        """Channels of a head that rotary positions turn; 0 without them."""
        return (self.rope_dim or self.attention_head_dim) if self.rope_theta else 0

    @property
    def d_inner(self) -> int:
        return self.expand * self.n_embd

    @property
    def n_mamba_head(self) -> int:
        return self.d_inner // self.headdim

    def to_dict(self) -> dict[str, Any]:
        """A plain record for JSON."""
        return asdict(self) | {"block_pattern": ",".join(self.block_pattern), "slot_ids": list(self.slot_ids)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "ModelConfig":
        """Rebuild from `to_dict`. Raises ConfigError on a missing or unknown name."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(record) - known)
        if unknown or not {"block_pattern", "vocab_size"} <= set(record):
            raise ConfigError(f"Model config has unknown or missing names: {', '.join(unknown) or 'vocab_size'}",
                              hint="the checkpoint was written by another version; train it again with this one")
        return cls(**record)
