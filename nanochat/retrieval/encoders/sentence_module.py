"""A sentence encoder as one torch module: transformer, pooling, projections, length 1. The reference of all paths."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nanochat.errors import MissingDependency
from nanochat.retrieval.encoders.base import EncoderError
from nanochat.retrieval.encoders.sentence_folder import SentenceFolder

_ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}


class SentenceModule(nn.Module):
    """ids (B, T) and mask (B, T), 1 where a token is, to vectors (B, D) of length 1. Padding is on the right."""

    def __init__(self, transformer: nn.Module, pooling: str, projections: nn.Module) -> None:
        super().__init__()
        self.transformer, self.pooling, self.projections = transformer, pooling, projections

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, C)
        vectors = self.projections(_pool(states, mask, self.pooling))
        return nn.functional.normalize(vectors.float(), dim=1)


def _pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(B, T, C) to (B, C), as sentence-transformers does."""
    weights = mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
    if pooling == "cls":
        return states[:, 0]
    if pooling == "max":
        return states.masked_fill(weights == 0, -1e9).max(dim=1).values
    if pooling == "lasttoken":
        last = mask.sum(dim=1, keepdim=True).clamp(min=1) - 1  # (B, 1)
        return torch.gather(states, 1, last.unsqueeze(-1).expand(-1, -1, states.shape[-1])).squeeze(1)
    if pooling == "weightedmean":
        weights = weights * torch.cumsum(weights, dim=1)
    total, count = (states * weights).sum(dim=1), weights.sum(dim=1).clamp(min=1e-9)
    return total / (count.sqrt() if pooling == "mean_sqrt_len_tokens" else count)


def load_module(sentence: SentenceFolder, attention: str = "sdpa") -> SentenceModule:
    """The module of a folder, float32, for evaluation. Nothing in the folder is executed."""
    try:
        from transformers import AutoModel
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"No module named '{missing.name}': sentence encoders need it",
            hint="uv pip install sentence-transformers, or use the model lsa",
        ) from missing
    try:
        with quiet_transformers():
            transformer = AutoModel.from_pretrained(
                str(sentence.folder), local_files_only=True, trust_remote_code=False, dtype=torch.float32,
                attn_implementation=attention,
            )
        projections = nn.Sequential(*map(_load_projection, sentence.projections))
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise EncoderError(
            f"The model in {sentence.folder} cannot be loaded: {str(error).splitlines()[0]}",
            hint="give a folder that SentenceTransformer(folder) loads",
        ) from error
    return SentenceModule(transformer, sentence.pooling, projections).eval().requires_grad_(False)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without notes of that library about what is no business of ours, and without its progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _load_projection(folder: Path) -> nn.Module:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = str(config.get("activation_function", "Identity")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise EncoderError(f"{folder} ends in {name}; supported: {', '.join(_ACTIVATIONS)}", hint="take another model")
    linear = nn.Linear(config["in_features"], config["out_features"], bias=bool(config.get("bias", True)))
    weights: dict[str, Any]
    if (folder / "model.safetensors").is_file():
        from safetensors.torch import load_file

        weights = load_file(folder / "model.safetensors")
    else:
        weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    linear.load_state_dict({name.removeprefix("linear."): value.float() for name, value in weights.items()})
    return nn.Sequential(linear, _ACTIVATIONS[name]())
