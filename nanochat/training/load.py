"""What a training holds whatever its batch: weights, gradients and optimizer state, of all weights or of adapters."""

from dataclasses import dataclass, replace

from nanochat.model import ModelConfig
from nanochat.training.lora import LoraSettings
from nanochat.training.shape import adapter_parameters, part_parameters

FLOAT = 4  # bytes; weights, gradients and optimizer state are float32 whatever products are computed in


@dataclass(frozen=True, kw_only=True)
class Load:
    """Bytes of one process."""

    weights: float  # with what is gathered of other processes' shares
    gradients: float  # when all are there
    reduced: float  # gradients that are whole for a moment before they are shared out
    layers: dict[str, float]  # gradients of one layer of each kind
    head: float  # gradient of the head's whole weight; 0 where it is frozen
    optimizer: float  # momentum of Muon, both moments of AdamW
    lora_rank: int = 0

    @classmethod
    def of(cls, config: ModelConfig, lora: LoraSettings | None, processes: int, *, num_matrix: int) -> "Load":
        """What each of `processes` processes holds that share all of it; num_matrix: parameters that Muon trains."""
        parts = part_parameters(config)
        sizes = layer_sizes(config)
        total, outside = float(sum(parts.values())), float(parts["embedding"] + parts["head"] + config.n_embd)
        table = config.vocab_size * config.n_embd
        if lora is None:
            trained_layers, trained_outside, frozen = sizes, outside, 0.0
            optimizer = num_matrix + 2 * (total - num_matrix)
        else:
            each = adapter_parameters(config, lora.rank)
            trained_layers = {letter: float(each[letter]) for letter in sizes}
            rows = len(lora.row_ids) * config.n_embd * (1 if config.tie_embeddings else 2)
            trained_outside, frozen = (outside, total - outside) if lora.train_embeddings else (float(rows), total)
            optimizer = 2 * (sum(trained_layers[letter] for letter in config.block_pattern) + trained_outside)
        trained = sum(trained_layers[letter] for letter in config.block_pattern) + trained_outside
        share = FLOAT / processes
        is_shared = processes > 1
        # whole at a time: what is outside of the layers; the layer that is computed, and the next one
        gathered = FLOAT * (outside + 2 * max(sizes.values())) if is_shared else 0.0
        return cls(
            weights=share * (frozen + trained) + gathered,
            gradients=share * trained,
            reduced=FLOAT * (trained_outside + max(trained_layers.values())) if is_shared else 0.0,
            layers={letter: share * size for letter, size in trained_layers.items()},
            head=FLOAT * table if lora is None or lora.train_embeddings else 0.0,
            optimizer=share * optimizer, lora_rank=lora.rank if lora else 0,
        )


def layer_sizes(config: ModelConfig) -> dict[str, float]:
    """Parameters of one layer of each kind."""
    sizes = {}
    for letter in set(config.block_pattern):
        parts = part_parameters(replace(config, block_pattern=(letter,)))
        sizes[letter] = float(parts[letter] + parts["mlp"] + parts["norms"] - config.n_embd)
    return sizes
