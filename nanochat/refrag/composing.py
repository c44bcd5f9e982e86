"""Questions of two hops over the user's own documents: two questions of one hop, linked by a name.

Where the answer to one question is what another one asks about, the second can be asked without the name: "Who is
Colin Meloy?" becomes "Who is the one by whom the lyrics were written?". Such questions are as good as the two that they
are made of; people should read and edit them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from nanochat.rag.composing import MAX_ANSWER_WORDS, described
from nanochat.rag.filters import FETCHED, REFERS, key_of
from nanochat.rag.library import Library, Record, folded
from nanochat.rag.spans import names_nothing
from nanochat.rag.synthesis import BLANK, PROMPT

MAX_QUERY_WORDS = 20  # of the second question, which a model must be able to write
MAX_WORDS = 45  # of the whole question
MAX_HOLDERS = 8  # documents that hold the name between: what stands everywhere is no name of one thing
PER_SECOND = 3  # questions made from one second question
KEPT_APART = 10  # where the question itself finds the second document among so many hits, a second search is a detour
REASONS = {
    "shown": "the question, or the first document, holds the answer or the name between",
    "common": "the name between stands in too many documents",
    "refers": "the question speaks of the passage, a figure, or something above",
    "long": "the question is too long",
    "duplicate": "two documents are linked once, a question is asked once, and its second half a few times",
    "retrieval": "the retriever does not find the first document by the question",
}
_WHO = re.compile(r"Who (?P<rest>(?:was|were|is|are|has|had|[a-z]+ed|[a-z]+[^aeious]s|wrote|made|led|won|built) .+)\?")
_WHICH = re.compile(
    r"(?:What|Which) (?P<thing>[a-z][a-z -]{1,40}?) (?P<rest>(?:was|were|is|are|has|had|[a-z]+ed) .+)\?")
_CLOZE = re.compile(rf"{PROMPT}(?: \((?P<title>.+?)\))?: (?P<window>.+)")


def chains_of(
    questions: Sequence[Record], library: Library, *, limit: int, top_k: int, taken: Counter[str]
) -> list[Record]:
    """At most `limit` questions of two hops from those of one hop, in order of their second part.

    Records as in tasks/world_chains.py: supporting_ids in hop order, steps with query, subject, answer and document_id;
    kind "chain". `is_apart`: whether the question alone does not find the second document among the first KEPT_APART.
    What is left out is counted in `taken`, by the names of REASONS.
    """
    drafts = list(_unique(_linked(questions), library, taken))
    hits = library.search([draft["question"] for draft in drafts], max(top_k, FETCHED), None) if drafts else []
    kept: list[Record] = []
    for draft, row in zip(drafts, hits, strict=True):
        first, second = (library.position_of[name] for name in draft["supporting_ids"])
        if first not in row[:top_k]:
            taken["retrieval"] += 1
        elif len(kept) < limit:
            kept.append(draft | {"is_apart": second not in row[:KEPT_APART]})
    return kept


def _linked(questions: Sequence[Record]) -> Iterator[tuple[Record, Record, str]]:
    """(first, second, the words that describe the first one's answer) of all pairs that are linked by a name."""
    first_of: dict[str, list[tuple[Record, str]]] = defaultdict(list)
    for question in questions:
        if question.get("hops", 1) != 1 or not question["answers"]:
            continue
        answer = question["answers"][0]
        if len(answer.split()) <= MAX_ANSWER_WORDS and answer[:1].isupper() and not names_nothing(answer):
            if words := described(question) or described_otherwise(question):
                first_of[folded(answer)].append((question, words))
    for second in questions:
        # a sentence with a blank does not read well with another one inside
        subject = second.get("subject", "") if second["kind"] != "cloze" and second["answers"] else ""
        for first, words in first_of.get(folded(subject), []) if subject else []:
            yield first, second, words


def described_otherwise(question: Record) -> str:
    """What a question asks for, as words in the middle of a sentence, where nanochat.rag.composing knows none."""
    asked = question["question"]
    if found := _WHO.fullmatch(asked):
        return f"the one who {found['rest']}"
    if found := _WHICH.fullmatch(asked):
        return f"the {found['thing']} that {found['rest']}"
    if (found := _CLOZE.fullmatch(asked)) and found["window"].count(BLANK) == 1:
        about = f" ({found['title']})" if found["title"] else ""
        return f"the one left out in \"{found['window'].rstrip('.')}\"{about}"
    return ""


def _unique(
    pairs: Iterator[tuple[Record, Record, str]], library: Library, taken: Counter[str]
) -> Iterator[Record]:
    """The questions that pass what can be told without a search."""
    linked: set[tuple[str, str]] = set()
    asked_before: set[tuple[str, ...]] = set()
    uses: Counter[str] = Counter()
    for first, second, words in pairs:
        name, answer, subject = first["answers"][0], second["answers"][0], second["subject"]
        names = first["answer_id"], second["answer_id"]
        if names[0] == names[1] or second["question"].count(subject) != 1:
            continue
        asked = second["question"].replace(subject, words)
        key = key_of(asked)
        if names in linked or key in asked_before or uses[second["id"]] == PER_SECOND:
            taken["duplicate"] += 1
        elif len(library.holders(name)) > MAX_HOLDERS:
            taken["common"] += 1
        elif REFERS.search(asked):
            taken["refers"] += 1
        elif any(folded(part) in folded(asked) for part in (name, answer)) or library.holds(
            library.position_of[names[0]], answer
        ):
            taken["shown"] += 1
        elif len(second["question"].split()) > MAX_QUERY_WORDS or len(asked.split()) > MAX_WORDS:
            taken["long"] += 1
        else:
            linked.add(names)
            uses[second["id"]] += 1
            asked_before.add(key)
            yield _record(first, second, asked)


def _record(first: Record, second: Record, asked: str) -> dict[str, Any]:
    steps = [{"query": asked, "subject": first.get("subject", ""), "answer": first["answers"][0],
              "document_id": first["answer_id"]},
             {"query": second["question"], "subject": second["subject"], "answer": second["answers"][0],
              "document_id": second["answer_id"]}]
    return {"id": f"{second['id']}~{first['id']}", "question": asked, "answers": second["answers"],
            "supporting_ids": [step["document_id"] for step in steps], "hops": 2, "kind": "chain", "steps": steps}
