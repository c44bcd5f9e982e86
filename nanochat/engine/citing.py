"""What an answer cites: the documents, and in each the passage that states the answer, with character offsets."""

import os
import re
from collections.abc import Mapping
from typing import Any

from nanochat.chat_format import ParsedAnswer, Rendered, text_ids
from nanochat.text import find_passage
from nanochat.tokenizer import Tokenizer

# between two values where the shown documents contradict each other
_EITHER = re.compile(r"\s+or\s+")


def cite(answer: ParsedAnswer, prompt: Rendered, tokenizer: Tokenizer, *, question: str = "") -> list[dict[str, Any]]:
    """A record per citation, in order: slot, number, id, title; start, end, passage and match.

    passage is content[start:end] of the document: the sentence that states the answer (nanochat.text.find_passage),
    from what was shown of it. Where nothing fits start and end are None, passage and match "". Of an answer "V1 or V2",
    which is how contradicting documents are answered, the n-th of as many citations is looked up for the n-th value
    first.
    """
    values = _EITHER.split(answer.text)
    records = []
    for number, slot in enumerate(answer.citations):
        document = prompt.documents[slot]
        own = [values[number]] if len(values) == len(answer.citations) else []
        wanted = [answer.text, *own, *values] if len(values) > 1 else values
        found = find_passage(document["content"], wanted, question=question, end=shown_chars(prompt, slot, tokenizer))
        records.append({
            "slot": slot, "number": slot + 1, "id": document["id"], "title": document["title"],
            "start": found.start if found else None, "end": found.end if found else None,
            "passage": found.text if found else "", "match": found.match if found else "",
        })
    return records


def trimmed(prompt: Rendered, tokenizer: Tokenizer) -> list[dict[str, int]]:
    """slot, number and shown_chars, characters of its content, of every document shown without its end."""
    return [{"slot": slot, "number": slot + 1, "shown_chars": shown_chars(prompt, slot, tokenizer)}
            for slot in prompt.trimmed]


def last_question(conversation: Mapping[str, Any]) -> str:
    """What the user of a legal conversation asked last."""
    return next(message["content"] for message in reversed(conversation["messages"]) if message["role"] == "user")


def shown_chars(prompt: Rendered, slot: int, tokenizer: Tokenizer) -> int:
    """How many characters of a document's content the prompt holds, from its beginning."""
    document = prompt.documents[slot]
    content = document["content"]
    if slot not in prompt.trimmed:
        return len(content)
    mark, citing = tokenizer.doc(slot), tokenizer.special("cite")
    places = [at for at, id in enumerate(prompt.ids) if id == mark and prompt.ids[at - 1] != citing]
    if len(places) <= bool(text_ids(document["title"], tokenizer)):
        return 0
    start = end = places[-1] + 1
    while end < len(prompt.ids) and not tokenizer.is_reserved(prompt.ids[end]):
        end += 1
    begin = len(content) - len(content.lstrip())
    # a character that lost some of its bytes differs, and so does all that follows
    return begin + len(os.path.commonprefix([tokenizer.decode(prompt.ids[start:end]).lstrip(), content[begin:]]))
