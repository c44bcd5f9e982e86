"""Texts to token ids by the model's own tokenizer, and ids to batches of similar length."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nanochat.errors import MissingDependency
from nanochat.retrieval.encoders.base import EncoderError
from nanochat.retrieval.encoders.sentence_folder import SentenceFolder

BATCH_TOKENS = 2_048   # of a batch, padding included
LENGTH_STEP = 8        # lengths are rounded up: every new shape costs its first batch some milliseconds


class Tokens:
    """The tokenizer of a sentence encoder."""

    def __init__(self, sentence: SentenceFolder) -> None:
        self._sentence = sentence
        self._tokenizer = _load(sentence)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(sentence.max_tokens)
        self._pad = _pad_id(sentence, self._tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the model's special tokens, cut at its limit."""
        # half characters (lone surrogates) cannot be tokenised
        cleaned = [text.encode("utf-8", "ignore").decode("utf-8") for text in texts]
        if self._sentence.lower_case:
            cleaned = [text.lower() for text in cleaned]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(cleaned)]

    def batches(self, rows: Sequence[list[int]]) -> tuple[list[list[int]], Iterator[tuple[np.ndarray, np.ndarray]]]:
        """The numbers of the rows in each batch, longest first, and (ids, mask) of each, (B, T) int64."""
        order = sorted((place for place, ids in enumerate(rows) if ids), key=lambda place: -len(rows[place]))
        groups: list[list[int]] = []
        for place in order:
            room = BATCH_TOKENS // self._rounded(len(rows[groups[-1][0]])) if groups else 0
            if groups and len(groups[-1]) < room:
                groups[-1].append(place)
            else:
                groups.append([place])
        return groups, (self._pack([rows[place] for place in group]) for group in groups)

    def _rounded(self, length: int) -> int:
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, max(self._sentence.max_tokens, length))

    def _pack(self, rows: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        width = self._rounded(max(map(len, rows)))
        ids = np.full((len(rows), width), self._pad, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return ids, mask


def _load(sentence: SentenceFolder) -> Any:
    from tokenizers import Tokenizer

    file = sentence.folder / "tokenizer.json"
    try:
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            # the tokenizers package answers a bad file with a bare Exception: look first
            if not isinstance(json.loads(text).get("model"), dict):
                raise ValueError("it has no 'model'")
            return Tokenizer.from_str(text)
        from transformers import AutoTokenizer

        slow_or_fast = AutoTokenizer.from_pretrained(str(sentence.folder), local_files_only=True)
        return Tokenizer.from_str(slow_or_fast.backend_tokenizer.to_str())
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"No module named '{missing.name}': the tokenizer in {sentence.folder} needs it",
            hint="uv pip install sentence-transformers",
        ) from missing
    except (OSError, ValueError, AttributeError) as error:
        raise EncoderError(
            f"The tokenizer in {sentence.folder} cannot be read: {error}",
            hint="give a folder that SentenceTransformer(folder) loads",
        ) from error


def _pad_id(sentence: SentenceFolder, tokenizer: Any) -> int:
    config = json.loads((sentence.folder / "config.json").read_text(encoding="utf-8"))
    if isinstance(config.get("pad_token_id"), int):
        return config["pad_token_id"]
    found = [tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")]
    return next((number for number in found if number is not None), 0)
