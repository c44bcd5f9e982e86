"""Questions made by rule from the user's own documents: a sentence with one exact span left out, which is the answer.

Cloze questions need no teacher model, their answers are verbatim, and the document that answers is known. They train
and test finding and copying; they say nothing about paraphrase.
"""

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nanochat.rag.spans import JOINING, WORD, Span, Vocabulary, find_spans, is_plain, sentences
from nanochat.retrieval.words.analysis import analyze

BLANK = "____"
PROMPT = "Fill in the blank"
WINDOW_WORDS = 24  # most words kept around the blank
MAX_CONTENT_WORDS = 150  # only this much of a document is asked about: contexts of tiny models are short
MAX_ANSWER_WORDS = 4
MAX_TITLE_WORDS = 8  # longer titles are not shown in questions
NEAR_WORDS = 5  # no other document has the answer next to the same words, so many of them

_PLAIN_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class _Candidate:
    sentence: str
    span: Span
    title: str

    @property
    def answer(self) -> str:
        return self.sentence[self.span.start : self.span.end]

    @cached_property
    def sides(self) -> tuple[str, str]:
        """What stands before and after the blank; a long sentence is cut to WINDOW_WORDS, the cuts marked by dots."""
        before, after = self.sentence[: self.span.start].split(" "), self.sentence[self.span.end :].split(" ")
        num_after = min(len(after), max(WINDOW_WORDS // 3, WINDOW_WORDS - len(before)))
        num_before = min(len(before), WINDOW_WORDS - num_after)
        left, right = " ".join(before[len(before) - num_before :]), " ".join(after[:num_after])
        return f"... {left}" if num_before < len(before) else left, f"{right} ..." if num_after < len(after) else right

    @cached_property
    def question(self) -> str:
        """The prompt; a title says what the sentence is about, unless the sentence says so itself."""
        window, title = BLANK.join(self.sides), " ".join(self.title.split())
        if not 0 < len(title.split()) <= MAX_TITLE_WORDS or set(analyze(title)) <= set(analyze(window)):
            return f"{PROMPT}: {window}"
        return f"{PROMPT} ({title}): {window}"


def cloze_questions(
    documents: Iterable[Mapping[str, Any]], *, per_document: int = 4, seed: int = 0,
    vocabulary: Vocabulary | None = None,
) -> list[dict[str, Any]]:
    """Cloze questions in document order: records with id, question, answers, supporting_ids, hops and kind.

    Left out are dates, amounts, names and, where these are too few, rare noun phrases of one to three words. A span is
    used only when it stands once in its document, its question does not give it away, and no other document has the
    words before and after the blank, or the answer next to NEAR_WORDS of them, so that exactly one document answers.
    Questions of a document are about different sentences as far as there are enough; a document without such a span
    gives none. Those about passages (see nanochat.retrieval.chunking) carry the id of the whole document as "parent".
    `vocabulary`: of all titles and contents, where the caller has made it already. Same documents and seed, same
    questions.
    """
    documents = list(documents)
    texts = [f"{document['title']}\n{document['content']}" for document in documents]
    vocabulary = vocabulary or Vocabulary(texts)
    folded = [_folded(text) for text in texts]
    questions: list[dict[str, Any]] = []
    for position, document in enumerate(documents):
        candidates = [
            _Candidate(sentence, span, document["title"])
            for sentence in dict.fromkeys(sentences(_head(document["content"]))) if is_plain(sentence, vocabulary)
            for span in find_spans(sentence, vocabulary)
        ]
        mixed = _spread(candidates, random.Random(f"{seed}:{document['id']}"))
        usable = (candidate for candidate in mixed
                  if _stands_once(candidate.answer, document, folded[position]) and _is_sensible(candidate, vocabulary)
                  and not _is_elsewhere(candidate, position, vocabulary, folded))
        chosen = itertools.islice(usable, per_document)
        questions += [_record(document, number, candidate) for number, candidate in enumerate(chosen)]
    return questions


def _head(content: str) -> str:
    """The first MAX_CONTENT_WORDS words of a text, with the white space between them."""
    for number, found in enumerate(re.finditer(r"\S+", content), start=1):
        if number == MAX_CONTENT_WORDS:
            return content[: found.end()]
    return content


def _folded(text: str) -> str:
    """The words of a text in lower case, a space around each, so that whole words are found."""
    return " ".join(["", *_PLAIN_WORD.findall(text.lower()), ""])


def _stands_once(answer: str, document: Mapping[str, Any], folded: str) -> bool:
    return folded.count(_folded(answer)) == 1 and answer in document["content"]


def _is_elsewhere(candidate: _Candidate, position: int, vocabulary: Vocabulary, folded: Sequence[str]) -> bool:
    """Whether another document, too, has the words before and after the blank, or the answer next to the same words."""
    left, right = map(_folded, candidate.sides)
    answer = _folded(candidate.answer).split()
    before, after = left.split()[-NEAR_WORDS:], right.split()[:NEAR_WORDS]
    shared = [(left, right)]
    shared += [(" ".join(["", *before, *answer, ""]),)] if len(before) == NEAR_WORDS else []
    shared += [(" ".join(["", *answer, *after, ""]),)] if len(after) == NEAR_WORDS else []
    for parts in shared:
        # only documents with the rarest of these words can have them all
        places = min((vocabulary.places.get(term, []) for term in analyze(" ".join(parts))), key=len, default=[])
        if any(all(part in folded[place] for part in parts) for place in places if place != position):
            return True
    return False


def _is_sensible(candidate: _Candidate, vocabulary: Vocabulary) -> bool:
    """Whether the question is about something in particular and does not show its answer."""
    terms = set(analyze(candidate.question))
    if len(candidate.answer.split()) > MAX_ANSWER_WORDS or not any(map(vocabulary.is_rare, terms)):
        return False
    return terms.isdisjoint(analyze(candidate.answer)) and not _gives_away(candidate.question, candidate.answer)


def _gives_away(question: str, answer: str) -> bool:
    """Whether the question shows a relative of a word of the answer ("Armenia" of "Armenian"), or its initials."""
    shown = [word.lower() for word in WORD.findall(question)]
    words = [word.lower() for word in WORD.findall(answer)]
    if {word[:5] for word in words if len(word) > 4} & {word[:5] for word in shown if len(word) > 4}:
        return True
    initials = "".join(word[0] for word in words if word not in JOINING)
    if len(initials) > 1 and initials in shown:
        return True
    letters = re.match("[A-Z]*", answer)[0].lower()
    return len(letters) > 1 and letters in "".join(part[0] for word in shown for part in _PLAIN_WORD.findall(word))


def _spread(candidates: Sequence[_Candidate], rng: random.Random) -> list[_Candidate]:
    """In random order, but a sentence's second span after the first ones of all others, and names before phrases."""
    mixed = sorted(rng.sample(candidates, len(candidates)), key=lambda candidate: candidate.span.tier)
    turns: Counter[str] = Counter()
    ranked: list[tuple[int, _Candidate]] = []
    for candidate in mixed:
        ranked.append((turns[candidate.sentence], candidate))
        turns[candidate.sentence] += 1
    return [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])]


def _record(document: Mapping[str, Any], number: int, candidate: _Candidate) -> dict[str, Any]:
    record = {
        "id": f"{document['id']}#cloze{number}", "question": candidate.question, "answers": [candidate.answer],
        "supporting_ids": [document["id"]], "hops": 1, "kind": "cloze",
    }
    parent = (document.get("metadata") or {}).get("parent")
    return record | ({"parent": parent} if isinstance(parent, str) else {})


def split_by_document(
    questions: Sequence[Mapping[str, Any]], *, test_share: float
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Training and test questions; all questions of a document fall on the same side, by a stable hash of its id.

    So do questions about passages of one document that carry its id as "parent", unless there is only that document.
    With 0 < test_share < 1 and two documents or more, neither side is empty.
    """
    owners = [question.get("parent") or "|".join(question["supporting_ids"]) for question in questions]
    if len(set(owners)) == 1:
        owners = ["|".join(question["supporting_ids"]) for question in questions]
    places = {owner: random.Random(owner).random() for owner in owners}
    is_test = {owner: place < test_share for owner, place in places.items()}
    if 0 < test_share < 1 and len(places) > 1 and len(set(is_test.values())) == 1:
        # few documents may all fall on one side: the one nearest to the other side changes it
        nearest = min(places, key=lambda owner: abs(places[owner] - test_share))
        is_test[nearest] = not is_test[nearest]
    train = [question for question, owner in zip(questions, owners, strict=True) if not is_test[owner]]
    return train, [question for question, owner in zip(questions, owners, strict=True) if is_test[owner]]
