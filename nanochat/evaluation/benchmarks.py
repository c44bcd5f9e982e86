"""MMLU and GSM8K on a checkpoint: the likeliest letter, and the number that greedy decoding ends with."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from nanochat.engine import Engine, SamplingParams, Session
from nanochat.evaluation.cloze import ClozeItem, cloze_scores
from tasks.benchmarks import LETTERS, BenchmarkItem, final_number

ROWS_AT_ONCE = 16
_NEXT_QUESTION = re.compile(r"\n\s*Question:")


def benchmark_scores(
    model: nn.Module, tokenizer: Any, items: Sequence[BenchmarkItem], *, chat: bool, max_len: int, max_tokens: int = 256
) -> list[float]:
    """1.0 for each item that the model gets right, else 0.0.

    With choices, the letter with the highest likelihood after the question and its choices (zero shots). Without, the
    last number of a greedy answer of at most max_tokens tokens must equal the answer. `chat` asks for that number in
    the conversation format; a base model continues "Question: ... Answer:". Prompts lose their beginning where they do
    not fit into max_len tokens.
    """
    with_choices = [item for item in items if item.choices]
    letters = iter(cloze_scores(model, tokenizer, [_cloze(item) for item in with_choices], max_len=max_len)
                   if with_choices else ())
    numbers = iter(_numbers(model, tokenizer, [item for item in items if not item.choices], chat=chat, max_len=max_len,
                            max_tokens=max_tokens))
    return [next(letters) if item.choices else next(numbers) for item in items]


def _cloze(item: BenchmarkItem) -> ClozeItem:
    letters = LETTERS[: len(item.choices)]
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, item.choices, strict=True))
    about = f"The following question is about {item.subject.replace('_', ' ')}.\n\n" if item.subject else ""
    return ClozeItem(prompt=f"{about}{item.question}\n{listed}\nAnswer:", answer=f" {item.answer}",
                     choices=tuple(f" {letter}" for letter in letters))


def _numbers(
    model: nn.Module, tokenizer: Any, items: Sequence[BenchmarkItem], *, chat: bool, max_len: int, max_tokens: int
) -> list[float]:
    if not items:
        return []
    if chat:
        conversations = [{"messages": [{"role": "user", "content": item.question}]} for item in items]
        texts = [text for text, _ in Engine(model, tokenizer).generate_batch(conversations, max_tokens)]
    else:
        texts = [text for start in range(0, len(items), ROWS_AT_ONCE)
                 for text in _continued(model, tokenizer, items[start : start + ROWS_AT_ONCE], max_len, max_tokens)]
    return [float(final_number(text) == item.answer) for text, item in zip(texts, items, strict=True)]


def _continued(
    model: nn.Module, tokenizer: Any, items: Sequence[BenchmarkItem], max_len: int, max_tokens: int
) -> list[str]:
    session = Session(model, len(items))
    prompts = [tokenizer.encode(f"Question: {item.question}\nAnswer:")[-max(1, max_len - max_tokens) :]
               for item in items]
    session.extend(list(range(len(items))), [[tokenizer.special("bos"), *ids] for ids in prompts])
    reserved = [token for token in range(tokenizer.vocab_size) if tokenizer.is_reserved(token)]
    written = session.sample(SamplingParams(temperature=0.0, max_tokens=max_tokens), stop_ids=reserved)
    # a base model goes on with a question of its own
    return [_NEXT_QUESTION.split(tokenizer.decode(ids))[0] for ids in written]
