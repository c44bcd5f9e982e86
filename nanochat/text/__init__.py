"""Plain text: where sentences end, and which of them state something. Needs no model and no index."""

from nanochat.text.passages import Passage, find_passage
from nanochat.text.sentences import sentence_spans

__all__ = ["Passage", "find_passage", "sentence_spans"]
