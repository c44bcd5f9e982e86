"""The reference path: torch in float32, one batch at a time. On a GPU where torch finds one."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from nanochat.retrieval.encoders.paths import Batch, Run
from nanochat.retrieval.encoders.sentence_folder import SentenceFolder
from nanochat.retrieval.encoders.sentence_module import load_module


def load(sentence: SentenceFolder, *, for_queries: bool) -> Run:
    """The model for documents and queries alike."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = load_module(sentence).to(device)

    def run(batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        for ids, mask in batches:
            with torch.inference_mode():
                vectors = module(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
            yield vectors.cpu().numpy()

    return run
