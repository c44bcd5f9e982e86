"""Tokenizer: byte-level BPE with reserved ids first, which no text can ever produce."""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from nanochat.common import write_text
from nanochat.errors import CheckpointError, ConfigError

NUM_DOC_SLOTS = 32
FILE_NAME = "tokenizer.json"

_MARKS = (
    *("bos", "system_start", "system_end", "user_start", "user_end", "assistant_start", "assistant_end"),
    *("results_start", "results_end", "query_start", "query_end", "cite", "abstain"),
    *("note_start", "note_end", "expand"),
)
# spare ids: a later mark takes one of them and every stored checkpoint keeps its numbering
RESERVED_NAMES = (
    *_MARKS,
    *(f"doc_{i}" for i in range(NUM_DOC_SLOTS)),
    *(f"spare_{i}" for i in range(64 - len(_MARKS) - NUM_DOC_SLOTS)),
)
NUM_RESERVED = len(RESERVED_NAMES)
MIN_VOCAB_SIZE = NUM_RESERVED + 256
_TRAIN_ONE = "train one: python -m scripts.tok_train --input my_documents.jsonl"

_RESERVED_TOKENS = tuple(f"<|{name}|>" for name in RESERVED_NAMES)
_ID_OF = {name: i for i, name in enumerate(RESERVED_NAMES)}
_FIRST_DOC = _ID_OF["doc_0"]
# a word keeps one leading space, a digit stands alone, so a number has the same ids wherever it appears
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
# the same cuts for ASCII text, so that its words can be looked up without calling the library
_ASCII_WORDS = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[a-zA-Z]+|[0-9]| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+", re.ASCII)

# the caches hold at most this many entries, none longer than this many characters
_CACHE_TEXTS, _CACHE_TEXT_CHARS = 16384, 4096
_CACHE_WORDS, _CACHE_WORD_CHARS = 65536, 32


def _make_backend(model: models.BPE) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


class Tokenizer:
    """Text to ids and back; reserved ids are 0 ... NUM_RESERVED - 1 and come from `special` and `doc` only."""

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        """Build from a vocabulary whose first ids are the reserved tokens; `train` and `load` are the usual ways in."""
        self._backend = _make_backend(models.BPE(vocab=dict(vocab), merges=list(merges)))
        self._backend.add_special_tokens([AddedToken(token, normalized=False) for token in _RESERVED_TOKENS])
        # the library's default turns the text "<|bos|>" into the id of bos; this setting is not stored in the file
        self._backend.encode_special_tokens = True
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        # one int object per id, so that cached texts cost 8 bytes a token
        self._ints = list(range(self.vocab_size))
        self._cached_text = functools.lru_cache(maxsize=_CACHE_TEXTS)(self._encode_tuple)
        self._cached_word = functools.lru_cache(maxsize=_CACHE_WORDS)(self._encode_plain)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges from texts; the same texts always give the same tokenizer.

        The result has fewer than `vocab_size` ids when the texts offer too few repeated pairs.
        Raises ConfigError when vocab_size cannot hold the reserved ids and the 256 bytes.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ConfigError(
                f"vocab_size {vocab_size} is too small: {NUM_RESERVED} reserved ids + 256 bytes = {MIN_VOCAB_SIZE}",
                hint="--vocab_size 4096 suits a tiny model, 32768 a large one",
            )
        backend = _make_backend(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=list(_RESERVED_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        backend.train_from_iterator((_without_lone_surrogates(text) for text in texts), trainer)
        return cls._from_json(json.loads(backend.to_str()), where="the trained tokenizer")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read tokenizer.json, given as the file or as its folder. Raises CheckpointError naming the file."""
        path = Path(path)
        if path.is_dir():
            path = path / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as missing:
            raise CheckpointError(f"Tokenizer not found: {path}", hint=_TRAIN_ONE) from missing
        except OSError as error:
            raise CheckpointError(f"Cannot read {path}: {error.strerror or error}", hint=_TRAIN_ONE) from error
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}", hint=_TRAIN_ONE) from error
        return cls._from_json(content, where=str(path))

    @classmethod
    def _from_json(cls, content: Any, *, where: str) -> "Tokenizer":
        problem = _find_problem(content)
        if problem:
            raise CheckpointError(f"{where} is not a tokenizer of this project: {problem}", hint=_TRAIN_ONE)
        return cls(content["model"]["vocab"], [tuple(merge) for merge in content["model"]["merges"]])

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json into the folder, in the form that the tokenizers and transformers libraries load."""
        write_text(Path(folder) / FILE_NAME, self._backend.to_str())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, never a reserved one; a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
        if not text.isascii():
            return self._encode_plain(_without_lone_surrogates(text))
        ids: list[int] = []
        for word in _ASCII_WORDS.findall(text):
            ids += self._cached_word(word) if len(word) <= _CACHE_WORD_CHARS else self._encode_plain(word)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        cleaned = [_without_lone_surrogates(text) for text in texts]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(cleaned, add_special_tokens=False)]

    def encode_cached(self, text: str) -> tuple[int, ...]:
        """`encode` as a tuple, remembered for texts seen lately."""
        return self._cached_text(text) if len(text) <= _CACHE_TEXT_CHARS else self._encode_tuple(text)

    def _encode_plain(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _encode_tuple(self, text: str) -> tuple[int, ...]:
        return tuple(map(self._ints.__getitem__, self.encode(text)))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without the reserved ones; bytes that are not UTF-8 become U+FFFD."""
        return self._backend.decode([i for i in ids if i >= NUM_RESERVED], skip_special_tokens=False)

    def special(self, name: str) -> int:
        """Id of a reserved name such as "bos" or "assistant_end"."""
        assert name in _ID_OF, f"{name!r} is not a reserved name, use one of {_MARKS}"
        return _ID_OF[name]

    def doc(self, slot: int) -> int:
        """Id that stands for the document in a slot, 0 ... NUM_DOC_SLOTS - 1."""
        assert 0 <= slot < NUM_DOC_SLOTS, f"slot {slot} is outside 0..{NUM_DOC_SLOTS - 1}"
        return _FIRST_DOC + slot

    @property
    def doc_ids(self) -> range:
        """All ids that `doc` gives."""
        return range(_FIRST_DOC, _FIRST_DOC + NUM_DOC_SLOTS)

    def doc_index(self, token: int) -> int | None:
        """Slot of a document id, None for any other id: the inverse of `doc`."""
        slot = token - _FIRST_DOC
        return slot if 0 <= slot < NUM_DOC_SLOTS else None

    def is_reserved(self, token: int) -> bool:
        """Whether an id is one that text cannot produce."""
        return 0 <= token < NUM_RESERVED


def _without_lone_surrogates(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # pairs join to the character they stand for, as JSON means them
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _find_problem(content: Any) -> str:
    """What is wrong with the parsed tokenizer.json, empty when nothing is."""
    model = content.get("model") if isinstance(content, dict) else None
    vocab, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        return "it has no vocabulary and merges"
    if _split_pattern(content) != _PATTERN:
        return "it splits words by another pattern"
    if not all(type(i) is int for i in vocab.values()) or sorted(vocab.values()) != list(range(len(vocab))):
        return "its ids are not 0, 1, 2, ..."
    if any(vocab.get(token) != i for i, token in enumerate(_RESERVED_TOKENS)):
        return "its first ids are not the reserved tokens"
    reserved = set(_RESERVED_TOKENS)
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    if not alphabet <= vocab.keys() or not alphabet.issuperset("".join(vocab.keys() - reserved)):
        return "its tokens are not made of the 256 bytes"
    for merge in merges:
        if not isinstance(merge, list) or len(merge) != 2 or not all(isinstance(part, str) for part in merge):
            return f"merge {merge!r} is not a pair"
        if any(token not in vocab or token in reserved for token in (*merge, "".join(merge))):
            return f"merge {merge!r} is not of its vocabulary"
    return ""


def _split_pattern(content: Mapping[str, Any]) -> Any:
    try:
        return content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    except (KeyError, IndexError, TypeError):
        return None
