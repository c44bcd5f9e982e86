"""Cloze and multiple-choice sets: a JSON line has a prompt, an answer, and maybe choices; a base model completes it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nanochat.errors import DocumentError
from nanochat.evaluation.sequences import ScoredSequence, score


@dataclass(frozen=True, kw_only=True)
class ClozeItem:
    """One line of a set."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()  # the answer among them; empty: the answer must be written word for word


def read_cloze(path: str | Path) -> list[ClozeItem]:
    """The lines of a .jsonl file. Raises DocumentError with file:line."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DocumentError(f"Cannot read {path}: {error.strerror}", hint="name a .jsonl file with --cloze") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: not UTF-8 text (byte {error.start})", hint="save the file as UTF-8") from error
    items = [_item(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not items:
        raise DocumentError(f"{path}:1: no lines", hint='each line needs {"prompt": ..., "answer": ...}')
    return items


def _item(line: str, where: str) -> ClozeItem:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DocumentError(f"{where}: not valid JSON", hint="one JSON object per line") from error
    prompt, answer = (record.get(name) if isinstance(record, dict) else None for name in ("prompt", "answer"))
    if not all(isinstance(text, str) and text for text in (prompt, answer)):
        raise DocumentError(f"{where}: 'prompt' and 'answer' must be texts",
                            hint='{"prompt": "The capital of France is", "answer": " Paris"}')
    choices = record.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise DocumentError(f"{where}: 'choices' must be a list of texts", hint='"choices": [" Paris", " Rome"]')
    if choices and answer not in choices:
        raise DocumentError(f"{where}: the answer {answer!r} is not among the choices", hint="add it to 'choices'")
    return ClozeItem(prompt=prompt, answer=answer, choices=tuple(choices))


def cloze_scores(model: nn.Module, tokenizer: Any, items: Sequence[ClozeItem], *, max_len: int) -> list[float]:
    """1.0 for each item that the model gets right, else 0.0.

    With choices that with the fewest bits per byte must be the answer; without, greedy decoding must write it. Prompts
    lose their beginning where they do not fit. Prompt and answer are tokenised together, and the answer is what
    differs from the prompt's own ids.
    """
    sequences, owner = [], []
    for place, item in enumerate(items):
        for choice in item.choices or (item.answer,):
            sequences.append(_sequence(tokenizer, item.prompt, choice, max_len))
            owner.append((place, choice))
    bits: dict[tuple[int, str], float] = {}
    is_written: dict[tuple[int, str], bool] = {}
    for key, scores in zip(owner, score(model, sequences, group=tokenizer.doc_ids), strict=True):
        bits[key] = float(scores.nats.sum() / np.log(2)) / len(key[1].encode("utf-8", "replace"))
        is_written[key] = bool(scores.is_right.all())
    results = []
    for place, item in enumerate(items):
        best = min(item.choices, key=lambda choice: bits[place, choice]) if item.choices else None  # noqa: B023
        results.append(float(best == item.answer if item.choices else is_written[place, item.answer]))
    return results


def _sequence(tokenizer: Any, prompt: str, answer: str, max_len: int) -> ScoredSequence:
    given, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + answer)
    same = next((place for place, (one, other) in enumerate(zip(given, whole)) if one != other),
                min(len(given), len(whole) - 1))
    kept = whole[max(0, len(whole) - max_len) :]
    num_scored = min(len(whole) - same, len(kept))
    ids = [tokenizer.special("bos"), *kept]
    return ScoredSequence(ids=ids, is_scored=[place >= len(ids) - num_scored for place in range(len(ids))])
