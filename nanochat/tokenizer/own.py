"""Our own vocabulary: byte-level BPE with the reserved ids first, how it is trained and what its file must be."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from nanochat.tokenizer.reserved import NUM_RESERVED, reserved_tokens, without_lone_surrogates

MIN_VOCAB_SIZE = NUM_RESERVED + 256
RESERVED_TOKENS = reserved_tokens()
# a word keeps one leading space, a digit stands alone, so a number has the same ids wherever it appears
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
# the same cuts for ASCII text, so that its words can be looked up without calling the library
ASCII_WORDS = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[a-zA-Z]+|[0-9]| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+", re.ASCII)


def own_backend(vocab: Mapping[str, int], merges: Sequence[Sequence[str]]) -> Backend:
    """The pipeline around a vocabulary whose first ids are the reserved tokens."""
    backend = _make_backend(models.BPE(vocab=dict(vocab), merges=[tuple(merge) for merge in merges]))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in RESERVED_TOKENS])
    return backend


def train_backend(texts: Iterable[str], vocab_size: int) -> Backend:
    """Learn merges from texts; the same texts give the same file."""
    backend = _make_backend(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(RESERVED_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator((without_lone_surrogates(text) for text in texts), trainer)
    return backend


def find_problem(content: Any) -> str:
    """Why a parsed tokenizer.json is not one of ours, empty when it is."""
    model = content.get("model") if isinstance(content, dict) else None
    vocab, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        return "it has no vocabulary and merges"
    if _split_pattern(content) != PATTERN:
        return "it splits words by another pattern"
    if not all(type(i) is int for i in vocab.values()) or sorted(vocab.values()) != list(range(len(vocab))):
        return "its ids are not 0, 1, 2, ..."
    if any(vocab.get(token) != i for i, token in enumerate(RESERVED_TOKENS)):
        return "its first ids are not the reserved tokens"
    reserved = set(RESERVED_TOKENS)
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    if not alphabet <= vocab.keys() or not alphabet.issuperset("".join(vocab.keys() - reserved)):
        return "its tokens are not made of the 256 bytes"
    for merge in merges:
        if not isinstance(merge, list) or len(merge) != 2 or not all(isinstance(part, str) for part in merge):
            return f"merge {merge!r} is not a pair"
        if any(token not in vocab or token in reserved for token in (*merge, "".join(merge))):
            return f"merge {merge!r} is not of its vocabulary"
    return ""


def _make_backend(model: models.BPE) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _split_pattern(content: Mapping[str, Any]) -> Any:
    try:
        return content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    except (KeyError, IndexError, TypeError):
        return None
