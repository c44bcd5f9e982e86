"""Low-rank adapters: a large model learns a new task with a small share of its parameters, the rest stays as it was.

Hu et al. 2021, "LoRA", arXiv:2106.09685. Each chosen matrix W becomes W + alpha / rank * B A with B = 0 at the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat.errors import ConfigError
from nanochat.model.rows import RowChanges
from nanochat.training.sharding import whole

if TYPE_CHECKING:
    from nanochat.model import LanguageModel

# projections of attention, the gated MLP and Mamba's input. Never Mamba's out_proj or a convolution: fused kernels take
# those weights directly and would pass the adapter by
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "input_linear", "output_linear", "in_proj")
NEVER = ("out_proj",)
ADAPTER_NAMES = ("lora_a", "lora_b")
CHANGES = ("embed_changes", "head_changes")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """What a checkpoint must know to build the adapters again."""

    rank: int
    alpha: float
    row_ids: tuple[int, ...] = ()  # rows of the frozen embedding and head that learn
    train_embeddings: bool = False  # embedding, head and final norm learn as a whole instead

    def check(self) -> None:
        """Raises ConfigError for numbers that cannot be."""
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(f"LoRA with rank {self.rank} and alpha {self.alpha} is not possible",
                              hint="for example --lora_rank 16 --lora_alpha 32; --lora_rank 0 trains all weights")


class AdaptedLinear(nn.Linear):
    """A frozen linear layer with a trained low-rank part; weight and bias keep their names."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.rank, self.alpha = rank, alpha
        start = torch.randn(rank, self.in_features, generator=generator) * self.in_features**-0.5
        self.lora_a = nn.Parameter(start.to(self.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        low = F.linear(F.linear(x, self.lora_a.to(x.dtype)), self.lora_b.to(x.dtype))
        return super().forward(x) + low * (self.alpha / self.rank)

    def merged(self) -> nn.Linear:
        """A plain layer of the same function; it takes this one's weight along and changes it in place."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        with torch.no_grad():
            self.weight += (self.lora_b @ self.lora_a * (self.alpha / self.rank)).to(self.weight.dtype)
        plain.weight, plain.bias = self.weight, self.bias
        return plain


def add_adapters(model: "LanguageModel", settings: LoraSettings, *, seed: int = 0) -> None:
    """Freeze the model and give it adapters, in place; what it computes does not change yet.

    Trained afterwards: the adapters, and the changes of `row_ids` or, with train_embeddings, embedding, head and final
    norm. Raises ConfigError for impossible settings.
    """
    settings.check()
    assert not is_adapted(model), "the model has adapters already: merge them first"
    model.requires_grad_(False)
    adapt_linears(model, settings, seed=seed)
    if settings.train_embeddings:
        for part in (model.embed, model.lm_head, model.norm):
            if part is not None:
                part.requires_grad_(True)
    elif settings.row_ids:
        width = model.config.n_embd
        model.embed_changes = RowChanges(settings.row_ids, width).to(model.device)
        if model.lm_head is not None:
            model.head_changes = RowChanges(settings.row_ids, width).to(model.device)


def largest_rank(model: "LanguageModel") -> int:
    """The rank at which the smallest layer that gets an adapter could learn anything: more would only cost."""
    return min(min(linear.in_features, linear.out_features) for _, name, linear in _linears(model) if name in TARGETS)


def adapt_linears(root: nn.Module, settings: LoraSettings, *, seed: int = 0) -> None:
    """Give the linear layers below `root` that are to have one an adapter, in place."""
    generator = torch.Generator().manual_seed(seed)
    for parent, name, linear in list(_linears(root)):
        if name in TARGETS:
            setattr(parent, name, AdaptedLinear(linear, settings.rank, settings.alpha, generator))


def merge_adapters(model: "LanguageModel") -> None:
    """Put the adapters' work into the weights and remove them, in place; all parameters can be trained afterwards."""
    for parent, name, linear in list(_linears(model)):
        if isinstance(linear, AdaptedLinear):
            setattr(parent, name, linear.merged())
    if model.embed_changes is not None:
        model.embed_changes.merge_into(model.embed.weight)
    if model.head_changes is not None:
        model.head_changes.merge_into(model.lm_head.weight)
    model.embed_changes = model.head_changes = None
    model.requires_grad_(True)


def adapter_settings(model: nn.Module) -> LoraSettings | None:
    """The settings of a model's adapters, None when it has none."""
    adapted = next((module for module in model.modules() if isinstance(module, AdaptedLinear)), None)
    if adapted is None:
        return None
    changes = getattr(model, "embed_changes", None)
    return LoraSettings(rank=adapted.rank, alpha=adapted.alpha,
                        row_ids=() if changes is None else tuple(changes.ids.tolist()),
                        train_embeddings=model.embed.weight.requires_grad)


def is_adapted(model: nn.Module) -> bool:
    return any(isinstance(module, AdaptedLinear) for module in model.modules())


def is_adapter_tensor(name: str) -> bool:
    """Whether a name of the state dict belongs to the adapters rather than to the model they sit on."""
    return name.rpartition(".")[2] in ADAPTER_NAMES or name.partition(".")[0] in CHANGES


def idle_adapters(model: nn.Module) -> list[str]:
    """Names of adapters that change nothing: after training they saw no gradient."""
    idle = [name for name, module in model.named_modules()
            if isinstance(module, AdaptedLinear) and not whole(module.lora_b).any()]
    return idle + [name for name, module in model.named_modules()
                   if isinstance(module, RowChanges) and not whole(module.delta).any()]


def coverage(model: "LanguageModel") -> str:
    """A table for people: per kind of layer the linear layers with adapters and their trained parameters."""
    settings = adapter_settings(model)
    assert settings is not None, "the model has no adapters"
    trained, total = (sum(p.numel() for p in model.parameters() if p.requires_grad or everything)
                      for everything in (False, True))
    lines = [f"LoRA rank {settings.rank}, alpha {settings.alpha:g}: {trained:,} of {total:,} parameters are trained "
             f"({trained / total:.1%})", f"  {'layers':<14}{'linear layers with adapter':<30}{'trained':>12}"]
    pattern = model.config.block_pattern
    for letter in dict.fromkeys(pattern):
        blocks = [block for block, other in zip(model.layers, pattern, strict=True) if other == letter]
        linears = [(name, module) for block in blocks for _, name, module in _linears(block)]
        missed = sorted({name for name, module in linears if not isinstance(module, AdaptedLinear)})
        counts = f"{sum(isinstance(module, AdaptedLinear) for _, module in linears)} of {len(linears)}"
        note = f" (not {', '.join(missed)})" if missed else ""
        parameters = sum(p.numel() for block in blocks for p in block.parameters() if p.requires_grad)
        lines.append(f"  {f'{letter} x {len(blocks)}':<14}{counts + note:<30}{parameters:>12,}")
    outside = trained - sum(p.numel() for p in model.layers.parameters() if p.requires_grad)
    what = "all rows and the last norm" if settings.train_embeddings else f"{len(settings.row_ids)} reserved rows"
    return "\n".join([*lines, f"  {'embedding':<14}{what:<30}{outside:>12,}"])


def _linears(root: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Parent, own name and module of every linear layer below `root`."""
    for parent in root.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                yield parent, name, child

