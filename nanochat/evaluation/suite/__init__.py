"""The suite behind a RAG card: every condition of an honest test, on worlds and on the user's own knowledge base."""

from nanochat.evaluation.suite.conditions import CONDITIONS
from nanochat.evaluation.suite.making import CardOutcome, make_card
from nanochat.evaluation.suite.planning import SUITES
from nanochat.evaluation.suite.results import make_results
from nanochat.evaluation.suite.running import SuiteResult, run_suite
from nanochat.evaluation.suite.thresholds import Thresholds, Verdict, read_thresholds

__all__ = [
    "CONDITIONS",
    "SUITES",
    "CardOutcome",
    "SuiteResult",
    "Thresholds",
    "Verdict",
    "make_card",
    "make_results",
    "read_thresholds",
    "run_suite",
]
