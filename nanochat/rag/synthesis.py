"""Questions made by rule from the user's own documents: a sentence with one exact span left out, the span as the answer.

Cloze questions need no teacher model, their answers are verbatim, and the document that answers is known. They train and
test finding and copying; they say nothing about paraphrase.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

BLANK = "____"
PROMPT = "Fill in the blank: "
# a number with its decimals, or a run of capitalised words that does not start the sentence
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w])")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][A-Za-z]+(?: [A-Z][A-Za-z]+){0,3}(?![\w])")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
WINDOW_WORDS = 14  # words kept on the longer side of the blank
MIN_WORDS, MAX_WORDS = 6, 40  # sentences outside are not asked about
MAX_CONTENT_WORDS = 150  # only this much of a document is asked about: contexts of tiny models are short


def sentences(text: str) -> list[str]:
    """Split at sentence ends followed by a capital, digit, quote or bracket; whitespace is folded."""
    return [" ".join(part.split()) for part in _SENTENCE_END.split(text) if part.strip()]


def _spans(sentence: str) -> Iterator[re.Match[str]]:
    yield from _NUMBER.finditer(sentence)
    yield from _NAME.finditer(sentence)


def _cloze(sentence: str, span: re.Match[str]) -> str:
    before = sentence[: span.start()].split(" ")
    after = sentence[span.end() :].split(" ")
    return PROMPT + " ".join(before[-WINDOW_WORDS:]) + BLANK + " ".join(after[: WINDOW_WORDS // 2])


def cloze_questions(
    documents: Iterable[Mapping[str, Any]], *, per_document: int = 4, seed: int = 0
) -> list[dict[str, Any]]:
    """Cloze questions about documents, in document order: records with id, question, answers, supporting_ids, hops, kind.

    A span is used only when it stands once in its document, and its sentence stands in no other document, so that exactly
    one document answers. Answers have one to four words. Documents without such a span give no question.
    Same documents and seed, same questions.
    """
    documents = list(documents)
    split = [sentences(" ".join(document["content"].split(" ")[:MAX_CONTENT_WORDS])) for document in documents]
    seen = Counter(sentence for parts in split for sentence in parts)
    questions = []
    for document, parts in zip(documents, split, strict=True):
        rng = random.Random(f"{seed}:{document['id']}")
        usable = [(sentence, span) for sentence in parts if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS
                  and seen[sentence] == 1 for span in _spans(sentence) if _stands_once(span.group(), document)]
        for number, (sentence, span) in enumerate(rng.sample(usable, min(per_document, len(usable)))):
            questions.append({
                "id": f"{document['id']}#cloze{number}", "question": _cloze(sentence, span), "answers": [span.group()],
                "supporting_ids": [document["id"]], "hops": 1, "kind": "cloze",
            })
    return questions


def _stands_once(span: str, document: Mapping[str, Any]) -> bool:
    return len(re.findall(rf"(?<!\w){re.escape(span)}(?!\w)", f"{document['title']}\n{document['content']}")) == 1


def split_by_document(
    questions: Sequence[Mapping[str, Any]], *, test_share: float
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Training and test questions; all questions of a document fall on the same side, by a stable hash of its id."""
    train: list[Mapping[str, Any]] = []
    test: list[Mapping[str, Any]] = []
    for question in questions:
        share = random.Random("|".join(question["supporting_ids"])).random()
        (test if share < test_share else train).append(question)
    return train, test
