"""One question on its way through its hops: what was asked and shown so far, as messages, ids and mask."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanochat.chat_format import MIN_TRIMMED_TOKENS, Rendered, document_ids, render, render_hop, text_ids
from nanochat.conversation import check_conversation
from nanochat.errors import UserError
from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer

NUM_QUERY_MARKS = 4  # around a query, and the citation that it begins with
# marks of a hop: of its query, around its results and the query in the place of a question; and assistant_start
_NUM_MARKS = NUM_QUERY_MARKS + 5
# at the end of a query they change nothing
_END_MARKS = " .?!,;:"


class Trail:
    """The last turn of a conversation while its hops come in.

    Ids and mask are at every moment those that nanochat.chat_format.render gives for the messages, up to documents of
    earlier turns, and of hops that were given, that there is no room for. What was sampled stays as it was sampled.
    """

    def __init__(
        self, conversation: Mapping[str, Any], tokenizer: Tokenizer, *, budget: int, max_hops: int,
        max_query_tokens: int, number: int = 0,
    ) -> None:
        """budget: tokens of documents, questions and queries, room for the answer not counted; number: of the row, its
        source of chance. Raises ConversationError, and UserError where the question alone exceeds the budget.
        """
        self.number = number
        self.hops: list[dict[str, Any]] = []  # hop, query, documents as they were shown, ids where they matter
        self.ids: list[int] = []
        self.mask: list[int] = []
        self.logprobs: list[float] = []  # of sampled ids, 0.0 elsewhere
        self.documents: list[dict[str, Any]] = []  # shown, in slot order, whole where their end was not shown
        self.trimmed: list[int] = []  # slots of documents that lost their end
        self.dropped = 0  # documents found and dropped, or trimmed, for want of room or slots
        self.search_probabilities: list[float] = []  # at every decision
        self.num_repeated = 0  # searches for what had been asked before
        self.is_forced = False  # nobody decided that the search ends
        # of each slot: its place among all documents of the conversation, of which earlier turns may have lost some
        self._positions: list[int] = []
        self._num_given = 0
        self._tokenizer, self._budget = tokenizer, budget
        self._max_hops, self._max_query_tokens = max_hops, max_query_tokens
        self._before, self._user, given = _parts(conversation)
        self.question = self._user["content"].strip()
        self._fixed = len(render(self._conversation([]), tokenizer, max_tokens=0).ids) + 1
        if self._fixed > budget:
            raise UserError(f"The question is too long: {self._fixed} tokens without documents, and this model has "
                            f"room for {budget} beside the answer",
                            hint="ask a shorter question, or start a new conversation")
        # what every later hop may count on: the first one does not take all the room
        self._share = (budget - self._fixed) // (max_hops + 1)
        if given:
            self._begin(given)

    @property
    def may_search(self) -> bool:
        """Whether there is another hop, a slot, and room for a query and something to be found."""
        needed = _NUM_MARKS + 2 * self._max_query_tokens + 1 + MIN_TRIMMED_TOKENS
        has_room = len(self.ids) + needed <= self._budget
        return len(self.hops) < self._max_hops and len(self.documents) < NUM_DOC_SLOTS and has_room

    def has_asked(self, query: str) -> bool:
        """Whether an earlier hop searched for the same, up to case, white space and the marks at its end."""
        return _normal(query) in map(_normal, (hop["query"] for hop in self.hops))

    def add_first(self, found: Sequence[Mapping[str, Any]]) -> None:
        """The hop that searched for the question itself."""
        shown, is_trimmed = self._fit(found, self._room(1) - self._fixed - 2)
        self._begin([{"hop": 1, "query": self.question, "documents": shown}])
        if is_trimmed and self.documents and self.documents[-1] == shown[-1]:
            self._trim(found[len(shown) - 1])

    def add(self, query_ids: Sequence[int], found: Sequence[Mapping[str, Any]], logprobs: Sequence[float]) -> None:
        """A hop whose query the model wrote.

        query_ids: what stands between query_start and query_end; logprobs: of these and of both marks.
        """
        slots, query_ids = self._cited(query_ids)
        query = self._tokenizer.decode(query_ids).strip()
        hop: dict[str, Any] = {"hop": len(self.hops) + 1, "query": query, "documents": []}
        written = {"citations": slots} if slots else {}
        if tuple(query_ids) != text_ids(query, self._tokenizer):
            hop["ids"] = list(query_ids)
        empty, _ = render_hop(hop | written, self._tokenizer, first_slot=len(self.documents))
        room = self._room(hop["hop"]) - len(self.ids) - len(empty) - 1
        self.num_repeated += self.has_asked(query)
        hop["documents"], is_trimmed = self._fit(found, room)
        ids, mask = render_hop(hop | written, self._tokenizer, first_slot=len(self.documents))
        hop |= {"citations": [self._positions[slot] for slot in slots]} if slots else {}
        self.ids += ids
        self.mask += mask
        self.logprobs += [*logprobs, *([0.0] * (len(ids) - len(logprobs)))]
        self._show(hop["documents"])
        self.hops.append(hop)
        if is_trimmed:
            self._trim(found[len(hop["documents"]) - 1])

    def _cited(self, query_ids: Sequence[int]) -> tuple[list[int], Sequence[int]]:
        """The slot that a query begins with, if it does, and its text."""
        if query_ids and query_ids[0] == self._tokenizer.special("cite"):
            slot = self._tokenizer.doc_index(query_ids[1])
            assert slot is not None, "the grammar of actions lets a slot follow cite"
            return [slot], query_ids[2:]
        return [], query_ids

    def new_documents(self, found: Sequence[Mapping[str, Any]], top_k: int) -> list[Mapping[str, Any]]:
        """The best top_k of a ranking that were not shown before."""
        shown = {document["id"] for document in self.documents}
        new = {document["id"]: document for document in reversed(found) if document["id"] not in shown}
        return [document for document in found if new.pop(document["id"], None) is not None][:top_k]

    def prompt(self) -> Rendered:
        """What the answer follows from."""
        return Rendered(
            ids=[*self.ids, self._tokenizer.special("assistant_start")], mask=[*self.mask, int(not self.is_forced)],
            documents=list(self.documents), dropped=self.dropped, lost_citations=0, trimmed=tuple(self.trimmed))

    def conversation(self, answer: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The messages, with an answer as an assistant message."""
        return self._conversation(self.hops, *([answer] if answer else []))

    def _conversation(self, hops: Sequence[Mapping[str, Any]], *behind: Mapping[str, Any]) -> dict[str, Any]:
        search = [{"role": "retrieval", "multi_hop": True, "hops": list(hops)}] if hops else []
        return {"messages": [*self._before, *search, self._user, *behind]}

    def _begin(self, hops: Sequence[Mapping[str, Any]]) -> None:
        rendered = render(self._conversation(hops), self._tokenizer, max_tokens=self._room(len(hops)) - 1)
        self.ids, self.mask = rendered.ids, rendered.mask
        self.logprobs = [0.0] * len(rendered.ids)
        self.documents, self._positions = rendered.documents, list(rendered.positions)
        self._num_given = sum(len(found["documents"]) for message in self._conversation(hops)["messages"]
                              for found in message.get("hops", [message] if "documents" in message else []))
        self.dropped += rendered.dropped
        self.trimmed += rendered.trimmed
        self.hops = [dict(hop) for hop in hops]

    def _room(self, num_hops: int) -> int:
        """Tokens that so many hops may take, with all that stands before them."""
        return self._budget - self._share * max(0, self._max_hops - num_hops)

    def _fit(self, found: Sequence[Mapping[str, Any]], room: int) -> tuple[list[dict[str, Any]], bool]:
        """The best documents that fit into so many tokens, and whether the last of them lost its end."""
        shown: list[dict[str, Any]] = []
        is_trimmed = False
        for document in found[: NUM_DOC_SLOTS - len(self.documents)]:
            cost = 1 + len(document_ids(document, self._tokenizer)[0])
            is_trimmed = cost > room
            fitting = shortened(document, room - 1, self._tokenizer) if is_trimmed else dict(document)
            if fitting is not None:
                shown.append(fitting)
            if is_trimmed:
                is_trimmed = fitting is not None
                break
            room -= cost
        self.dropped += len(found) - len(shown) + is_trimmed
        return shown, is_trimmed

    def _show(self, documents: Sequence[dict[str, Any]]) -> None:
        self.documents += documents
        self._positions += range(self._num_given, self._num_given + len(documents))
        self._num_given += len(documents)

    def _trim(self, whole: Mapping[str, Any]) -> None:
        """The last document was shown without its end."""
        self.documents[-1] = dict(whole)
        self.trimmed.append(len(self.documents) - 1)


def shortened(document: Mapping[str, Any], num_tokens: int, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """A document whose content was cut so that it has at most so many tokens; None where that says nothing.

    The text is cut, and not its ids, so that a stored conversation says what was shown.
    """
    if num_tokens < MIN_TRIMMED_TOKENS:
        return None
    ids, mark_at = document_ids(document, tokenizer)
    content = document["content"].strip()
    for end in range(num_tokens, mark_at + 1, -1):
        shown = tokenizer.decode(ids[mark_at + 1 : end]).strip()
        # a character that lost some of its bytes differs
        cut = {**document, "content": os.path.commonprefix([shown, content]).strip()}
        if cut["content"] and len(document_ids(cut, tokenizer)[0]) <= num_tokens:
            return cut
    return None


def _parts(
    conversation: Mapping[str, Any],
) -> tuple[list[Mapping[str, Any]], Mapping[str, Any], list[Mapping[str, Any]]]:
    """Messages before the last turn, its question, and the hops it was given; a last answer is left out."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else None
    if isinstance(messages, (list, tuple)):
        # no hops yet is legal here: the first one is about to be made
        messages = [message for message in messages if not _is_unsearched(message)]
        conversation = {**conversation, "messages": messages}
    check_conversation(conversation)
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    start = max((place + 1 for place, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    turn = {message["role"]: message for message in messages[start:]}
    before = [*messages[:start], *([turn["system"]] if "system" in turn else [])]
    return before, turn["user"], list(_hops(turn.get("retrieval"), turn["user"]["content"]))


def _is_unsearched(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "retrieval" and bool(
        message.get("multi_hop")) and message.get("hops") in ([], (), None)


def _hops(message: Mapping[str, Any] | None, question: str) -> Iterator[Mapping[str, Any]]:
    if message is None:
        return
    if message.get("multi_hop"):
        yield from message["hops"]
    else:
        # what was found for a question, without saying so
        yield {"hop": 1, "query": question, "documents": message["documents"]}


def _normal(query: str) -> str:
    return " ".join(query.casefold().split()).rstrip(_END_MARKS)
