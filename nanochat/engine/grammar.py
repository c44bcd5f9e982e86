"""What an answer may look like, token by token: an honest abstention, or citations and what the cited documents say.

    answer = abstain end
           | (cite doc)* text text* end        with at least one citation when documents were shown and must_cite

A cited slot is one of a document that was shown, and each is cited once, so citations always resolve. The text is never
white space alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer

# states of a row
START, CITE, CITED, BLANK, TEXT, ABSTAINED, FINISHED = range(7)
# kinds of tokens
IS_OTHER, IS_TEXT, IS_SPACE, IS_ABSTAIN, IS_CITE, IS_DOC, IS_END = range(7)

# state -> kind -> next state; what is missing is forbidden
STEPS: dict[int, dict[int, int]] = {
    START: {IS_TEXT: TEXT, IS_SPACE: BLANK, IS_ABSTAIN: ABSTAINED, IS_CITE: CITE},
    CITE: {IS_DOC: CITED},
    CITED: {IS_CITE: CITE, IS_TEXT: TEXT, IS_SPACE: BLANK},
    BLANK: {IS_TEXT: TEXT, IS_SPACE: BLANK},
    TEXT: {IS_TEXT: TEXT, IS_SPACE: TEXT, IS_END: FINISHED},
    ABSTAINED: {IS_END: FINISHED},
    FINISHED: {},
}


class AnswerGrammar:
    """The grammar over one tokenizer's ids; begin() follows a batch of rows through it.

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
        next_state = torch.full((len(STEPS), IS_END + 1), -1)
        for state, step in STEPS.items():
            for kind, following in step.items():
                next_state[state, kind] = following
        self.is_text = ((kinds == IS_TEXT) | (kinds == IS_SPACE)).to(device)  # (V,)
        self.docs = torch.tensor(docs, device=device)  # (S,)
        self.next_state = next_state[:, kinds].to(device)  # (states, V), -1 where forbidden
        self.device = self.docs.device

    def begin(self, num_documents: Sequence[int], *, searched: Sequence[bool] | None = None) -> "AnswerRows":
        """Rows about to start an answer; num_documents: how many each was shown, in slots 0 ... n-1.

        searched: whether results were given, if only empty ones; by default where documents are shown. With must_cite a
        row that was searched for and shown nothing can only abstain.
        """
        return AnswerRows(self, num_documents, [n > 0 for n in num_documents] if searched is None else searched)


class AnswerRows:
    """Where each row of a batch stands in its answer: the session's rule."""

    def __init__(self, grammar: AnswerGrammar, num_documents: Sequence[int], searched: Sequence[bool]) -> None:
        self._grammar = grammar
        counts = torch.tensor(list(num_documents), dtype=torch.long, device=grammar.device)
        self._states = torch.full_like(counts, START)  # (B,)
        self._open = torch.arange(NUM_DOC_SLOTS, device=grammar.device) < counts[:, None]  # (B, S) shown, not yet cited
        self._owes_citation = torch.tensor(list(searched), device=grammar.device) & grammar.must_cite

    def allowed(self, rows: Sequence[int]) -> Tensor:
        """(len(rows), V) bool: which ids may come next in each row."""
        grammar, index = self._grammar, torch.tensor(rows, device=self._grammar.device)
        states, open_slots = self._states[index], self._open[index]
        allowed = grammar.next_state[states] >= 0
        allowed[:, grammar.cite] &= open_slots.any(dim=-1)
        allowed[:, grammar.docs] &= open_slots
        uncited = (states == START) & self._owes_citation[index]
        allowed &= ~(uncited[:, None] & grammar.is_text)
        return allowed

    def advance(self, rows: Sequence[int], ids: Tensor) -> None:
        """Take note of the ids (len(rows),) that were appended to rows."""
        grammar, index = self._grammar, torch.tensor(rows, device=self._grammar.device)
        states = grammar.next_state[self._states[index], ids]
        assert bool((states >= 0).all()), f"ids {ids.tolist()} are not allowed by the answer grammar"
        self._states[index] = states
        self._open[index] &= grammar.docs != ids[:, None]


def _kind(tokenizer: Tokenizer, id: int) -> int:
    if id >= tokenizer.vocab_size or tokenizer.is_reserved(id):
        return IS_OTHER
    return IS_TEXT if tokenizer.decode([id]).strip() else IS_SPACE
