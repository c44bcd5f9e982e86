"""Scores of one answer against its accepted answers: those that rewards use, too."""

from nanochat.text.answers import contains_answer, exact_match, f1_score, normalize_answer

__all__ = ["contains_answer", "exact_match", "f1_score", "normalize_answer"]
