"""Pieces of a conversation to ids and mask: slots handed out in order, documents paying for the budget."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.chat_format.pieces import Cited, Given, Piece, Run, Written, hop_pieces, pieces_of
from nanochat.conversation import check_conversation
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
    positions: tuple[int, ...] = ()  # of the documents shown: each one's place among all that the conversation gives


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
    known. In a multi-hop turn every hop looks like that: its query, results, and the query again in the place of a
    question. A first query that repeats the question is not written, so one hop alone has the ids of a plain turn;
    before another first query stands the question. A query may begin with `citations` of documents shown before it:
    those that made it ask.

    Supervised (mask 1) are answers, citations, abstentions, assistant_end, the queries with their marks, unless the hop
    has `"supervised": false`, and the assistant_start of a multi-hop turn: to search no more is a decision, unless the
    answer was `"forced": true`. `for_generation` ends after the last assistant_start, which then is not supervised, and
    leaves out an answer that is there. `ids` of a hop or of an assistant message are what a model wrote behind
    query_start or assistant_start; they are taken as they are while they say what the message says, so that what was
    sampled is what is trained on.

    A document is `doc_i title doc_i content`, without a title `doc_i content`; an answer is its citations, each
    `cite doc_i`, and then its text. An abstention may name the `closest` document in the same way: which document
    speaks of a thing and whether it says what was asked are two decisions, and tiny models make them one by one.

    Documents pay for `max_tokens`, worst rank first and, at equal rank, the older group first; the last one kept may
    lose its tail. Questions and answers are always whole: if they alone exceed max_tokens, so does the result, without
    documents. `max_doc_tokens` cuts the tail of every document. A citation of a dropped document is left out, and
    counted; the answer stays. Raises ConversationError for an illegal conversation.
    """
    check_conversation(conversation)
    pieces = list(pieces_of(conversation["messages"], tokenizer, max_doc_tokens=max_doc_tokens,
                            for_generation=for_generation))
    groups = [piece for piece in pieces if isinstance(piece, list)]
    room = None
    if max_tokens is not None:
        # every citation is counted as written, so leaving some out can only help
        room = max_tokens - sum(map(_cost, pieces))
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
        positions=tuple(writer.shown),
        lost_tokens=sum(given.num_cut + len(given.ids) - writer.shown.get(given.index, 0)
                        for group in groups for given in group),
    )


def render_hop(hop: Mapping[str, Any], tokenizer: Tokenizer, *, first_slot: int) -> tuple[list[int], list[int]]:
    """Ids and mask that a hop with a query of its own adds to a turn, behind `first_slot` documents: all are shown, and
    each has the slot of its position.
    """
    writer = _Writer(tokenizer, None, first_slot=first_slot)
    writer.know(range(first_slot))
    for piece in hop_pieces(hop, first_slot, tokenizer):
        writer.write(piece)
    return writer.ids, writer.mask


class _Writer:
    """Writes pieces one after the other and hands out slots in order of writing."""

    def __init__(self, tokenizer: Tokenizer, kept: Mapping[int, int] | None, *, first_slot: int = 0) -> None:
        """kept: tokens of each document that is kept, by its place in the conversation; None: all of all."""
        self.ids: list[int] = []
        self.mask: list[int] = []
        self.documents: list[dict] = []
        self.trimmed: list[int] = []
        self.lost_citations = 0
        self.shown: dict[int, int] = {}  # tokens of each document written, by its place in the conversation
        self._tokenizer = tokenizer
        self._kept, self._first_slot = kept, first_slot
        self._slots: dict[int, int] = {}

    def write(self, piece: Piece) -> None:
        if isinstance(piece, Run):
            self._extend(piece.ids, piece.mask)
        elif isinstance(piece, list):
            self._extend([self._tokenizer.special("results_start")], 0)
            for given in piece:
                num_tokens = len(given.ids) if self._kept is None else self._kept.get(given.index)
                if num_tokens is not None:
                    self._write_document(given, num_tokens)
            self._extend([self._tokenizer.special("results_end")], 0)
        elif isinstance(piece, Written):
            slots = map(self._tokenizer.doc_index, piece.ids)
            if all(slot is None or self._slots.get(slot) == slot for slot in slots):
                self._extend(piece.ids, 1)
            else:
                for told in piece.told:
                    self.write(told)
        elif isinstance(piece, Cited) and piece.position in self._slots:
            slot = self._slots[piece.position]
            self._extend([self._tokenizer.special("cite"), self._tokenizer.doc(slot)], piece.mask)
        else:
            self.lost_citations += 1

    def know(self, slots: Iterable[int]) -> None:
        """Documents that were shown before, each in the slot of its position."""
        self._slots.update((slot, slot) for slot in slots)

    def _write_document(self, given: Given, num_tokens: int) -> None:
        slot = self._first_slot + len(self.documents)
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


def _cost(piece: Piece) -> int:
    """Tokens of a piece, its documents not counted."""
    if isinstance(piece, Written):
        return max(len(piece.ids), sum(map(_cost, piece.told)))
    return len(piece.ids) if isinstance(piece, Run) else 2


def _choose(groups: list[list[Given]], room: int | None) -> dict[int, int]:
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
