"""A second look at the best hits: a cross-encoder reads query and document together and scores the pair."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat.errors import KnowledgeBaseError, MissingDependency
from nanochat.retrieval.document import Document, ScoredDocument

TOP_N = 50            # hits that are looked at again
_BATCH_SIZE = 16      # pairs at a time
_MAX_TOKENS = 512     # of a pair; the longer side is cut first


class Reranker:
    """A cross-encoder from a folder (transformers, sequence classification) with one score or two classes.

    With two classes the score is the logit of the second minus that of the first. Pairs are batched by length; a score
    does not depend on the batch beyond rounding. Nogueira and Cho 2019, "Passage Re-ranking with BERT",
    arXiv:1901.04085.
    """

    def __init__(self, folder: str | Path, *, top_n: int = TOP_N, device: str = "auto") -> None:
        """Raises KnowledgeBaseError for a folder without such a model. device "auto" takes a GPU if there is one."""
        self.folder, self.top_n = Path(folder), top_n
        self._torch, self._tokenizer, self._model = _load(self.folder)
        if device == "auto":
            device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._model.to(device).eval()
        limits = [self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", _MAX_TOKENS)]
        self._max_tokens = min(_MAX_TOKENS, *limits)

    def rerank(self, query: str, documents: Sequence[Document]) -> list[float]:
        """How well each document answers the query, in the order given; higher is better."""
        texts = [document.text for document in documents]
        scores = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for start in range(0, len(order), _BATCH_SIZE):
            numbers = order[start : start + _BATCH_SIZE]
            found = self._scores([query] * len(numbers), [texts[number] for number in numbers])
            for number, score in zip(numbers, found):
                if score != score or score in (float("inf"), float("-inf")):
                    raise KnowledgeBaseError(
                        f"The reranker in {self.folder} gives the score {score} to document {documents[number].id!r}",
                        hint="its weights are damaged: download it again, or leave --rerank out",
                    )
                scores[number] = score
        return scores

    def best(self, query: str, found: Sequence[ScoredDocument], top_k: int) -> list[ScoredDocument]:
        """The best `top_k` of what a search found, with the new scores; equal scores keep the order of the search.

        Looks at the first `top_n` only, or `top_k` if that is more.
        """
        found = found[: max(self.top_n, top_k)]
        scores = self.rerank(query, found)
        order = sorted(range(len(found)), key=lambda number: -scores[number])[:top_k]
        return [ScoredDocument(**{**vars(found[number]), "score": scores[number]}) for number in order]

    def _scores(self, queries: list[str], texts: list[str]) -> list[float]:
        batch = self._tokenizer(
            queries, texts, padding=True, truncation="longest_first", max_length=self._max_tokens, return_tensors="pt"
        ).to(self._model.device)
        with self._torch.inference_mode():
            logits = self._model(**batch).logits.float()    # (B, 1) or (B, 2)
        return (logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0)).tolist()


def _load(folder: Path) -> tuple[Any, Any, Any]:
    """torch, tokenizer and model; nothing is fetched, nothing executable is loaded."""
    hint = "--rerank takes a folder with config.json, tokenizer and model.safetensors of a cross-encoder"
    if not (folder / "config.json").is_file():
        raise KnowledgeBaseError(f"No reranker in {folder}: config.json is missing", hint=hint)
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"No module named {missing.name!r}: reranking needs it", hint="uv pip install transformers"
        ) from missing
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise KnowledgeBaseError(f"The reranker in {folder} cannot be loaded: {error}", hint=hint) from error
    # transformers fills a head that is not in the file with random numbers and goes on
    if info["missing_keys"]:
        raise KnowledgeBaseError(
            f"{folder} is no cross-encoder: it lacks the weights {sorted(info['missing_keys'])[0]} and maybe others",
            hint=hint,
        )
    if model.config.num_labels not in (1, 2):
        raise KnowledgeBaseError(
            f"The model in {folder} has {model.config.num_labels} classes; a reranker has one score or two classes",
            hint=hint,
        )
    return torch, tokenizer, model
