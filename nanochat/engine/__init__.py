"""Answering: many rows over one cache, answers that keep a grammar, text while it is written."""

from nanochat.engine.answer_stream import AnswerStream
from nanochat.engine.deciding import Decision
from nanochat.engine.engine import Engine
from nanochat.engine.grammar import AnswerGrammar
from nanochat.engine.hops import Episode, HopConfig, run_episodes
from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.request import Handle, Request, RequestFailed, RequestRefused
from nanochat.engine.rules import RowRule, RuleRows
from nanochat.engine.sampling import SamplingParams
from nanochat.engine.scheduler import Scheduler
from nanochat.engine.session import Session
from nanochat.engine.stream import ABSTAIN_TEXT

__all__ = [
    "ABSTAIN_TEXT", "AnswerGrammar", "AnswerStream", "Decision", "Engine", "Episode", "Handle", "HopConfig",
    "PrefixCache", "Request", "RequestFailed", "RequestRefused", "RowRule", "RuleRows", "SamplingParams", "Scheduler",
    "Session", "run_episodes",
]
