"""A conversation as pieces in the order in which a model reads them: runs of ids, groups of documents, citations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.chat_format.answers import written_answer, written_query
from nanochat.tokenizer import Tokenizer


@dataclass(frozen=True)
class Given:
    """A document on its way into a context: its place in the conversation, its rank in its group, its tokens."""

    index: int
    rank: int
    document: Mapping[str, Any]
    ids: Sequence[int]             # what follows its slot id: title, a place for the slot id again, content
    mark_at: int                   # that place; -1 without a title
    is_trimmed: bool
    num_cut: int                   # tokens that max_doc_tokens took from its tail


@dataclass(frozen=True)
class Run:
    """Ids with one mask value."""

    ids: Sequence[int]
    mask: int


@dataclass(frozen=True)
class Cited:
    """A citation of the document at a position of the conversation."""

    position: int
    mask: int = 1


@dataclass(frozen=True)
class Written:
    """An answer as a model wrote it. It stands while the documents have the slots it names, otherwise `told` does."""

    ids: Sequence[int]
    told: Sequence[Run | Cited]


Piece = Run | list[Given] | Cited | Written


def text_ids(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of a text with one space before it: a name has the same ids in a title, a sentence and an answer."""
    text = text.strip()
    return tokenizer.encode_cached(" " + text) if text else ()


def document_ids(document: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[tuple[int, ...], int]:
    """Ids of a document behind its first slot id, and where among them the slot id stands again; -1 without a title.

    The second mark parts title from content. A model that looks for a name then finds the slot right behind it, as
    what follows, which tiny models learn to use long before they carry a mark along.
    """
    title = text_ids(document["title"], tokenizer)
    content = text_ids(document["content"], tokenizer)
    return (title + (0,) + content, len(title)) if title else (content, -1)


def pieces_of(
    messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, *, max_doc_tokens: int | None, for_generation: bool
) -> Iterator[Piece]:
    """The pieces of a legal conversation, as nanochat.chat_format.render describes them."""
    yield Run([tokenizer.special("bos")], 0)
    num_documents = 0
    turns = _turns(messages)
    for turn in turns:
        if "system" in turn and turn["system"]["content"].strip():
            yield _marked("system", turn["system"]["content"], tokenizer)
        question = turn["user"]["content"].strip()
        is_multi_hop = bool(turn.get("retrieval", {}).get("multi_hop"))
        hops = _hops(turn, question)
        begins_with_question = bool(hops) and hops[0]["query"].strip() == question
        if not begins_with_question:
            yield _marked("user", question, tokenizer)
        for number, hop in enumerate(hops):
            is_question = begins_with_question and number == 0
            yield from hop_pieces(hop, num_documents, tokenizer, max_doc_tokens, is_question=is_question)
            num_documents += len(hop["documents"])
        if for_generation and turn is turns[-1]:
            yield Run([tokenizer.special("assistant_start")], 0)
        elif "assistant" in turn:
            is_decision = is_multi_hop and not turn["assistant"].get("forced")
            yield Run([tokenizer.special("assistant_start")], int(is_decision))
            yield from _answer_pieces(turn["assistant"], tokenizer)


def hop_pieces(
    hop: Mapping[str, Any], first: int, tokenizer: Tokenizer, max_doc_tokens: int | None = None, *,
    is_question: bool = False,
) -> Iterator[Piece]:
    """Query, results, and the query once more in the place of a question; `first`: position of the first document."""
    if not is_question:
        mask = int(hop.get("supervised", True))
        query = written_query(hop, tokenizer) or text_ids(hop["query"], tokenizer)
        yield Run([tokenizer.special("query_start")], mask)
        # which document made it ask, as an answer says where it is from
        yield from (Cited(position, mask) for position in dict.fromkeys(hop.get("citations", ())))
        yield Run([*query, tokenizer.special("query_end")], mask)
    yield [_given(each, first + rank, rank, tokenizer, max_doc_tokens) for rank, each in enumerate(hop["documents"])]
    yield _marked("user", hop["query"], tokenizer)


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Mapping[str, Any]]]:
    """Messages of each turn by role; the system message belongs to the first."""
    turns: list[dict[str, Mapping[str, Any]]] = [{}]
    for message in messages:
        if "assistant" in turns[-1]:
            turns.append({})
        turns[-1][message["role"]] = message
    return turns


def _hops(turn: Mapping[str, Mapping[str, Any]], question: str) -> Sequence[Mapping[str, Any]]:
    """The hops of a turn; what a plain turn was shown is one hop, searched for with the question."""
    if "retrieval" not in turn:
        return []
    message = turn["retrieval"]
    return message["hops"] if message.get("multi_hop") else [{"query": question, "documents": message["documents"]}]


def _marked(role: str, text: str, tokenizer: Tokenizer) -> Run:
    return Run([tokenizer.special(f"{role}_start"), *text_ids(text, tokenizer), tokenizer.special(f"{role}_end")], 0)


def _answer_pieces(message: Mapping[str, Any], tokenizer: Tokenizer) -> Iterator[Piece]:
    abstains = bool(message.get("abstain"))
    # choosing the document is a step of its own, and the answer is read where it points
    named = dict.fromkeys(message.get("closest" if abstains else "citations", ()))
    told: list[Run | Cited] = [Cited(position) for position in named]
    told.append(Run([tokenizer.special("abstain")] if abstains else text_ids(message["content"], tokenizer), 1))
    told.append(Run([tokenizer.special("assistant_end")], 1))
    written = written_answer(message, tokenizer)
    if written is None:
        yield from told
    else:
        yield Written(written, told)


def _given(
    document: Mapping[str, Any], index: int, rank: int, tokenizer: Tokenizer, max_doc_tokens: int | None
) -> Given:
    ids, mark_at = document_ids(document, tokenizer)
    kept = ids if max_doc_tokens is None else ids[:max_doc_tokens]
    num_cut = len(ids) - len(kept)
    return Given(index, rank, document, kept, mark_at, num_cut > 0, num_cut)
