"""Text to ids and back, with reserved ids that no text can ever produce."""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from nanochat.common import write_text
from nanochat.errors import CheckpointError, ConfigError
from nanochat.tokenizer.own import ASCII_WORDS, MIN_VOCAB_SIZE, find_problem, own_backend, train_backend
from nanochat.tokenizer.reserved import (
    MARKS,
    NUM_DOC_SLOTS,
    NUM_RESERVED,
    RESERVED_NAMES,
    reserved_tokens,
    without_lone_surrogates,
)

FILE_NAME = "tokenizer.json"
MAX_VOCAB_SIZE = 2**20  # beyond that the embedding alone would be larger than any model here
TRAIN_ONE = "train one: python -m scripts.tok_train --input my_documents.jsonl"
_PLACE_OF = {name: i for i, name in enumerate(RESERVED_NAMES)}
_FIRST_DOC = _PLACE_OF["doc_0"]

# the caches hold at most this many entries, none longer than this many characters; each takes 150 MB at the most
_CACHE_TEXTS = ((16384, 4096), (1024, 65536), (32, 2**20))
_CACHE_WORDS, _CACHE_WORD_CHARS = 65536, 32


def check_vocab_size(vocab_size: int) -> None:
    """Raises ConfigError for a size that cannot hold the reserved ids and the 256 bytes, or that nothing could fill."""
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        why = (f"small: {NUM_RESERVED} reserved ids + 256 bytes = {MIN_VOCAB_SIZE}" if vocab_size < MIN_VOCAB_SIZE
               else f"large: at most {MAX_VOCAB_SIZE}")
        raise ConfigError(f"vocab_size {vocab_size} is too {why}",
                          hint="--vocab_size 4096 suits a tiny model, 32768 a large one")


class Tokenizer:
    """Text to ids and back.

    The reserved ids come from `special` and `doc` only. They are 0 ... 63 in a vocabulary that `train` made, and follow
    the vocabulary's own ids in an imported one (imported.py), whose control tokens are out of reach for text as well.
    """

    def __init__(self, backend: Backend, *, first_reserved: int = 0, prefix: str = "") -> None:
        """Wrap a pipeline whose 64 reserved tokens begin at id `first_reserved`; `train` and `load` are the ways in."""
        self._backend = backend
        # the library's default turns the text "<|bos|>" into the id of bos; this setting is not stored in the file
        backend.encode_special_tokens = True
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self._first = first_reserved
        self._first_doc = first_reserved + _FIRST_DOC
        self._tokens = reserved_tokens(prefix)
        # one int object per id, so that cached texts cost 8 bytes a token
        self._ints = list(range(self.vocab_size))
        self._cached_texts = [(most_chars, functools.lru_cache(maxsize=most)(self._encode_tuple))
                              for most, most_chars in _CACHE_TEXTS]
        self._cached_word = functools.lru_cache(maxsize=_CACHE_WORDS)(self._encode_plain)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges from texts; the same texts always give the same tokenizer.

        The result has fewer than `vocab_size` ids when the texts offer too few repeated pairs.
        Raises ConfigError when vocab_size cannot hold the reserved ids and the 256 bytes.
        """
        check_vocab_size(vocab_size)
        return cls.from_content(json.loads(train_backend(texts, vocab_size).to_str()), where="the trained tokenizer")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read tokenizer.json, given as the file or as its folder: a trained one, or an imported one that was saved.

        Raises CheckpointError naming the file.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE_NAME
        return cls.from_content(read_json(path), where=str(path))

    @classmethod
    def from_content(cls, content: Any, *, where: str) -> "Tokenizer":
        """`load` for a parsed tokenizer.json; `where` names it in messages."""
        from nanochat.tokenizer.imported import ImportedTokenizer, find_reserved

        found = find_reserved(content)
        if found is not None and found[0] > 0:
            return ImportedTokenizer.from_content(content, where=where)
        problem = find_problem(content)
        if problem:
            raise CheckpointError(f"{where} is not a tokenizer of this project: {problem}", hint=TRAIN_ONE)
        return Tokenizer(own_backend(content["model"]["vocab"], content["model"]["merges"]))

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json into the folder, in the form that the tokenizers and transformers libraries load."""
        write_text(Path(folder) / FILE_NAME, self.to_json())

    def to_json(self) -> str:
        """The content of tokenizer.json."""
        return self._backend.to_str()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, never a reserved one; a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
        if not text.isascii():
            return self._encode_plain(without_lone_surrogates(text))
        ids: list[int] = []
        for word in ASCII_WORDS.findall(text):
            ids += self._cached_word(word) if len(word) <= _CACHE_WORD_CHARS else self._encode_plain(word)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        cleaned = [without_lone_surrogates(text) for text in texts]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(cleaned, add_special_tokens=False)]

    def encode_cached(self, text: str) -> tuple[int, ...]:
        """`encode` as a tuple, remembered for texts seen lately."""
        for most_chars, encode in self._cached_texts:
            if len(text) <= most_chars:
                return encode(text)
        return self._encode_tuple(text)

    def _encode_plain(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _encode_tuple(self, text: str) -> tuple[int, ...]:
        return tuple(map(self._ints.__getitem__, self.encode(text)))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without the reserved ones; bytes that are not UTF-8 become U+FFFD."""
        first, end = self._first, self._first + NUM_RESERVED
        return self._backend.decode([i for i in ids if not first <= i < end], skip_special_tokens=False)

    def special(self, name: str) -> int:
        """Id of a reserved name such as "bos" or "assistant_end"."""
        assert name in _PLACE_OF, f"{name!r} is not a reserved name, use one of {MARKS}"
        return self._first + _PLACE_OF[name]

    def token(self, name: str) -> str:
        """How tokenizer.json and the chat template write a reserved name: "<|bos|>" for "bos"."""
        return self._tokens[self.special(name) - self._first]

    def doc(self, slot: int) -> int:
        """Id that stands for the document in a slot, 0 ... NUM_DOC_SLOTS - 1."""
        assert 0 <= slot < NUM_DOC_SLOTS, f"slot {slot} is outside 0..{NUM_DOC_SLOTS - 1}"
        return self._first_doc + slot

    @property
    def doc_ids(self) -> range:
        """All ids that `doc` gives."""
        return range(self._first_doc, self._first_doc + NUM_DOC_SLOTS)

    @property
    def slot_ids(self) -> tuple[int, int, int, int]:
        """What finds documents in ids: those of results_start, results_end and slot 0, and the number of slots."""
        return self.special("results_start"), self.special("results_end"), self._first_doc, NUM_DOC_SLOTS

    def doc_index(self, token: int) -> int | None:
        """Slot of a document id, None for any other id: the inverse of `doc`."""
        slot = token - self._first_doc
        return slot if 0 <= slot < NUM_DOC_SLOTS else None

    def is_reserved(self, token: int) -> bool:
        """Whether an id is a mark that `decode` leaves out and that is never sampled as text: no text produces it.

        In an imported vocabulary these are also its own control tokens and its unknown token, which is the one of them
        that text may give, in place of a character the vocabulary lacks.
        """
        return self._first <= token < self._first + NUM_RESERVED

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Control tokens besides the reserved ones, as they are written: those of an imported vocabulary."""
        return ()

    @property
    def control_pieces(self) -> tuple[str, ...]:
        """Those of the control tokens that only a cut inside keeps out of reach of text."""
        return ()

    def bytes_per_id(self) -> list[int]:
        """UTF-8 bytes that each id stands for, 0 for marks: adding them up over a text's ids gives its size."""
        return [0 if self.is_reserved(i) else len(self._backend.id_to_token(i)) for i in range(self.vocab_size)]


def read_json(path: Path, *, hint: str = TRAIN_ONE) -> Any:
    """A parsed tokenizer.json. Raises CheckpointError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise CheckpointError(f"Tokenizer not found: {path}", hint=hint) from missing
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint=hint) from error
