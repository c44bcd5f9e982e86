"""Tokenizers: our own byte-level BPE with reserved ids first, and imported ones with reserved ids behind."""

from nanochat.tokenizer.own import MIN_VOCAB_SIZE
from nanochat.tokenizer.reserved import NUM_DOC_SLOTS, NUM_RESERVED, RESERVED_NAMES
from nanochat.tokenizer.tokenizer import FILE_NAME, Tokenizer, check_vocab_size

__all__ = ["FILE_NAME", "MIN_VOCAB_SIZE", "NUM_DOC_SLOTS", "NUM_RESERVED", "RESERVED_NAMES", "Tokenizer",
           "check_vocab_size"]
