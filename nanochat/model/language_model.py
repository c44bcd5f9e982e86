"""The model: embedding, blocks, head; one forward for prefill, inserted documents and decoding."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanochat.model.blocks import Block
from nanochat.model.cache import Cache
from nanochat.model.config import ModelConfig
from nanochat.model.cpu import native
from nanochat.model.layers import RMSNorm
from nanochat.model.rows import RowChanges
from nanochat.model.slots import SlotState, document_slots, slots_of
from nanochat.model.step import plan_step


class LanguageModel(nn.Module):
    """A stack of T and M blocks.

    Laws (float32, 1e-5): forward in any pieces through a cache = forward at once; a row alone = in a batch = packed
    with `seq_idx`; a fork never disturbs its parent.
    """

    def __init__(self, config: ModelConfig, *, seed: int | None = 0) -> None:
        """Fresh weights from `seed`; None leaves what torch put there."""
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Block(letter, config) for letter in config.block_pattern)
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        # changes of a few rows of the tables above while those are frozen, see training.lora
        self.embed_changes: RowChanges | None = None
        self.head_changes: RowChanges | None = None
        # compute the blocks' activations anew in the backward pass instead of keeping them
        self.checkpointing = False
        if seed is not None:
            self.reset_parameters(seed)

    @classmethod
    def empty(cls, config: ModelConfig) -> "LanguageModel":
        """A model on the CPU whose weights are not set at all, not even at random: for weights that are loaded next."""
        with torch.device("meta"):
            model = cls(config, seed=None)
        return model.to_empty(device="cpu")

    def reset_parameters(self, seed: int) -> None:
        """Fresh weights from a seed: linear layers with variance 1 / fan-in, branch outputs smaller with depth."""
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.embed.weight, std=self.config.init_std, generator=generator)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5
                if name.endswith(("o_proj", "out_proj", "output_linear")):
                    std *= (2 * self.config.n_layer) ** -0.5
                nn.init.normal_(module.weight, std=self.config.init_std if name == "lm_head" else std,
                                generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.layers:
            block.mixer.reset_parameters(generator)

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def new_cache(self, batch: int) -> Cache:
        """The state of `batch` rows before their first token."""
        weight = self.embed.weight
        lengths = torch.zeros(batch, dtype=torch.long, device=weight.device)
        states = [block.mixer.new_state(batch, weight.device, weight.dtype) for block in self.layers]
        # behind those of the layers: where the rows stand in their documents
        slots = [SlotState(torch.zeros_like(lengths))] if self.config.slot_scale else []
        return Cache(lengths, states + slots)

    def features(self, ids: Tensor, cache: Cache | None = None, *, seq_idx: Tensor | None = None) -> Tensor:
        """ids (B, T) -> normalised hidden states (B, T, C); moves `cache` on by T tokens. B and T may be 0.

        seq_idx (B, T): packed rows; attention, convolutions and states restart where the number changes.
        """
        assert cache is None or seq_idx is None, "packed rows cannot continue a cache"
        assert cache is None or len(cache) == ids.shape[0], f"cache has {len(cache)} rows, ids have {ids.shape[0]}"
        if not ids.numel():
            # no rows, or nothing new for them: kernels are not made for that
            if cache is not None:
                cache.advance(ids.shape[1])
            return self.embed.weight.new_zeros(*ids.shape, self.config.n_embd)
        if cache is not None:
            found = native.features(self, ids, cache)
            if found is not None:
                cache.advance(ids.shape[1])
                return found
        step = plan_step(*ids.shape, ids.device, cache, seq_idx)
        states = [None] * len(self.layers) if cache is None else cache.layers[: len(self.layers)]
        slots = None if cache is None else slots_of(cache.layers)
        x, standing = self.embeddings(
            ids, before=None if slots is None else slots.slot,
            is_fresh=None if step.seq_idx is None else step.positions == 0)
        x = x * self.config.embedding_multiplier
        for block, state in zip(self.layers, states, strict=True):
            if self.checkpointing and state is None and torch.is_grad_enabled():
                x = checkpoint(block, x, state, step, use_reentrant=False)
            else:
                x = block(x, state, step)
        if slots is not None and standing is not None:
            slots.update(slot=standing)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.norm(x)

    def embeddings(
        self, ids: Tensor, *, before: Tensor | None = None, is_fresh: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """ids (B, T) -> their embeddings (B, T, C), with slots of documents added where the config says so, and where
        the rows stand in their documents afterwards (B,). before, is_fresh: see `document_slots`.
        """
        x, slot_ids = self._embedded(ids), self.config.slot_ids
        if not self.config.slot_scale:
            return x, None
        places, standing = document_slots(ids, slot_ids, before, is_fresh)
        # a small table, so that its gradient is one too; its first row is for tokens without a slot
        table = self._embedded(torch.arange(slot_ids[2], slot_ids[2] + slot_ids[3], device=ids.device))
        table = nn.functional.pad(self.config.slot_scale * table, (0, 0, 1, 0))
        return x + nn.functional.embedding(places, table, padding_idx=0), standing

    def _embedded(self, ids: Tensor) -> Tensor:
        """ids (...) -> their embeddings (..., C)."""
        x = self.embed(ids)
        return x if self.embed_changes is None else x + self.embed_changes(ids)

    def head(self, features: Tensor) -> Tensor:
        """features (..., C) -> logits (..., V) float32."""
        is_tied = self.lm_head is None
        weight = self.embed.weight if is_tied else self.lm_head.weight
        logits = native.linear(features, weight)
        if logits is None:
            logits = nn.functional.linear(features, weight)
        changes = self.embed_changes if is_tied else self.head_changes
        if changes is not None:
            logits = changes.add_to_logits(logits, features)
        logits, scaling = logits.float(), self.config.logits_scaling
        return logits if scaling == 1.0 else logits / scaling

    def forward(self, ids: Tensor, cache: Cache | None = None, *, seq_idx: Tensor | None = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V) float32 for the token after each position."""
        return self.head(self.features(ids, cache, seq_idx=seq_idx))
