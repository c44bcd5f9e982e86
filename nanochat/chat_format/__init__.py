"""The chat format: a conversation to ids and mask, documents paying for the budget, and ids back to an answer."""

from nanochat.chat_format.answers import ParsedAnswer, parse_answer
from nanochat.chat_format.pieces import document_ids, text_ids
from nanochat.chat_format.rendering import MIN_TRIMMED_TOKENS, Rendered, render, render_hop

__all__ = [
    "MIN_TRIMMED_TOKENS", "ParsedAnswer", "Rendered", "document_ids", "parse_answer", "render", "render_hop",
    "text_ids",
]
