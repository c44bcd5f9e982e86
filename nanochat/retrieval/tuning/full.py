"""Fine-tuning a whole sentence encoder on pseudo-queries, into a new sentence-transformers folder.

InfoNCE over the passages of a batch and one hard negative per query. Slow on a processor: minutes per hundred steps.
"""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nanochat.common import write_folder
from nanochat.retrieval.encoders.sentence_folder import SentenceFolder, read_sentence_folder
from nanochat.retrieval.encoders.sentence_module import load_module
from nanochat.retrieval.encoders.tokens import Tokens
from nanochat.retrieval.tuning.arena import Arena, Examples

_TEMPERATURE = 0.05
_WARM_UP = 0.1          # share of the steps in which the learning rate grows
_TOLD_EVERY_S = 30.0
# other forms of the same weights, which would be wrong in the new folder
_LEFT_BEHIND = ("*.safetensors", "pytorch_model*", "*.onnx", "onnx", "openvino", "*.h5", "*.msgpack", "*.ot", "*.gguf",
                "*.index.json")


@dataclass(frozen=True, kw_only=True)
class FullSettings:
    steps: int = 300
    batch: int = 32             # queries per step; each brings its passage and one hard negative
    learning_rate: float = 2e-5
    max_tokens: int = 128       # of a passage while training; longer ones are cut
    seed: int = 0


def fine_tune(
    model: Path, output: Path, texts: Sequence[str], train: Examples, arena: Arena, settings: FullSettings,
    progress: Callable[[str], None] | None = None,
) -> list[float]:
    """Write the fine-tuned model of a folder into a new one; returns the loss of every step.

    texts: those of the queries of `train`, in its order. Projections after the pooling stay as they are.
    """
    sentence = read_sentence_folder(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = load_module(sentence).to(device)
    module.transformer.requires_grad_(True).train()
    torch.manual_seed(settings.seed)
    losses = _train(module, _Batches(sentence, settings.max_tokens, device), texts, train, arena, settings, progress)
    with write_folder(output) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_LEFT_BEHIND))
        for projection in sentence.projections:
            shutil.copytree(projection, folder / projection.relative_to(model), dirs_exist_ok=True)
        module.transformer.cpu().eval().save_pretrained(folder / sentence.folder.relative_to(model))
    return losses


def _train(
    module: nn.Module, batches: "_Batches", texts: Sequence[str], train: Examples, arena: Arena,
    settings: FullSettings, progress: Callable[[str], None] | None,
) -> list[float]:
    generator = np.random.default_rng(settings.seed)
    optimizer = torch.optim.AdamW(module.transformer.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    warm_up = max(1, math.ceil(_WARM_UP * settings.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (settings.steps - step) / max(1, settings.steps - warm_up)))
    losses: list[float] = []
    started = told = time.perf_counter()
    order = np.zeros(0, np.int64)
    for step in range(1, settings.steps + 1):
        if len(order) < min(settings.batch, len(texts)):
            order = generator.permutation(len(texts))
        rows, order = order[: settings.batch], order[settings.batch :]
        loss = _step(module, batches, [texts[row] for row in rows], train.take(rows), arena, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.transformer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if progress is not None and (time.perf_counter() - told > _TOLD_EVERY_S or step == settings.steps):
            told = time.perf_counter()
            progress(f"step {step} of {settings.steps}: loss {np.mean(losses[-20:]):.3f}, {told - started:.0f} s")
    return losses


def _step(
    module: nn.Module, batches: "_Batches", texts: Sequence[str], examples: Examples, arena: Arena,
    generator: np.random.Generator,
) -> Tensor:
    """The loss of one batch: every query's own passage among all passages of the batch."""
    chosen = [row[row >= 0] for row in examples.negatives]
    hard = np.array([generator.choice(row) for row in chosen if len(row)], np.int64)
    places = np.concatenate([examples.places, hard])
    queries = batches.encode(module, list(texts), batches.sentence.query_prefix)
    passages = batches.encode(module, [arena.documents[place].text for place in places],
                              batches.sentence.document_prefix)
    excluded = arena.groups[examples.places][:, None] == arena.groups[places][None]
    # by the vectors from before, which are there already
    excluded |= arena.vectors[examples.places] @ arena.vectors[places].T >= arena.near
    numbers = np.arange(len(texts))
    excluded[numbers, numbers] = False
    scores = queries @ passages.T / _TEMPERATURE
    scores = scores.masked_fill(torch.from_numpy(excluded).to(scores.device), -torch.inf)
    return functional.cross_entropy(scores, torch.from_numpy(numbers).to(scores.device))


class _Batches:
    """Texts to vectors through a module that is being trained."""

    def __init__(self, sentence: SentenceFolder, max_tokens: int, device: torch.device) -> None:
        self.sentence, self._max_tokens, self._device = sentence, max_tokens, device
        self._tokens = Tokens(sentence)

    def encode(self, module: nn.Module, texts: Sequence[str], prefix: str) -> Tensor:
        """(N, D) with gradients; a text without any token gets zeros."""
        rows = [ids[: self._max_tokens] for ids in self._tokens.encode([prefix + text for text in texts])]
        groups, packed = self._tokens.batches(rows)
        found: dict[int, Tensor] = {}
        for places, (ids, mask) in zip(groups, packed):
            vectors = module(torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device))
            found.update(zip(places, vectors))
        zeros = torch.zeros(self.sentence.dimension, device=self._device)
        return torch.stack([found.get(place, zeros) for place in range(len(texts))])
