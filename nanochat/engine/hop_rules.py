"""What a model may do between hops: search once more with words of its own, or begin its answer.

    action = query_start citation? text text* query_end
           | assistant_start
    citation = cite doc_i

A query is ordinary text with something to see in it and has at most max_query_tokens ids, so nothing that stands in a
document or a query can act. It may first cite the shown document that it follows from: tiny models write names better
once they have chosen where to read them.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nanochat.engine.grammar import CITE, IS_SPACE, IS_TEXT, AnswerGrammar, AnswerRule
from nanochat.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class HopGrammar:
    """The grammar over one tokenizer's ids: begin_row() follows one action, `answers` the answer behind it."""

    def __init__(self, answers: AnswerGrammar, tokenizer: Tokenizer) -> None:
        self.answers, self.tokenizer = answers, tokenizer
        self.query_start, self.query_end, self.assistant_start = (
            tokenizer.special(name) for name in ("query_start", "query_end", "assistant_start"))
        self.is_text = bytes(kind in (IS_TEXT, IS_SPACE) for kind in answers.kinds)  # (V,)
        # ids that show something, whatever stands before them
        self.is_seen = bytes(kind == IS_TEXT and is_visible(tokenizer.decode([id]))
                             for id, kind in enumerate(answers.kinds))
        # one tensor per place, so that rows in the same place share it
        self.actions = self._only(self.query_start, self.assistant_start)
        self.end = self._only(self.query_end)
        self.text, self.seen = (torch.tensor(list(table), dtype=torch.bool, device=answers.device)
                                for table in (self.is_text, self.is_seen))
        self.text_or_end = self.text | self.end
        # before the first id of a query's text
        self.text_or_cite, self.seen_or_cite = (table | self._only(answers.cite) for table in (self.text, self.seen))
        self.anything = torch.ones_like(self.text)

    def begin_row(self, max_query_tokens: int, num_documents: int = 0) -> "HopRule":
        """The rule of a row that is about to act; num_documents: how many it was shown, in slots 0 ... n-1."""
        return HopRule(self, max_query_tokens, num_documents)

    def _only(self, *ids: int) -> Tensor:
        mask = torch.zeros(len(self.answers.kinds), dtype=torch.bool)
        mask[list(ids)] = True
        return mask.to(self.answers.device)


class HopRule:
    """Where one row stands in its action."""

    __slots__ = ("_grammar", "_has_seen", "_is_over", "_is_slot", "_max", "_may_cite", "_num_documents", "_query")

    def __init__(self, grammar: HopGrammar, max_query_tokens: int, num_documents: int) -> None:
        self._grammar, self._max, self._num_documents = grammar, max_query_tokens, num_documents
        self._query: list[int] | None = None  # ids of the query's text so far
        self._may_cite = num_documents > 0  # nothing of the query stands there yet
        self._is_slot = False  # a slot comes next
        self._has_seen = self._is_over = False

    def allowed(self) -> Tensor:
        """(V,) bool, as RowRule says."""
        grammar = self._grammar
        if self._query is None:
            return grammar.actions
        if self._is_slot:
            return grammar.answers.mask(CITE, frozenset(range(self._num_documents)), owes_citation=False)
        if self._has_seen:
            return grammar.text_or_end if len(self._query) < self._max and not self._is_over else grammar.end
        if len(self._query) < self._max - 1:
            return grammar.text_or_cite if self._may_cite else grammar.text
        return grammar.seen_or_cite if self._may_cite else grammar.seen

    def permits(self, id: int) -> bool:
        """Whether an id may come next, without a look at the mask, which may lie on another device."""
        grammar = self._grammar
        if self._query is None:
            return id in (grammar.query_start, grammar.assistant_start)
        if self._is_slot:
            return grammar.answers.slots.get(id, self._num_documents) < self._num_documents
        if id == grammar.answers.cite:
            return self._may_cite and not self._is_over
        if id == grammar.query_end:
            return self._has_seen
        if self._is_over or len(self._query) >= self._max:
            return False
        return bool(grammar.is_text[id] if self._has_seen or len(self._query) < self._max - 1 else grammar.is_seen[id])

    def advance(self, id: int) -> None:
        """Take note of the id that was appended."""
        assert self.permits(id), f"id {id} is not allowed by the grammar of actions"
        if self._query is None:
            self._query = []
            self._has_seen = self._is_over = id == self._grammar.assistant_start
            return
        is_slot, self._is_slot = self._is_slot, id == self._grammar.answers.cite
        self._may_cite = False
        if self._is_slot or is_slot:
            return
        if id == self._grammar.query_end:
            self._is_over = True
        else:
            self._query.append(id)
            self._has_seen = self._has_seen or is_visible(self._grammar.tokenizer.decode(self._query))

    def fork(self) -> "HopRule":
        """A copy that goes its own way."""
        other = HopRule(self._grammar, self._max, self._num_documents)
        other._may_cite, other._is_slot = self._may_cite, self._is_slot
        other._query = None if self._query is None else list(self._query)
        other._has_seen, other._is_over = self._has_seen, self._is_over
        return other


def is_visible(text: str) -> bool:
    """Whether a text shows something: a character other than white space and what stands for broken bytes."""
    return bool(text.replace(REPLACEMENT, "").strip())


def walk(
    grammar: HopGrammar, ids: Sequence[int], mask: Sequence[int], max_query_tokens: int
) -> Iterator[tuple[int, Tensor]]:
    """(place, (V,) bool) for every place of a trace with mask 1: what the grammar allowed there; places rise.

    ids and mask are those of an episode, or of any rendered conversation. Equal places of the grammar give the same
    tensor, except where a document is chosen. From where on a piece (an action, an answer) leaves the grammar, as a
    query longer than max_query_tokens does, everything is allowed to its end.
    """
    special = grammar.tokenizer.special
    ends = (grammar.query_end, special("assistant_end"))
    rule: HopRule | AnswerRule | None = None
    num_documents, is_searched = 0, False
    for place, id in enumerate(ids):
        if id in (grammar.query_start, grammar.assistant_start):
            rule = grammar.begin_row(max_query_tokens, num_documents)
        elif id == special("results_start"):
            is_searched = True
        elif rule is None and (slot := grammar.tokenizer.doc_index(id)) is not None:
            # outside of answers a document's own mark
            num_documents = max(num_documents, slot + 1)
        allowed = grammar.anything if rule is None else rule.allowed()
        if mask[place]:
            yield place, allowed
        if id == grammar.assistant_start:
            rule = grammar.answers.begin_row(num_documents, searched=is_searched)
        elif rule is not None and id not in ends and rule.permits(id):
            rule.advance(id)
        elif rule is not None:
            rule = None
