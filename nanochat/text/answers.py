"""Scores of one answer against its accepted answers: exact match, token F1, and "the text contains the answer"."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces.

    The rules of the SQuAD scorer (Rajpurkar et al. 2016, arXiv:1606.05250), with Unicode punctuation added and
    compatibility characters folded (NFKC), so that typographic quotes and wide digits do not decide.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(character for character in text if not _is_punctuation(character))
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """True when the prediction equals one of the accepted answers after normalising; an empty prediction is wrong."""
    predicted = normalize_answer(prediction)
    return bool(predicted) and any(predicted == normalize_answer(answer) for answer in answers)


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """Best token F1 over the accepted answers, in [0, 1]; 0 when either side is empty after normalising."""
    return max((_token_f1(normalize_answer(prediction), normalize_answer(answer)) for answer in answers), default=0.0)


def _token_f1(predicted: str, gold: str) -> float:
    predicted_tokens, gold_tokens = predicted.split(), gold.split()
    shared = sum((Counter(predicted_tokens) & Counter(gold_tokens)).values())
    return 2 * shared / (len(predicted_tokens) + len(gold_tokens)) if shared else 0.0


def contains_answer(text: str, answer: str) -> bool:
    """True when the answer stands in the text as whole words, both normalised; an empty answer is nowhere."""
    wanted = normalize_answer(answer)
    return bool(wanted) and f" {wanted} " in f" {normalize_answer(text)} "
