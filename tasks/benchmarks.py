"""Published tests: MMLU (a letter of four choices) and GSM8K (a number at the end). Nothing is trained on them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import ConfigError, DocumentError
from tasks.jsonl import parse_record, read_lines, sample

LETTERS = "ABCDEFGHIJ"
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?|[-+]?\.\d+")
_FINAL = re.compile(r"####\s*(.+)")


@dataclass(frozen=True, kw_only=True)
class BenchmarkItem:
    """One question; with choices the answer is a letter, else a number."""

    question: str
    answer: str
    choices: tuple[str, ...] = ()
    subject: str = ""


def read_mmlu(path: str | Path, samples: int = 0, seed: int = 0) -> list[BenchmarkItem]:
    """Lines with question, choices and answer: its letter or its place from 0. Raises DocumentError with file:line."""
    return [_choice(parse_record(line, where=where), where) for where, line in sample(read_lines(path), samples, seed)]


def read_gsm8k(path: str | Path, samples: int = 0, seed: int = 0) -> list[BenchmarkItem]:
    """Lines with question and answer ("... #### 18"), or answers (["18"]). Raises DocumentError with file:line."""
    return [_problem(parse_record(line, where=where), where) for where, line in sample(read_lines(path), samples, seed)]


BENCHMARKS = {"mmlu": read_mmlu, "gsm8k": read_gsm8k}


def read_benchmark(spec: str, samples: int = 0, seed: int = 0) -> tuple[str, list[BenchmarkItem]]:
    """Name and items of "mmlu:FILE" or "gsm8k:FILE", at most `samples` (0: all). Raises ConfigError, DocumentError."""
    name, _, path = spec.strip().partition(":")
    if name.lower() not in BENCHMARKS or not path:
        raise ConfigError(f"Unknown test {spec!r}", hint="write mmlu:FILE or gsm8k:FILE")
    items = BENCHMARKS[name.lower()](path, samples, seed)
    if not items:
        raise DocumentError(f"{path}: no questions in this file", hint="one JSON object per line")
    return name.lower(), items


def final_number(text: str) -> str | None:
    """The number that an answer ends with, plainly written: "#### 1,200.0" gives "1200"; None without a number.

    What stands behind #### counts; else the last number of the text.
    """
    marked = _FINAL.search(text)
    found = _NUMBER.findall(marked[1] if marked else text)
    if not found:
        return None
    number = found[0 if marked else -1].replace(",", "").lstrip("+")
    whole, _, part = number.partition(".")
    part = part.rstrip("0")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    digits = digits.lstrip("0") or "0"
    plain = f"{digits}.{part}" if part else digits
    return plain if plain == "0" else sign + plain


def _choice(record: dict[str, Any], where: str) -> BenchmarkItem:
    choices, answer = record.get("choices"), record.get("answer")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise DocumentError(f"{where}: 'choices' must be a list of 2 to {len(LETTERS)} texts", hint="as MMLU has them")
    letters = LETTERS[: len(choices)]
    if type(answer) is int and 0 <= answer < len(choices):
        answer = letters[answer]
    if not isinstance(answer, str) or answer not in letters:
        raise DocumentError(f"{where}: 'answer' is {answer!r}, expected one of {', '.join(letters)}",
                            hint="the letter of the right choice, or its place from 0")
    return BenchmarkItem(question=_question(record, where), answer=answer, subject=str(record.get("subject", "")),
                         choices=tuple(str(choice) for choice in choices))


def _problem(record: dict[str, Any], where: str) -> BenchmarkItem:
    answers = record.get("answers")
    stated = answers[0] if isinstance(answers, list) and answers else record.get("answer")
    number = final_number(stated) if isinstance(stated, str) else None
    if number is None:
        raise DocumentError(f"{where}: 'answer' (or 'answers') states no number", hint='"answer": "... #### 18"')
    return BenchmarkItem(question=_question(record, where), answer=number)


def _question(record: dict[str, Any], where: str) -> str:
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DocumentError(f"{where}: 'question' is missing or empty", hint="each line needs a question")
    return question.strip()
