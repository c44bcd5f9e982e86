"""Answers: generated ids to what they say, and what a model wrote kept word for word beside what it says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer


@dataclass(frozen=True, kw_only=True)
class ParsedAnswer:
    text: str                      # answer without marks, stripped
    citations: list[int]           # slots, in order of appearance, each once, all < number of documents
    abstained: bool
    closest: list[int]             # slots of documents about the asked thing that do not answer; only when abstained
    is_finished: bool              # assistant_end was written


def parse_answer(ids: Iterable[int], tokenizer: Tokenizer, documents: Sequence[Mapping[str, Any]]) -> ParsedAnswer:
    """Read an answer from the ids after assistant_start, up to assistant_end: the inverse of `render`.

    Any ids are understood: a citation of a slot without a document is left out, and so is a repeated one. An answer
    that was cut before its text cites nothing.
    """
    end, cite, abstain = (tokenizer.special(name) for name in ("assistant_end", "cite", "abstain"))
    answer: list[int] = []
    is_finished = False
    for token in ids:
        if token == end:
            is_finished = True
            break
        answer.append(token)
    text = tokenizer.decode(answer).strip()
    named = [tokenizer.doc_index(after) for token, after in zip(answer, answer[1:], strict=False) if token == cite]
    slots = list(dict.fromkeys(slot for slot in named if slot is not None and slot < len(documents)))
    return ParsedAnswer(
        text=text,
        citations=slots if text else [],
        abstained=abstain in answer,
        closest=slots if abstain in answer and not text else [],
        is_finished=is_finished,
    )


def written_query(hop: Mapping[str, Any], tokenizer: Tokenizer) -> Sequence[int] | None:
    """The `ids` of a hop, as a model wrote them behind query_start, if they spell its query; None otherwise."""
    ids = hop.get("ids")
    if ids and are_text(ids, tokenizer) and tokenizer.decode(ids).strip() == hop["query"].strip():
        return ids
    return None


def written_answer(message: Mapping[str, Any], tokenizer: Tokenizer) -> Sequence[int] | None:
    """The `ids` of an assistant message, as a model wrote them behind assistant_start, if they say what it says."""
    ids = message.get("ids")
    if not ids:
        return None
    marks = {tokenizer.special("cite"), tokenizer.special("abstain"), *tokenizer.doc_ids}
    body = ids[:-1] if ids[-1] == tokenizer.special("assistant_end") else ids
    if not are_text([id for id in body if id not in marks], tokenizer):
        return None
    read = parse_answer(ids, tokenizer, [{}] * NUM_DOC_SLOTS)
    abstains = bool(message.get("abstain"))
    told = ParsedAnswer(
        text="" if abstains else message["content"].strip(),
        citations=list(dict.fromkeys(message.get("citations", ()))),
        abstained=abstains,
        closest=list(dict.fromkeys(message.get("closest", ()))),
        is_finished=read.is_finished,
    )
    return ids if read == told else None


def are_text(ids: Iterable[int], tokenizer: Tokenizer) -> bool:
    """Whether these are ids of words, none of them reserved."""
    return all(0 <= id < tokenizer.vocab_size and not tokenizer.is_reserved(id) for id in ids)
