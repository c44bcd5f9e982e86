"""Evaluation: the same questions under several conditions, judged, with 95 % intervals and a report."""

from nanochat.evaluation.conditions import CONDITIONS
from nanochat.evaluation.qa_metrics import exact_match, f1_score, normalize_answer
from nanochat.evaluation.questions import EvalQuestion, QuestionError, read_questions
from nanochat.evaluation.runner import evaluate
from nanochat.evaluation.statistics import Estimate, bootstrap_mean, paired_difference, proportion, wilson_interval
from nanochat.evaluation.summary import EvaluationResult

__all__ = [
    "CONDITIONS",
    "EvalQuestion",
    "Estimate",
    "EvaluationResult",
    "QuestionError",
    "bootstrap_mean",
    "evaluate",
    "exact_match",
    "f1_score",
    "normalize_answer",
    "paired_difference",
    "proportion",
    "read_questions",
    "wilson_interval",
]
