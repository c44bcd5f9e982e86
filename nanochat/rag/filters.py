"""Which questions are worth training on: every filter is a function, and what it takes away is counted.

A question stays if its answer stands in its evidence, if somebody who does not see that document could have asked it,
if the retriever finds the evidence, if no other document says something else, and if guessing does not answer it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from nanochat.rag.library import Library, Record, folded, normal
from nanochat.retrieval.words.analysis import analyze

FREQUENT_SHARE = 0.05  # of the answers of a kind: what is given more often can be guessed
FREQUENT_COUNT = 3  # an answer may be given so often in any case
MAX_OTHERS = 2  # other documents that state the same; with more of them the answer is common knowledge here
FETCHED = 50  # hits that are looked at, and from which distractors are taken

REFERS = re.compile(
    r"(?i)\b(?:(?:this|that|above|following|given|provided) (?:passage|text|document|article|paragraph|section|page"
    r"|figure|table|image|picture|chapter|excerpt|context|author|story|example|diagram|chart|list)"
    r"|the (?:passage|text|document|article|excerpt|paragraph|context|author|narrator|speaker)(?! of\b)"
    r"|(?:mentioned|described|shown|listed|discussed|stated|given) (?:above|below|here|in the)|according to the (?!law)"
    r"|(?:figure|table|section|chapter|example|equation) \d|in the (?:first|last|second) (?:sentence|line))\b"
)
REASONS = {
    "verbatim": "the answer does not stand in the document, word for word",
    "refers": "the question speaks of the passage, a figure, or something above",
    "shown": "the question holds its own answer",
    "duplicate": "another question asks the same",
    "ambiguous": "other documents answer it, too, or answer it otherwise",
    "frequent": "the answer is one of the most frequent ones, so that guessing finds it",
    "retrieval": "the retriever does not find the document",
    "closed_book": "the model answers it without documents",
    "surplus": "the document has more questions than were asked for",
}
# reason -> what to change when a filter takes everything
REMEDIES = {
    "verbatim": "let the teacher quote: try another --teacher_model",
    "refers": "try another --teacher_model, or documents that do not speak of themselves",
    "shown": "give documents of whole sentences, with names and numbers in them",
    "duplicate": "remove repeated documents: nanochat kb lint DOCUMENTS shows them",
    "ambiguous": "remove repeated documents: nanochat kb lint DOCUMENTS shows them",
    "frequent": "give more documents, with different facts",
    "retrieval": "raise --filter_top_k, or choose another --retriever_type",
    "closed_book": "leave out --closed_book_source",
    "surplus": "raise --questions_per_document",
}


def stands_in(question: Record, library: Library) -> bool:
    """Whether the place that the question names holds its answer."""
    document = library.documents[library.position_of[question["answer_id"]]]
    place = document["content"][question["answer_start"] : question["answer_end"]]
    return bool(place.strip()) and normal(place) == question["answers"][0]


def local_filters(questions: Iterable[Record], library: Library, taken: Counter[str]) -> list[Record]:
    """The questions that pass what can be told without a search. Counts the others by reason in `taken`."""
    kept: list[Record] = []
    for question in questions:
        answer = folded(question["answers"][0])
        if not stands_in(question, library):
            taken["verbatim"] += 1
        elif REFERS.search(question["question"]):
            taken["refers"] += 1
        elif len(answer) <= 2 or answer in folded(question["question"]):
            taken["shown"] += 1
        else:
            kept.append(question)
    return _without_duplicates(kept, taken)


def _without_duplicates(questions: Sequence[Record], taken: Counter[str]) -> list[Record]:
    """The first of questions with the same content words; none of them where documents answer differently."""
    alike: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for question in questions:
        alike[key_of(question["question"])].append(question)
    kept: list[Record] = []
    for group in alike.values():
        owners = {question["answer_id"]: folded(question["answers"][0]) for question in reversed(group)}
        if len(set(owners.values())) > 1 or len(owners) > 1 + MAX_OTHERS:
            taken["ambiguous"] += len(group)
            continue
        first = group[0]
        others = [name for name in owners if name != first["answer_id"]]
        kept.append(first | ({"also_ids": others} if others else {}))
        taken["duplicate"] += len(group) - 1
    order = {question["id"]: place for place, question in enumerate(questions)}
    return sorted(kept, key=lambda question: order[question["id"]])


def key_of(question: str) -> tuple[str, ...]:
    """Equal for questions that differ in function words, endings, case and order only."""
    words = analyze(question)
    # "who" and "when" are stop words, and all that tells two questions about one event apart
    asked = re.search(r"\b(who|whom|when|where|why|how many|how much|how)\b", question.lower())
    return (*sorted(set(words)), asked[1] if asked else "") if words else (question,)


def frequent(questions: Sequence[Record], taken: Counter[str]) -> list[Record]:
    """Without the later questions of a kind whose answer FREQUENT_COUNT others, and FREQUENT_SHARE of all, have."""
    totals = Counter(question["kind"] for question in questions)
    given: Counter[tuple[str, str]] = Counter()
    kept: list[Record] = []
    for question in questions:
        key = question["kind"], folded(question["answers"][0])
        given[key] += 1
        if given[key] > max(FREQUENT_COUNT, FREQUENT_SHARE * totals[question["kind"]]):
            taken["frequent"] += 1
        else:
            kept.append(question)
    return kept


def found_filters(
    questions: Sequence[Record], library: Library, taken: Counter[str], *, top_k: int
) -> tuple[list[Record], list[list[int]]]:
    """The questions whose evidence is among the first top_k hits and that no other hit answers, and their hits.

    Documents that state the same answer about the same thing are named in also_ids, at most MAX_OTHERS.
    """
    hits = library.search([question["question"] for question in questions], max(top_k, FETCHED), None)
    kept: list[Record] = []
    ranked: list[list[int]] = []
    for question, row in zip(questions, hits, strict=True):
        position = library.position_of[question["answer_id"]]
        if position not in row[:top_k]:
            taken["retrieval"] += 1
            continue
        others = list(dict.fromkeys([*question.get("also_ids", []), *_others(question, row, library)]))
        if len(others) > MAX_OTHERS:
            taken["ambiguous"] += 1
            continue
        kept.append(question | ({"also_ids": others} if others else {}))
        ranked.append(row)
    return kept, ranked


def _others(question: Record, row: Sequence[int], library: Library) -> list[str]:
    """Ids of other hits that hold the answer and all content words of the question."""
    answer, asked = question["answers"][0], question["question"]
    return [library.documents[position]["id"] for position in row
            if library.documents[position]["id"] != question["answer_id"] and library.holds(position, answer)
            and library.speaks_of(position, asked)]


def closed_book(
    questions: Sequence[Record], hits: Sequence[list[int]], knows: Callable[[Sequence[Record]], Sequence[bool]],
    taken: Counter[str],
) -> tuple[list[Record], list[list[int]]]:
    """The questions, and their hits, that a model does not answer without documents: `knows` says which it does."""
    known = knows(questions)
    kept = [(question, row) for question, row, is_known in zip(questions, hits, known, strict=True) if not is_known]
    taken["closed_book"] += len(questions) - len(kept)
    return [question for question, _ in kept], [row for _, row in kept]


def capped(
    questions: Sequence[Record], hits: Sequence[list[int]], per_document: int, taken: Counter[str]
) -> tuple[list[Record], list[list[int]]]:
    """The first `per_document` questions of each document, and their hits."""
    counts: Counter[str] = Counter()
    kept = []
    for question, row in zip(questions, hits, strict=True):
        counts[question["answer_id"]] += 1
        if counts[question["answer_id"]] <= per_document:
            kept.append((question, row))
    taken["surplus"] += len(questions) - len(kept)
    return [question for question, _ in kept], [row for _, row in kept]
