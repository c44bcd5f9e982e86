"""Questions of two hops: the answer to one question is what another one is about."""

import re
from collections import defaultdict
from collections.abc import Sequence

from nanochat.rag.filters import key_of
from nanochat.rag.library import Library, Record, folded

MAX_ANSWER_WORDS = 5
_OF = re.compile(r"(?:In (?P<title>.{1,120}?), )?[Ww]hat is (?P<thing>the .+ of .+)\?")
_BY = re.compile(r"Who (?P<verb>is|are|was|were) (?P<what>.+) by\?")
_WHERE = re.compile(r"Where (?P<verb>is|are|was|were) (?P<what>.+) (?P<done>[a-z]+)\?")


def composed(questions: Sequence[Record], library: Library, limit: int) -> list[Record]:
    """At most `limit` questions of kind "bridge", in order of their second part; one for each pair of documents.

    "What is the population of Oslo?" becomes "What is the population of the capital of Norway?" where another document
    says that this is Oslo. Documents that name both ends themselves would answer alone, so such pairs are left out.
    """
    first_of: dict[str, list[Record]] = defaultdict(list)
    for question in questions:
        if question["hops"] == 1 and len(question["answers"][0].split()) <= MAX_ANSWER_WORDS and described(question):
            first_of[folded(question["answers"][0])].append(question)
    found: list[Record] = []
    pairs: set[tuple[str, str]] = set()
    for second in questions:
        # a sentence with a blank does not read well with another one inside
        subject = second.get("subject", "") if second["kind"] != "cloze" else ""
        for first in first_of.get(folded(subject), []) if subject else []:
            pair = first["answer_id"], second["answer_id"]
            if len(found) >= limit:
                return found
            if pair[0] == pair[1] or pair in pairs or second["question"].count(subject) != 1:
                continue
            asked = second["question"].replace(subject, described(first))
            answer = second["answers"][0]
            is_shown = folded(answer) in folded(asked) or key_of(asked) == key_of(first["question"])
            # evidence of the first hop that holds the answer, too, would be enough
            if not is_shown and not library.holds(library.position_of[pair[0]], answer):
                pairs.add(pair)
                found.append(_record(first, second, asked))
    return found


def described(question: Record) -> str:
    """What a question asks for, as words in the middle of a sentence; "" where that cannot be said so."""
    asked = question["question"]
    if found := _OF.fullmatch(asked):
        return f"{found['thing']} in {found['title']}" if found["title"] else found["thing"]
    if found := _BY.fullmatch(asked):
        words = found["what"].rsplit(" ", 1)
        return f"the one by whom {words[0]} {found['verb']} {words[1]}" if len(words) == 2 else ""
    if found := _WHERE.fullmatch(asked):
        return f"the place where {found['what']} {found['verb']} {found['done']}"
    return ""


def _record(first: Record, second: Record, asked: str) -> Record:
    same = {name: second[name] for name in ("answers", "answer_id", "answer_start", "answer_end")}
    return {"id": f"{second['id']}~{first['id']}", "question": asked, **same, "hops": 2, "kind": "bridge",
            "supporting_ids": [first["answer_id"], second["answer_id"]], "bridge": first["answers"][0]}
