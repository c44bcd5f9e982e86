"""Answering: batched sampling over one cache, answers that keep a grammar, text while it is written."""

from nanochat.engine.engine import AnswerStream, Engine
from nanochat.engine.grammar import AnswerGrammar
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.session import Session
from nanochat.engine.stream import ABSTAIN_TEXT

__all__ = ["ABSTAIN_TEXT", "AnswerGrammar", "AnswerStream", "Engine", "SamplingParams", "Session"]
