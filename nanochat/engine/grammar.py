"""What an answer may look like, token by token: an honest abstention, or citations and what the cited documents say.

    answer = abstain end
           | cite doc abstain end         the document comes closest, and does not say what was asked
           | (cite doc)* text text* end        with at least one citation when documents were shown and must_cite

A cited slot is one of a document that was shown, and each is cited once, so citations always resolve. The text is never
white space alone.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.engine.rules import RuleRows
from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer

# states of a row
START, CITE, CITED, BLANK, TEXT, ABSTAINED, FINISHED, NEXT_CITE, ALL_CITED = range(9)
# kinds of tokens
IS_OTHER, IS_TEXT, IS_SPACE, IS_ABSTAIN, IS_CITE, IS_DOC, IS_END = range(7)

# state -> kind -> next state; what is missing is forbidden
STEPS: dict[int, dict[int, int]] = {
    START: {IS_TEXT: TEXT, IS_SPACE: BLANK, IS_ABSTAIN: ABSTAINED, IS_CITE: CITE},
    CITE: {IS_DOC: CITED},
    CITED: {IS_CITE: NEXT_CITE, IS_TEXT: TEXT, IS_SPACE: BLANK, IS_ABSTAIN: ABSTAINED},
    NEXT_CITE: {IS_DOC: ALL_CITED},
    ALL_CITED: {IS_CITE: NEXT_CITE, IS_TEXT: TEXT, IS_SPACE: BLANK},
    BLANK: {IS_TEXT: TEXT, IS_SPACE: BLANK},
    TEXT: {IS_TEXT: TEXT, IS_SPACE: TEXT, IS_END: FINISHED},
    ABSTAINED: {IS_END: FINISHED},
    FINISHED: {},
}


class AnswerGrammar:
    """The grammar over one tokenizer's ids; begin_row() follows one answer through it, begin() a batch of them.

    num_ids: width of the model's logits, which may exceed the tokenizer's vocabulary; ids beyond it are forbidden.
    must_cite: a row that was shown documents begins its answer with a citation, or abstains.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, num_ids: int, must_cite: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        self.must_cite = must_cite
        self.cite, self.end = tokenizer.special("cite"), tokenizer.special("assistant_end")
        docs = [tokenizer.doc(slot) for slot in range(NUM_DOC_SLOTS)]
        kinds = torch.tensor([_kind(tokenizer, id) for id in range(num_ids)])
        kinds[docs], kinds[tokenizer.special("abstain")] = IS_DOC, IS_ABSTAIN
        kinds[self.cite], kinds[self.end] = IS_CITE, IS_END
        self.kinds = bytes(kinds.tolist())  # (V,) kind of each id
        self.slots = {id: slot for slot, id in enumerate(docs)}
        self.docs = torch.tensor(docs)  # (S,)
        # masks by kind of what is allowed; the only others are those of single slots
        self._masks = {
            allowed: torch.isin(kinds, torch.tensor(allowed, dtype=kinds.dtype)).to(device)
            for allowed in {_allowed_kinds(state, owes, is_open) for state in STEPS for owes in (False, True)
                            for is_open in (False, True)}
        }
        self.text = torch.isin(kinds, torch.tensor([IS_TEXT, IS_SPACE], dtype=kinds.dtype)).to(device)  # (V,) bool
        self.device = torch.device(device)

    def begin_row(self, num_documents: int, *, searched: bool | None = None) -> "AnswerRule":
        """The rule of a row about to start an answer; num_documents: how many it was shown, in slots 0 ... n-1.

        searched: whether results were given, if only empty ones; by default where documents are shown. With must_cite a
        row that was searched for and shown nothing can only abstain.
        """
        searched = num_documents > 0 if searched is None else searched
        return AnswerRule(self, START, frozenset(range(num_documents)), searched and self.must_cite)

    def begin(self, num_documents: Sequence[int], *, searched: Sequence[bool] | None = None) -> RuleRows:
        """begin_row() for all rows of a session: num_documents and searched per row."""
        known = [None] * len(num_documents) if searched is None else searched
        return RuleRows([self.begin_row(n, searched=s) for n, s in zip(num_documents, known, strict=True)])

    def mask(self, state: int, is_open: frozenset[int], owes_citation: bool) -> Tensor:
        """(V,) bool: which ids may come next."""
        if state in (CITE, NEXT_CITE):
            mask = torch.zeros(len(self.kinds), dtype=torch.bool)
            mask[self.docs[sorted(is_open)]] = True
            return mask.to(self.device)
        return self._masks[_allowed_kinds(state, owes_citation, bool(is_open))]


class AnswerRule:
    """Where one row stands in its answer."""

    __slots__ = ("_grammar", "_is_open", "_owes_citation", "_state")

    def __init__(self, grammar: AnswerGrammar, state: int, is_open: frozenset[int], owes_citation: bool) -> None:
        self._grammar, self._state = grammar, state
        self._is_open = is_open  # slots shown and not yet cited
        self._owes_citation = owes_citation

    def allowed(self) -> Tensor:
        """(V,) bool, as RowRule says."""
        return self._grammar.mask(self._state, self._is_open, self._owes_citation)

    @property
    def may_write(self) -> bool:
        """Whether text may come next."""
        return IS_TEXT in STEPS[self._state]

    def permits(self, id: int) -> bool:
        """Whether an id may come next, without a look at the mask, which may lie on another device."""
        kind = self._grammar.kinds[id]
        if self._state in (CITE, NEXT_CITE):
            return self._grammar.slots.get(id) in self._is_open
        return kind in _allowed_kinds(self._state, self._owes_citation, bool(self._is_open))

    def advance(self, id: int) -> None:
        """Take note of the id that was appended."""
        assert self.permits(id), f"id {id} is not allowed by the answer grammar"
        kind = self._grammar.kinds[id]
        self._state = STEPS[self._state][kind]
        if kind == IS_DOC:
            self._is_open -= {self._grammar.slots[id]}

    def fork(self) -> "AnswerRule":
        """A copy that goes its own way."""
        return AnswerRule(self._grammar, self._state, self._is_open, self._owes_citation)


@functools.cache
def _allowed_kinds(state: int, owes_citation: bool, is_open: bool) -> tuple[int, ...]:
    """Kinds of ids that may come, in a state, with or without a citation owed, with or without slots left to cite."""
    kinds = set(STEPS[state])
    if not is_open:
        kinds -= {IS_CITE}
    if state == START and owes_citation:
        kinds -= {IS_TEXT, IS_SPACE}
    return tuple(sorted(kinds))


def _kind(tokenizer: Tokenizer, id: int) -> int:
    if id >= tokenizer.vocab_size or tokenizer.is_reserved(id):
        return IS_OTHER
    return IS_TEXT if tokenizer.decode([id]).strip() else IS_SPACE
