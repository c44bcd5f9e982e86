"""The chat format: a conversation to ids and mask, documents paying for the budget, and ids back to an answer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.conversation import check_conversation, result_groups
from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer

# a document trimmed to fewer tokens than this says nothing and is dropped instead
MIN_TRIMMED_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Rendered:
    ids: list[int]                 # (T,)
    mask: list[int]                # (T,) 1 where the token is supervised
    documents: list[dict]          # documents shown, in slot order: documents[i] stands behind doc_i
    dropped: int                   # documents dropped or trimmed for want of tokens or slots
    lost_citations: int            # citations left out because their document was dropped
    trimmed: tuple[int, ...] = ()  # slots of documents that lost their tail
    lost_tokens: int = 0           # tokens of documents that are not shown: of dropped ones, and of lost tails


@dataclass(frozen=True, kw_only=True)
class ParsedAnswer:
    text: str                      # answer without marks, stripped
    citations: list[int]           # slots, in order of appearance, each once, all < number of documents
    abstained: bool
    closest: list[int]             # slots of documents about the asked thing that do not answer; only when abstained
    is_finished: bool              # assistant_end was written


@dataclass(frozen=True)
class _Given:
    """A document on its way into a context: its place in the conversation, its rank in its group, its tokens."""

    index: int
    rank: int
    document: Mapping[str, Any]
    ids: Sequence[int]             # what follows its slot id: title, a place for the slot id again, content
    mark_at: int                   # that place; -1 without a title
    is_trimmed: bool
    num_cut: int                   # tokens that max_doc_tokens took from its tail


# a piece is a run of tokens with one mask value, a group of documents, or the position of a cited document
@dataclass(frozen=True)
class _Run:
    ids: Sequence[int]
    mask: int


_Piece = _Run | list[_Given] | int


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


def render(
    conversation: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    max_tokens: int | None = None,
    max_doc_tokens: int | None = None,
    for_generation: bool = False,
) -> Rendered:
    """Ids and mask of a conversation.

    The order is bos, system, then in every turn results, question, answer, wherever the retrieval message stands: a
    first question and a later one about the same documents look alike, and documents can be cached before a question is
    known. Of a multi-hop turn, whose queries follow from it, the question comes first, then hop by hop query and
    results. A hop's query is written before its results, except when hop 1 repeats the question. Supervised (mask 1)
    are answers, citations, abstentions, assistant_end and the queries with their marks; `for_generation` ends after the
    last assistant_start and leaves out an answer that is there.

    A document is `doc_i title doc_i content`, without a title `doc_i content`; an answer is its citations, each
    `cite doc_i`, and then its text. An abstention may name the `closest` document in the same way: which document
    speaks of a thing and whether it says what was asked are two decisions, and tiny models make them one by one.

    Documents pay for `max_tokens`, worst rank first and, at equal rank, the older group first; the last one kept may
    lose its tail. Questions and answers are always whole: if they alone exceed max_tokens, so does the result, without
    documents. `max_doc_tokens` cuts the tail of every document. A citation of a dropped document is left out, and
    counted; the answer stays. Raises ConversationError for an illegal conversation.
    """
    check_conversation(conversation)
    pieces = list(_pieces(_turns(conversation["messages"]), tokenizer, max_doc_tokens, for_generation))
    groups = [piece for piece in pieces if isinstance(piece, list)]
    room = None
    if max_tokens is not None:
        # every citation is counted as written, so leaving some out can only help
        room = max_tokens - sum(len(piece.ids) if isinstance(piece, _Run) else 2 for piece in pieces)
    writer = _Writer(tokenizer, _choose(groups, room))
    for piece in pieces:
        writer.write(piece)
    return Rendered(
        ids=writer.ids,
        mask=writer.mask,
        documents=writer.documents,
        dropped=sum(map(len, groups)) - len(writer.documents) + len(writer.trimmed),
        lost_citations=writer.lost_citations,
        trimmed=tuple(writer.trimmed),
        lost_tokens=sum(given.num_cut + len(given.ids) - writer.shown.get(given.index, 0)
                        for group in groups for given in group),
    )


class _Writer:
    """Writes pieces one after the other and hands out slots in order of writing."""

    def __init__(self, tokenizer: Tokenizer, kept: Mapping[int, int]) -> None:
        self.ids: list[int] = []
        self.mask: list[int] = []
        self.documents: list[dict] = []
        self.trimmed: list[int] = []
        self.lost_citations = 0
        self.shown: dict[int, int] = {}  # tokens of each document written, by its place in the conversation
        self._tokenizer = tokenizer
        self._kept = kept
        self._slots: dict[int, int] = {}

    def write(self, piece: _Piece) -> None:
        if isinstance(piece, _Run):
            self._extend(piece.ids, piece.mask)
        elif isinstance(piece, list):
            self._extend([self._tokenizer.special("results_start")], 0)
            for given in piece:
                if given.index in self._kept:
                    self._write_document(given, self._kept[given.index])
            self._extend([self._tokenizer.special("results_end")], 0)
        elif piece in self._slots:
            self._extend([self._tokenizer.special("cite"), self._tokenizer.doc(self._slots[piece])], 1)
        else:
            self.lost_citations += 1

    def _write_document(self, given: _Given, num_tokens: int) -> None:
        slot = len(self.documents)
        self._slots[given.index] = slot
        self.shown[given.index] = num_tokens
        self.documents.append(dict(given.document))
        if given.is_trimmed or num_tokens < len(given.ids):
            self.trimmed.append(slot)
        mark, start = self._tokenizer.doc(slot), len(self.ids) + 1
        self._extend([mark, *given.ids[:num_tokens]], 0)
        if 0 <= given.mark_at < num_tokens:
            self.ids[start + given.mark_at] = mark

    def _extend(self, ids: Sequence[int], mask: int) -> None:
        self.ids.extend(ids)
        self.mask.extend([mask] * len(ids))


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


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Mapping[str, Any]]]:
    """Messages of each turn by role; the system message belongs to the first."""
    turns: list[dict[str, Mapping[str, Any]]] = [{}]
    for message in messages:
        if "assistant" in turns[-1]:
            turns.append({})
        turns[-1][message["role"]] = message
    return turns


def _pieces(
    turns: list[dict[str, Mapping[str, Any]]], tokenizer: Tokenizer, max_doc_tokens: int | None, for_generation: bool
) -> Iterator[_Piece]:
    special = tokenizer.special
    yield _Run([special("bos")], 0)
    num_documents = 0
    for turn in turns:
        system = text_ids(turn["system"]["content"], tokenizer) if "system" in turn else ()
        if system:
            yield _Run([special("system_start"), *system, special("system_end")], 0)
        question = turn["user"]["content"].strip()
        asked = _Run([special("user_start"), *text_ids(question, tokenizer), special("user_end")], 0)
        is_multi_hop = bool(turn.get("retrieval", {}).get("multi_hop"))
        if is_multi_hop:
            yield asked
        for hop, (query, documents) in enumerate(_groups_of(turn), start=1):
            is_question = hop == 1 and query.strip() == question
            if query and not is_question:
                yield _Run([special("query_start"), *text_ids(query, tokenizer), special("query_end")], 1)
            yield [_given(d, num_documents + i, i, tokenizer, max_doc_tokens) for i, d in enumerate(documents)]
            num_documents += len(documents)
        if not is_multi_hop:
            yield asked
        if for_generation and turn is turns[-1]:
            yield _Run([special("assistant_start")], 0)
        elif "assistant" in turn:
            yield from _answer_pieces(turn["assistant"], tokenizer)


def _groups_of(turn: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    return result_groups(turn["retrieval"]) if "retrieval" in turn else []


def _answer_pieces(message: Mapping[str, Any], tokenizer: Tokenizer) -> Iterator[_Piece]:
    yield _Run([tokenizer.special("assistant_start")], 0)
    if message.get("abstain"):
        yield from dict.fromkeys(message.get("closest", ()))
        yield _Run([tokenizer.special("abstain")], 1)
    else:
        # choosing the document is a step of its own, and the answer is read where it points
        yield from dict.fromkeys(message.get("citations", ()))
        yield _Run(text_ids(message["content"], tokenizer), 1)
    yield _Run([tokenizer.special("assistant_end")], 1)


def _given(
    document: Mapping[str, Any], index: int, rank: int, tokenizer: Tokenizer, max_doc_tokens: int | None
) -> _Given:
    ids, mark_at = document_ids(document, tokenizer)
    kept = ids if max_doc_tokens is None else ids[:max_doc_tokens]
    num_cut = len(ids) - len(kept)
    return _Given(index, rank, document, kept, mark_at, num_cut > 0, num_cut)


def _choose(groups: list[list[_Given]], room: int | None) -> dict[int, int]:
    """How many tokens each kept document may have, by its position in the conversation."""
    # best rank first; at equal rank the newest group first, whose question is being answered
    by_rank = sorted((given for group in groups for given in group), key=lambda given: (given.rank, -given.index))
    kept: dict[int, int] = {}
    for given in by_rank[:NUM_DOC_SLOTS]:
        cost = 1 + len(given.ids)
        if room is not None and cost > room:
            if room - 1 >= MIN_TRIMMED_TOKENS:
                kept[given.index] = room - 1
            break
        kept[given.index] = len(given.ids)
        room = None if room is None else room - cost
    return kept
